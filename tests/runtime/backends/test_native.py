"""The CPU engine as a backend of the runtime, on a bundle of the smallest checkpoint."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.least_checkpoint import least_checkpoint
from support.native import built, recipe
from support.tiny_bundle import write_bundle

from clinreadnet import library as engine_library
from clinreadnet.errors import BackendUnavailable, CheckFailed, InputError, Untrusted
from clinreadnet.precision import CHECKPOINT_PRECISIONS
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.native import NativeBackend
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import (
    CHECKPOINT_NAME,
    Artifact,
    BatchRange,
    BuiltOn,
    Golden,
    Parity,
)
from clinreadnet.runtime.records import record_here, same_kind
from clinreadnet.runtime.verdict import Validity, native_verdict, this_machine
from clinreadnet.verify.record import record
from clinreadnet.verify.run import verify_golden

HU = np.random.default_rng(0).normal(40, 200, (3, 512, 512)).astype(np.int16)


def has_compiler() -> bool:
    try:
        recipe().find_compiler()
    except Exception:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package's backend call the library of these sources."""
    monkeypatch.setattr(engine_library, "LIBRARY", built())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle with a checkpoint alone. Its golden outputs are the engine's in float32."""
    return write(tmp_path / "bundle")


def write(folder: Path, offset: float = 0.0) -> Path:
    write_bundle(folder)
    manifest = load_manifest(folder)
    content = least_checkpoint()
    (folder / CHECKPOINT_NAME).write_bytes(content)
    backend = NativeBackend(content, precision="fp32")
    outputs = dict(backend.run(HU[:, None]))
    backend.close()
    outputs["score"] = outputs["score"] + offset
    buffer = io.BytesIO()
    np.savez(buffer, hu=HU, label=np.full(3, np.nan, np.float32), **outputs)
    (folder / "golden.npz").write_bytes(buffer.getvalue())
    entry = Artifact(
        CHECKPOINT_NAME,
        "checkpoint",
        "fp32",
        digest(content),
        len(content),
        BatchRange(1, 2, 4),
        {},
        BuiltOn("test"),
        parity=Parity("passed"),
    )
    write_manifest(
        replace(
            manifest,
            model=replace(manifest.model, preset="small", weights_sha256=digest(content)),
            artifacts=tuple(replace(entry, precision=p) for p in CHECKPOINT_PRECISIONS),
            golden=Golden("golden.npz", digest(buffer.getvalue()), len(buffer.getvalue()), 3),
        ),
        folder,
    )
    return folder


def test_it_runs_a_bundle_that_holds_a_checkpoint_alone(bundle: Path) -> None:
    with Session(bundle) as session:
        described = session.describe()
        scores = session.score(HU)
    assert (session.backend, session.artifact.precision) == ("native", "fp32")
    assert described["backend_notes"] == [f"instructions {engine_library.instructions()}"]
    assert described["self_test_slices"] == 3  # nobody has verified it here
    golden = np.load(bundle / "golden.npz")
    np.testing.assert_array_equal(scores.score, golden["score"])
    with Session(bundle, precision="int8", batch=2, threads=1) as session:
        assert session.artifact.precision == "int8"
        np.testing.assert_allclose(session.score(HU).score, golden["score"], atol=0.1)


def test_more_threads_than_processors_are_the_processors(bundle: Path) -> None:
    """Another backend, which takes any number, is slower with as many."""
    with Session(bundle, threads=64) as session:
        assert session.backend == "native"
        session.score(HU)


def test_a_record_of_these_instructions_counts_on_every_processor(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    report = verify_golden(bundle, manifest)
    assert [a.parity.status for a in report.artifacts if a.parity] == ["passed", "passed"]
    assert "2 results recorded" in record(report, manifest)
    artifact = load_manifest(bundle).artifacts[0]
    machine = this_machine(engine_library.engine_version())
    parity = record_here(artifact, "native", replace(machine, processor="another"))
    assert parity is not None and parity.ran_on is not None
    assert record_here(artifact, "native", replace(machine, version="test sse9")) is None
    elsewhere = replace(parity.ran_on, processor="another", backend="openvino")
    assert not same_kind(elsewhere, replace(parity.ran_on, backend="openvino"))
    with Session(bundle) as session:
        assert session.describe()["self_test_slices"] == 1
        assert session.describe()["verified_here"] == parity.ran_on.date


def test_wrong_golden_outputs_fail_the_self_test(tmp_path: Path) -> None:
    wrong = write(tmp_path / "bundle", offset=0.1)
    with pytest.raises(CheckFailed, match="clinreadnet.safetensors: self-test failed on native"):
        Session(wrong, "native")


def test_another_file_is_not_loaded(bundle: Path) -> None:
    path = bundle / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Untrusted, match="SHA-256 differs"):
        Session(bundle, "native")


