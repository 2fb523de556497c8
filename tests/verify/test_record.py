"""`verify --record`: a record for each machine, and no invalid signature."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console
from support.fake_machine import Machine, start
from support.fake_tensorrt import Engine
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

import clinreadnet.verify.record as recording
from clinreadnet.cli import app
from clinreadnet.errors import ClinReadNetError, InputError, Untrusted
from clinreadnet.processor import cpu_name
from clinreadnet.runtime.backends import loading
from clinreadnet.runtime.bundle.files import load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import Parity
from clinreadnet.runtime.bundle.sign import sign_bundle
from clinreadnet.runtime.records import ran_on, record_here, record_verdict
from clinreadnet.runtime.verdict import Validity, this_machine
from clinreadnet.verify import backends
from clinreadnet.verify.report import VerifyReport, local_table, print_report

pytestmark = pytest.mark.usefixtures("without_openvino")

ENGINE, FP32 = "clinreadnet.fp16.engine", "clinreadnet.fp32.onnx"
Keys = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return start(monkeypatch, "tensorrt-11", tmp_path / "machine")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def make(name: str) -> tuple[Path, Path]:
        private = Ed25519PrivateKey.generate()
        pem, raw = serialization.Encoding.PEM, serialization.NoEncryption()
        secret, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        secret.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, raw))
        public.write_bytes(
            private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        return secret, public

    return make


def verify(bundle: Path, *options: str) -> tuple[int, str, str]:
    """Return exit status, what was printed, and the error's line."""
    result = CliRunner().invoke(app, ["verify", str(bundle), *options])
    error = result.exception
    line = str(error) if isinstance(error, ClinReadNetError) else ""
    assert "\n" not in line
    return (error.exit_code if isinstance(error, ClinReadNetError) else 0), result.output, line


def records_of(bundle: Path, file: str) -> tuple[Parity, ...]:
    return load_manifest(bundle).artifact(file).records


def test_a_record_says_where_when_and_with_what(machine: Machine) -> None:
    bundle = machine.bundle(verifiable=True)
    status, printed, _ = verify(bundle, "--record")
    assert status == 0 and f"{bundle}: 2 results recorded\n" in printed
    (record,) = records_of(bundle, ENGINE)
    ran = record.ran_on
    assert record.status == "passed" and record.details["batches"] == [1, 4, 5, 8]
    assert ran is not None and ran.date > "2026-01-31T12:00:00Z"
    assert (ran.gpu, ran.driver, ran.backend) == ("Fake GPU", "580.65.06", "tensorrt")
    assert ran.libraries["tensorrt"] == machine.fake.version
    (graph,) = records_of(bundle, FP32)
    assert graph.ran_on is not None and graph.ran_on.hardware == cpu_name()
    assert "onnxruntime" in graph.ran_on.libraries and graph.ran_on.gpu is None
    raw = json.loads((bundle / "manifest.json").read_text())
    schema = Path(recording.__file__).parents[1] / "runtime/bundle/manifest.schema.json"
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(raw)
    assert (raw["schema_version"], raw["verified"]) == (1, True)


def test_verify_alone_writes_nothing(machine: Machine) -> None:
    bundle = machine.bundle(verifiable=True)
    before = (bundle / "manifest.json").read_bytes()
    assert verify(bundle)[0] == 0
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_second_record_of_a_machine_replaces_its_first(machine: Machine) -> None:
    bundle = machine.bundle(verifiable=True)
    for version in ("11.4.0.9", "11.4.0.9"):
        machine.fake.version = version
        assert verify(bundle, "--record")[0] == 0
    assert len(records_of(bundle, ENGINE)) == 1
    manifest = load_manifest(bundle)
    (record,) = records_of(bundle, ENGINE)
    assert record.ran_on is not None
    older = dataclasses.replace(
        record, ran_on=dataclasses.replace(record.ran_on, libraries={"tensorrt": "11.3.0"})
    )
    engine = dataclasses.replace(manifest.artifact(ENGINE), records=(older,))
    others = tuple(a for a in manifest.artifacts if a.file != ENGINE)
    write_manifest(dataclasses.replace(manifest, artifacts=(*others, engine)), bundle)
    assert verify(bundle, "--record")[0] == 0
    assert len(records_of(bundle, ENGINE)) == 2  # another release of the library


