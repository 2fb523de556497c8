"""Verification: artifacts that pass, and all that must fail."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.export_models import disc
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import CHECKPOINT_NAME, BatchRange
from clinreadnet.verify.compare import METRICS, Evidence, compare
from clinreadnet.verify.reference import GoldenSlices
from clinreadnet.verify.run import verify_folder, verify_golden

FP32, FP16 = "clinreadnet.fp32.onnx", "clinreadnet.fp16.onnx"


def run(bundle: Path, *options: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["verify", str(bundle), *options])
    return result.exit_code, result.stdout, result.exception


def relist(bundle: Path, file: str) -> None:
    """Write the present hash and size of a file to the manifest, as an attacker would."""
    manifest = load_manifest(bundle)
    content = (bundle / file).read_bytes()
    new = {"sha256": digest(content), "size": len(content)}
    write_manifest(
        dataclasses.replace(
            manifest,
            artifacts=tuple(
                dataclasses.replace(a, **new) if a.file == file else a for a in manifest.artifacts
            ),
            golden=dataclasses.replace(manifest.golden, **new)
            if file == manifest.golden.file
            else manifest.golden,
        ),
        bundle,
    )


def flip(bundle: Path, file: str) -> None:
    content = bytearray((bundle / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / file).write_bytes(content)


@pytest.mark.usefixtures("small_batches")
def test_an_untouched_bundle_passes(tiny_bundle: Path) -> None:
    before = (tiny_bundle / "manifest.json").read_bytes()
    code, out, _ = run(tiny_bundle, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["passed"] and not report["problems"]
    graphs = {a["file"]: a for a in report["artifacts"] if a["kind"] == "onnx"}
    assert set(graphs) == {FP32, FP16}
    for artifact in graphs.values():
        assert artifact["status"] == "passed"
        assert 0 < max(artifact["relative_error"].values()) <= artifact["budget"]
        assert all(artifact["metric_difference"][name] <= 1e-3 for name in METRICS)
        assert 0 < artifact["worst_score_difference"] < 0.02
        # What a CPU does not prove is said where it is not proven, and only there.
        assert ("emulated" in artifact["details"].get("note", "")) == (
            artifact["precision"] == "fp16"
        )
        krocc = artifact["details"]["reference_metrics"]["KROCC"]
        assert krocc["low"] < krocc["value"] < krocc["high"]
    assert graphs[FP16]["relative_error"]["score"] > graphs[FP32]["relative_error"]["score"]
    for artifact in report["artifacts"]:
        if artifact["kind"] == "checkpoint":
            assert artifact["status"] == "passed"
            assert 0 < max(artifact["relative_error"].values()) <= artifact["budget"]
        elif artifact["kind"] != "onnx":
            assert artifact["status"] == "not run here"
            assert "needs a GPU of architecture sm89" in artifact["reason"]
    assert (tiny_bundle / "manifest.json").read_bytes() == before, "verify changes nothing"


@pytest.mark.usefixtures("few_golden")
def test_table_names_every_artifact(tiny_bundle: Path) -> None:
    code, out, _ = run(tiny_bundle)
    assert code == 0
    for artifact in load_manifest(tiny_bundle).artifacts:
        assert artifact.file.removeprefix("clinreadnet.") in out
    assert "Research use only" in out
    assert max(map(len, out.splitlines()[:8])) <= 80


def engine_of(bundle: Path) -> str:
    files = [a.file for a in load_manifest(bundle).artifacts if a.kind != "onnx"]
    return files[0] if files else pytest.skip("tensorrt-rtx is not installed")


@pytest.mark.usefixtures("few_golden")
@pytest.mark.sample(every=3)
@pytest.mark.parametrize("file", [FP32, FP16, "engine", "golden.npz"])
@pytest.mark.parametrize("damage", ["one-bit", "missing", "truncated"])
def test_a_damaged_file_is_named(own_bundle: Path, file: str, damage: str) -> None:
    file = engine_of(own_bundle) if file == "engine" else file
    path = own_bundle / file
    if damage == "one-bit":
        flip(own_bundle, file)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    code, out, error = run(own_bundle, "--json")
    report = json.loads(out)
    assert code == 1
    assert isinstance(error, CheckFailed)
    reasons = report["problems"] + [
        a["reason"] for a in report["artifacts"] if a["status"] == "failed"
    ]
    words = {"one-bit": "SHA-256 differs", "missing": "missing", "truncated": "bytes"}
    assert len(reasons) == 1
    assert file in reasons[0] and words[damage] in reasons[0]


@pytest.mark.usefixtures("few_golden")
def test_noise_for_weights_fails_the_budget(own_bundle: Path) -> None:
    model = onnx.load(own_bundle / FP16)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float16 and value.ndim == 2:
            noise = rng.normal(0, value.std(), value.shape).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(noise, tensor.name))
    onnx.save(model, own_bundle / FP16)
    relist(own_bundle, FP16)
    code, out, _ = run(own_bundle, "--json")
    assert code == 1
    by_file = {a["file"]: a for a in json.loads(out)["artifacts"]}
    assert by_file[FP32]["status"] == "passed"
    assert by_file[FP16]["status"] == "failed"
    assert "score is off by" in by_file[FP16]["reason"]
    assert "(budget 5e-03)" in by_file[FP16]["reason"]


@pytest.mark.usefixtures("few_golden")
def test_a_graph_that_is_none_is_named(own_bundle: Path) -> None:
    (own_bundle / FP16).write_bytes(b"not a graph")
    relist(own_bundle, FP16)
    report = verify_golden(own_bundle, load_manifest(own_bundle))
    (failed,) = [a for a in report.artifacts if a.parity and a.parity.status == "failed"]
    assert failed.file == FP16
    assert failed.parity is not None and "not an ONNX graph" in str(failed.parity.reason)


@pytest.mark.usefixtures("few_golden")
def test_shifted_golden_outputs_fail_both_graphs(own_bundle: Path) -> None:
    with np.load(own_bundle / "golden.npz") as file:
        arrays = dict(file)
    arrays["score"] = arrays["score"] * 1.01
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    (own_bundle / "golden.npz").write_bytes(buffer.getvalue())
    relist(own_bundle, "golden.npz")
    report = verify_golden(own_bundle, load_manifest(own_bundle))
    statuses = {a.file: a.parity.status for a in report.artifacts if a.parity}
    assert statuses[FP32] == statuses[FP16] == "failed"
    assert not report.passed


@pytest.mark.whole
def test_golden_slices_need_no_torch(own_bundle: Path) -> None:
    alone = BatchRange(1, 1, 1)
    manifest = load_manifest(own_bundle)
    artifacts = [
        dataclasses.replace(artifact, batch=alone) if artifact.kind == "onnx" else artifact
        for artifact in manifest.artifacts
    ]
    write_manifest(dataclasses.replace(manifest, artifacts=tuple(artifacts)), own_bundle)
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'onnx', 'scipy', 'numba', 'openvino']))\n"
        f"sys.argv = ['clinreadnet', 'verify', {str(own_bundle)!r}]\n"
        "from clinreadnet.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "passed" in result.stdout


def test_not_a_bundle_is_bad_input(tmp_path: Path) -> None:
    _, _, error = run(tmp_path / "none")
    assert isinstance(error, InputError)
    assert "no such bundle" in str(error)


def outputs_of(score: list[float]) -> dict[str, np.ndarray]:
    n = len(score)
    return {
        "score": np.asarray(score),
        "probs": np.full((n, 21), 1 / 21),
        "quality_map": np.ones((n, 16, 16)),
    }


LABELS = np.asarray([0.0, 1.0, 2.0, 3.0, 4.0])
SCORES = [0.1, 1.1, 2.1, 2.9, 3.9]
EVIDENCE = Evidence(GoldenSlices(np.zeros((5, 512, 512), np.int16)), outputs_of(SCORES), LABELS)


@pytest.mark.parametrize(
    ("precision", "score", "failure"),
    [
        pytest.param("fp32", SCORES, None, id="equal"),
        pytest.param("fp16", [s * 1.004 for s in SCORES], None, id="within"),
        pytest.param("fp16", [s * 1.006 for s in SCORES], "score is off by 6.0e-03", id="outside"),
        pytest.param("fp32", [s * 1.004 for s in SCORES], "score is off by 4.0e-03", id="fp32"),
        pytest.param("int8", [0.1, 1.1, 2.6, 2.5, 3.9], "KROCC differs by 2.0e-01", id="swap"),
        pytest.param("int8", [2.0] * 5, "PLCC is undefined", id="constant"),
        pytest.param("fp16", [np.nan, *SCORES[1:]], "score is off by inf", id="nan"),
    ],
)
def test_budgets(precision: str, score: list[float], failure: str | None) -> None:
    parity = compare(precision, outputs_of(score), EVIDENCE)
    assert parity.status == ("passed" if failure is None else "failed"), parity.reason
    assert failure is None or failure in str(parity.reason)


def test_worst_slice_is_the_worst() -> None:
    other = [*SCORES[:2], SCORES[2] + 0.003, *SCORES[3:]]
    parity = compare("fp16", outputs_of(other), EVIDENCE)
    assert parity.worst_score_difference == pytest.approx(0.003)


def make_folder(path: Path, count: int) -> Path:
    from clinreadnet.data.ldctiqa import IMAGES_FOLDER
    from clinreadnet.data.tif import write_tif

    (path / IMAGES_FOLDER).mkdir(parents=True)
    labels = {}
    for i in range(count):
        name = f"{i:04d}.tif"
        write_tif(path / IMAGES_FOLDER / name, disc(10.0 + 25 * i, seed=i))
        labels[name] = 4.0 - i
    (path / "train.json").write_text(json.dumps(labels))
    return path


@pytest.mark.usefixtures("few_golden")
def test_labelled_folder(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", 5)
    code, out, _ = run(
        tiny_bundle, "--data", str(data), "--checkpoint", str(tiny_checkpoint), "--json"
    )
    report = json.loads(out)
    assert code == 0, report
    assert (report["source"], report["slices"]) == (str(data), 5)
    assert {a["status"] for a in report["artifacts"] if a["kind"] == "onnx"} == {"passed"}
    assert report["artifacts"][0]["details"]["reference_metrics"]["SROCC"]["value"] > 0.5
    for artifact in report["artifacts"]:
        if artifact["kind"] == "onnx":
            assert artifact["details"]["worst_slice"] in {f"{i:04d}.tif" for i in range(5)}


@pytest.mark.whole
@pytest.mark.usefixtures("few_golden")
def test_labelled_folder_measures_every_graph(
    own_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = make_folder(tmp_path / "data", 4)
    plot = tmp_path / "parity.png"
    options = ("--data", str(data), "--checkpoint", str(tiny_checkpoint))
    code, out, error = run(own_bundle, *options, "--plot", str(plot))
    assert code == 0, error
    shown = [line for line in out.splitlines() if "PLCC 0." in line or "PLCC 1." in line]
    assert [line.split(":")[0] for line in shown] == [
        "reference",
        FP32,
        FP16,
        f"{CHECKPOINT_NAME} fp32",
        f"{CHECKPOINT_NAME} int8",
    ]
    assert all("worst slice 000" in line for line in shown[1:])
    assert plot.read_bytes().startswith(b"\x89PNG")
    with np.load(own_bundle / "golden.npz"):  # still whole: verify changes nothing
        pass
    model = onnx.load(own_bundle / FP32)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("head.vote.weight") or tensor.dims == [21]:
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(value[::-1].copy(), tensor.name))
    onnx.save(model, own_bundle / FP32)
    relist(own_bundle, FP32)
    code, out, error = run(own_bundle, *options, "--json")
    assert code == 1 and isinstance(error, CheckFailed)
    by_file = {a["file"]: a for a in json.loads(out)["artifacts"]}
    assert by_file[FP32]["status"] == "failed" and by_file[FP16]["status"] == "passed"


def test_scatter_plot_is_refused_before_anything_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    for name, message in (
        ("parity.gif", "cannot draw that format"),
        ("no/p.png", "no such folder"),
    ):
        _, _, error = run(tiny_bundle, "--plot", str(tmp_path / name))
        assert isinstance(error, InputError) and message in str(error)


@pytest.mark.parametrize("which", ["other-weights", "other-preset", "missing"])
def test_labelled_folder_needs_the_bundles_own_checkpoint(
    tiny_bundle: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    which: str,
) -> None:
    from clinreadnet.model.checkpoint import save_checkpoint
    from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig

    data = make_folder(tmp_path / "data", 2)
    other = tmp_path / "other.safetensors"
    if which == "other-weights":
        save_checkpoint(ClinReadNet(ClinReadNetConfig.from_preset("tiny")), other)
    message = {
        "other-weights": "not the checkpoint this bundle was made from",
        "other-preset": "is a checkpoint of preset 'small', not 'tiny'",
        "missing": "no such checkpoint",
    }[which]
    checkpoint = small_checkpoint if which == "other-preset" else other
    with pytest.raises(InputError, match=message):
        verify_folder(tiny_bundle, load_manifest(tiny_bundle), data, checkpoint)