def test_without_the_library_the_session_says_how_to_get_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_library, "LIBRARY", tmp_path / "none.so")
    assert engine_library.engine_version() is None
    with pytest.raises(BackendUnavailable, match="the CPU engine was not compiled here; install g"):
        Session(bundle, "native")
    report = verify_golden(bundle, load_manifest(bundle))
    assert not report.passed
    for artifact in report.artifacts:
        assert artifact.parity is not None and artifact.parity.status == "not run here"
        assert artifact.parity.reason is not None
        assert artifact.parity.reason.startswith("needs the compiled CPU engine")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="edits the header of an ELF file")
def test_a_library_for_another_processor_is_not_reported_as_missing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel of one processor is unpacked on another."""
    content = bytearray(engine_library.LIBRARY.read_bytes())
    other = 183 if int.from_bytes(content[18:20], "little") != 183 else 62  # arm64, x86-64
    content[18:20] = other.to_bytes(2, "little")
    (tmp_path / "other.so").write_bytes(content)
    monkeypatch.setattr(engine_library, "LIBRARY", tmp_path / "other.so")
    with pytest.raises(BackendUnavailable, match="does not load; it may be for another processor"):
        Session(bundle, "native")
    assert engine_library.engine_version() is None


def test_missing_instructions_are_not_reported_as_a_missing_library(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine_library.INSTRUCTIONS_VARIABLE, "sse9")
    assert engine_library.engine_version() is None
    assert engine_library.remedy() == "unset CLINREADNET_INSTRUCTIONS"
    wanted = "here .native: CLINREADNET_INSTRUCTIONS=sse9: .*; unset it; nothing in it for tensorrt"
    with pytest.raises(BackendUnavailable, match=wanted):
        Session(bundle)


def test_fastest_tries_both_precisions_within_a_budget(bundle: Path) -> None:
    with Session(bundle, "native", fastest=True, budget=0.05) as session:
        tried = {session.artifact.precision, *(t.split()[-1] for t in session.refused)}
        assert tried == {"fp32", "int8"}
    with Session(bundle, "native", fastest=True, budget=1e-5) as session:
        assert session.artifact.precision == "fp32"


def test_it_runs_on_no_gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinreadnet.runtime.session.check_device", lambda device: None)
    with pytest.raises(InputError, match="device=1: native runs on no GPU"):
        Session(bundle, "native", device=1)


def test_the_verdict_names_instructions_without_fast_products(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32, int8 = load_manifest(bundle).artifacts
    machine = this_machine("test plain")
    assert native_verdict(fp32, machine, fast=False).validity == Validity.VALID
    assert native_verdict(int8, machine, fast=True).validity == Validity.VALID
    slow = native_verdict(int8, machine, fast=False)
    assert slow.validity == Validity.SUBOPTIMAL and "test plain" in slow.reason
    monkeypatch.setenv(engine_library.INSTRUCTIONS_VARIABLE, "plain")
    with Session(bundle, "native", "int8") as session:
        assert session.verdict.validity == Validity.SUBOPTIMAL
        assert session.describe()["backend_notes"] == ["instructions plain"]


def test_a_manifest_lists_a_checkpoint_once_for_each_precision(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    fp32, int8 = manifest.artifacts
    with pytest.raises(InputError, match="is listed twice"):
        write_manifest(replace(manifest, artifacts=(fp32, fp32)), bundle)
    with pytest.raises(InputError, match="a checkpoint runs in fp32, int8 alone"):
        write_manifest(replace(manifest, artifacts=(replace(int8, precision="bf16"),)), bundle)
    other = replace(fp32, sha256="0" * 64)
    with pytest.raises(InputError, match="differs from model.weights_sha256"):
        write_manifest(replace(manifest, artifacts=(other,)), bundle)