def test_the_maker_of_a_bundle_records_in_its_parity(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", verifiable=True)
    assert verify(bundle, "--record")[0] == 0
    assert len(records_of(bundle, FP32)) == 1
    manifest = load_manifest(bundle)
    own = (dataclasses.replace(a, parity=a.records[0], records=()) for a in manifest.artifacts)
    write_manifest(dataclasses.replace(manifest, artifacts=tuple(own)), bundle)
    assert verify(bundle, "--record")[0] == 0
    assert len(records_of(bundle, FP32)) == 0


def test_a_record_of_another_gpu_does_not_count_and_is_reported(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = machine.bundle(verifiable=True)
    assert verify(bundle, "--record")[0] == 0
    monkeypatch.setattr("support.fake_pycuda.NAME", b"Other GPU")
    machine.gpu.target = "sm120"
    engine = load_manifest(bundle).artifact(ENGINE)
    present = dataclasses.replace(this_machine(machine.fake.version))
    assert present.gpu == "Other GPU" and record_here(engine, "tensorrt", present) is None
    status, printed, _ = verify(bundle, "--json")
    (entry,) = [a for a in json.loads(printed)["artifacts"] if a["file"] == ENGINE]
    assert status == 0 and entry["status"] == "not run here"
    assert "built for sm89, this GPU is sm120" in entry["reason"]
    assert "; passed on Fake GPU, another GPU, 20" in entry["reason"]


def test_what_fails_here_is_recorded_and_refused_here_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = machine.bundle(Engine(offset=0.5, first_wrong=6), verifiable=True)
    status, _, line = verify(bundle, "--record")
    assert status == 1 and line.endswith("verification failed")
    engine = load_manifest(bundle).artifact(ENGINE)
    assert [record.status for record in engine.records] == ["failed"]
    assert load_manifest(bundle).verified  # other machines may load the other artifacts
    present = this_machine(machine.fake.version)
    refused = record_verdict(engine, "tensorrt", present)
    assert refused.validity == Validity.INVALID
    assert "failed `clinreadnet verify` on Fake GPU, 20" in refused.reason
    # Verified again, it is not refused for what is recorded.
    assert verify(bundle, "--record")[0] == 1
    monkeypatch.setattr("support.fake_pycuda.NAME", b"Other GPU")
    other = this_machine(machine.fake.version)
    assert record_verdict(engine, "tensorrt", other).validity == Validity.VALID


def test_a_damaged_bundle_gets_no_record(machine: Machine) -> None:
    bundle = machine.bundle(verifiable=True)
    (bundle / FP32).write_bytes(b"x" * load_manifest(bundle).artifact(FP32).size)
    before = (bundle / "manifest.json").read_bytes()
    status, _, line = verify(bundle, "--record")
    assert status == 1 and "nothing is recorded, because a file did not load" in line
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_manifest_that_changed_meanwhile_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle(tmp_path / "b", verifiable=True)
    changed = load_manifest(bundle)
    changed = dataclasses.replace(changed, created="2027-01-31T12:00:00Z")
    monkeypatch.setattr(recording, "load_manifest", lambda folder: changed)
    status, _, line = verify(bundle, "--record")
    assert status == 2 and "was changed while the bundle was verified; run it again" in line
    assert records_of(bundle, FP32) == ()


def test_a_key_renews_the_signature(tmp_path: Path, keys: Keys) -> None:
    secret, public = keys("vendor")
    bundle = write_bundle(tmp_path / "b", verifiable=True)
    sign_bundle(bundle, secret)
    status, printed, _ = verify(bundle, "--record", "--key", str(secret))
    assert status == 0 and "1 result recorded, and signed again" in printed
    assert len(load_manifest(bundle, [public]).artifact(FP32).records) == 1


def test_without_a_key_the_bundle_is_unsigned_and_says_so(tmp_path: Path, keys: Keys) -> None:
    secret, public = keys("vendor")
    bundle = write_bundle(tmp_path / "b", verifiable=True)
    sign_bundle(bundle, secret)
    status, printed, _ = verify(bundle, "--record")
    assert status == 0 and f"unsigned now: run `clinreadnet sign {bundle} --key KEY`" in printed
    assert not (bundle / "manifest.sig").exists()
    with pytest.raises(Untrusted, match="not signed"):
        load_manifest(bundle, [public])


def test_another_key_does_not_sign_what_is_signed(tmp_path: Path, keys: Keys) -> None:
    (vendor, _), (other, _) = keys("vendor"), keys("other")
    bundle = write_bundle(tmp_path / "b", verifiable=True)
    sign_bundle(bundle, vendor)
    before = {path: path.read_bytes() for path in bundle.iterdir()}
    status, _, line = verify(bundle, "--record", "--key", str(other))
    assert status == 2 and "not signed by a trusted key" in line
    assert {path: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_signature_is_gone_before_the_manifest_is_replaced(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment, a signature matches its manifest."""
    secret, public = keys("vendor")
    bundle = write_bundle(tmp_path / "b", verifiable=True)
    sign_bundle(bundle, secret)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording, "sign_bundle", full)
    with pytest.raises(OSError, match="No space"):
        CliRunner().invoke(
            app, ["verify", str(bundle), "--record", "--key", str(secret)], catch_exceptions=False
        )
    assert len(records_of(bundle, FP32)) == 1
    with pytest.raises(Untrusted, match="manifest.sig is missing"):
        load_manifest(bundle, [public])


def test_a_bundle_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    status, _, line = verify(bundle, "--record")
    assert status == 2 and "schema version 2 is newer" in line


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"ran_on": None}, r"artifacts\[0\].records\[0\]: must state where it ran"),
        ({"status": "not run here"}, r"artifacts\[0\].records\[0\]: must state where it ran"),
        ({"status": "fine"}, "status: Invalid enum value 'fine'"),
    ],
    ids=["nowhere", "not-run", "status"],
)
def test_a_broken_record_is_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    bundle = write_bundle(tmp_path / "b")
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["artifacts"][0]["records"] = [raw["artifacts"][0]["parity"] | record]
    (bundle / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=message):
        load_manifest(bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--record", "--data", "x"], "--record uses the golden slices"),
        (["--key", "k.pem"], "--key needs --record"),
    ],
    ids=["data", "key"],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], message: str) -> None:
    status, _, line = verify(tmp_path, *options)
    assert status == 2 and message in line


def test_a_key_that_cannot_sign_is_refused_before_the_work(tmp_path: Path, keys: Keys) -> None:
    _, public = keys("vendor")
    bundle = write_bundle(tmp_path / "b", verifiable=True)
    status, printed, line = verify(bundle, "--record", "--key", str(public))
    assert status == 2 and "not an unencrypted private key" in line and printed == ""


def test_a_graph_for_cpus_alone_is_not_run_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loading, "offers_cuda", lambda: True)
    monkeypatch.setattr(loading, "find_gpus", lambda: ["a GPU"])
    monkeypatch.setattr(loading.openvino, "installed_version", lambda: "2026.4.1")
    manifest = load_manifest(write_bundle(tmp_path / "bundle"))
    exact, half = manifest.artifacts
    dynamic = dataclasses.replace(half, precision="int8-dynamic")
    manifest = dataclasses.replace(manifest, artifacts=(exact, dynamic))
    assert backends.more_backends(manifest, exact) == ("onnxruntime-cuda", "openvino")
    assert backends.more_backends(manifest, dynamic) == ("openvino",)


def test_the_table_says_where_each_result_comes_from(tmp_path: Path) -> None:
    graph = load_manifest(write_bundle(tmp_path / "bundle")).artifacts[0]
    machine = this_machine("1.0")
    parities = [
        Parity("passed", ran_on=run, worst_tile_difference=0.0)
        for run in (
            ran_on("onnxruntime-cpu", machine),
            ran_on("openvino", machine),
            dataclasses.replace(ran_on("onnxruntime-cuda", machine), gpu="L4"),
        )
    ]
    graph = dataclasses.replace(graph, parity=parities[0], records=tuple(parities[1:]))
    labels = local_table([graph], Console(width=200)).columns[0].cells
    assert [str(label) for label in labels] == [
        "fp32.onnx",
        "fp32.onnx openvino",
        "fp32.onnx on the GPU",
    ]


def test_a_failure_names_the_backend_that_failed(tmp_path: Path) -> None:
    graph = load_manifest(write_bundle(tmp_path / "bundle")).artifacts[0]
    machine = this_machine("1.0")
    passed = Parity("passed", ran_on=ran_on("onnxruntime-cpu", machine))
    failed = Parity("failed", reason="too far off", ran_on=ran_on("openvino", machine))
    graph = dataclasses.replace(graph, parity=passed, records=(failed,))
    printed = io.StringIO()
    report = VerifyReport(tmp_path / "bundle", "golden", 1, (graph,))
    print_report(report, Console(width=200, file=printed))
    assert "failed clinreadnet.fp32.onnx openvino: too far off" in printed.getvalue()
