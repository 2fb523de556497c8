"""`clinreadnet export` from end to end."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from support.export_models import RTX_MISSING
from typer.testing import CliRunner, Result

from clinreadnet.cli import app
from clinreadnet.console import progress_bar
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export import bundle as bundles
from clinreadnet.export import golden as goldens
from clinreadnet.export import request as requests
from clinreadnet.export.engines import options as builds
from clinreadnet.export.engines.build import EngineBuilder
from clinreadnet.export.engines.options import parse_batch
from clinreadnet.export.golden import distinct, write_golden
from clinreadnet.export.hard_slices import HARD_KINDS
from clinreadnet.export.onnx import graphs
from clinreadnet.export.request import EngineRequest, GraphRequest
from clinreadnet.library import engine_version
from clinreadnet.model.checkpoint import load_checkpoint, save_checkpoint
from clinreadnet.model.network import PRESETS, ClinReadNet
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.flavours import FlavourMissing
from clinreadnet.runtime.bundle.files import digest, load_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.scores import Outputs
from clinreadnet.verify.emulate import element_types
from clinreadnet.verify.pages import PARITY_NAME, README_NAME
from clinreadnet.verify.reference import GoldenSlices


def export(out: Path, checkpoint: Path, *options: str) -> Result:
    arguments = ["export", "--out", str(out), "--checkpoint", str(checkpoint), "--preset", "tiny"]
    return CliRunner().invoke(app, [*arguments, *options])


def test_manifest_follows_its_schema(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    raw = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    schema = json.loads(
        files("clinreadnet.runtime.bundle").joinpath("manifest.schema.json").read_text()
    )
    jsonschema.Draft202012Validator(schema).validate(raw)
    manifest = load_manifest(tiny_bundle)
    assert manifest.verified
    assert manifest.model.preset == "tiny"
    assert manifest.model.weights_sha256 == digest(tiny_checkpoint.read_bytes())
    model = load_checkpoint(tiny_checkpoint)
    assert manifest.model.parameters == sum(p.numel() for p in model.parameters())
    assert manifest.input.batch == BatchRange(1, 4, 16)
    for artifact in manifest.artifacts:
        assert artifact.parity is not None
        runs = artifact.kind == "onnx" or artifact.kind == "checkpoint" and engine_version()
        assert artifact.parity.status == ("passed" if runs else "not run here")
        if artifact.kind != "checkpoint":
            assert {"torch", "onnx", "onnxscript", "opset"} <= set(artifact.toolchain)


def test_every_file_is_listed(tiny_bundle: Path) -> None:
    manifest = load_manifest(tiny_bundle)
    listed = {"manifest.json", manifest.golden.file, *(a.file for a in manifest.artifacts)}
    listed |= {a.layers.file for a in manifest.artifacts if a.layers is not None}
    pages = {README_NAME, PARITY_NAME}
    assert {path.name for path in tiny_bundle.iterdir()} == listed | pages


def test_the_runtime_accepts_it(tiny_bundle: Path) -> None:
    golden = read_golden(tiny_bundle, load_manifest(tiny_bundle).golden, first=2)
    scores = Session(tiny_bundle, precision="fp16").score(golden["hu"])
    np.testing.assert_allclose(scores.score, golden["score"], rtol=5e-3)


@pytest.mark.parametrize(
    "command", [["export", "--out", "bundle"], ["check-graph"]], ids=["bundle", "check"]
)
def test_a_soqn_alone_is_refused(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    soqn = ClinReadNet(replace(PRESETS["tiny"], depths=(), heads=()))
    save_checkpoint(soqn, "soqn.safetensors")
    options = ["--checkpoint", "soqn.safetensors", "--preset", "tiny"]
    result = CliRunner().invoke(app, [*command, *options])
    assert isinstance(result.exception, InputError), result.output
    assert re.fullmatch(
        r"soqn.safetensors: is a SOQN without attention stages; .*", str(result.exception)
    )
    assert not (tmp_path / "bundle").exists()


def test_golden_scores_can_be_ranked(tiny_bundle: Path) -> None:
    golden = read_golden(tiny_bundle, load_manifest(tiny_bundle).golden)
    scored = golden["kind"] == goldens.SIMULATED_KIND
    assert goldens.MIN_SLICES <= scored.sum() <= goldens.MOST_SIMULATED
    assert golden["hu"].dtype == np.int16
    assert np.diff(np.sort(golden["score"][scored])).min() >= goldens.MIN_GAP
    labels = golden["label"][scored]
    assert 0 <= labels.min() < labels.max() <= 4


def test_hard_slices_follow_the_scored_ones(tiny_bundle: Path) -> None:
    golden = read_golden(tiny_bundle, load_manifest(tiny_bundle).golden)
    assert tuple(golden["kind"][-len(HARD_KINDS) :]) == HARD_KINDS
    hard = golden["kind"] != goldens.SIMULATED_KIND
    assert hard.sum() == len(HARD_KINDS)
    assert np.isnan(golden["label"][hard]).all() and (golden["tile_weight"][hard] == 0).all()
    assert (golden["hu"].min(), golden["hu"].max()) == (-3024, 30_000)
    assert np.isfinite(golden["score"]).all() and np.isfinite(golden["novelty"]).all()


@pytest.mark.whole
@pytest.mark.parametrize("step", [0.1, 0.001], ids=["apart", "alike"])
def test_golden_file_is_the_same_each_time(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    def outputs(model: object, slices: GoldenSlices, advance: object) -> Outputs:
        score = np.arange(len(slices)) // 2 * step  # pairs of equal scores
        ones = np.ones((len(slices), 1, 1))
        return {"score": score, "probs": ones[:, 0] / np.ones(21), "quality_map": ones}

    monkeypatch.setattr(goldens, "reference_outputs", outputs)
    monkeypatch.setattr(goldens, "GOLDEN_ANATOMIES", 2)
    model = load_checkpoint(tiny_checkpoint)
    notes: list[str] = []
    with progress_bar() as bar:
        first = write_golden(tmp_path / "a.npz", model, bar, notes.append)
        again = write_golden(tmp_path / "b.npz", model, bar)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert first.sha256 == again.sha256
    if step == 0.1:
        assert (first.slices, notes) == (16 + len(HARD_KINDS), [])
    else:
        assert first.slices == goldens.MOST_SIMULATED + len(HARD_KINDS)
        assert "is it trained?" in notes[0]


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        pytest.param([3.0, 1.0, 2.0], [0, 1, 2], id="apart"),
        pytest.param([1.0, 1.0, 1.0], [0], id="equal"),
        pytest.param([1.015, 1.0, 1.03], [1, 2], id="chain"),
        pytest.param([1.0, 1.25, 1.5], [0, 1, 2], id="exact-gap"),
    ],
)
def test_distinct(scores: list[float], kept: list[int]) -> None:
    assert distinct(np.asarray(scores), 0.02).tolist() == kept


@pytest.mark.usefixtures("quick", "few_golden")
def test_graphs_without_engines_and_with_force(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "keep").touch()
    options = ("--precision", "fp32", "--no-engines", "--batch", "2:2:3", "--json")
    refused = export(out, tiny_checkpoint, *options)
    assert isinstance(refused.exception, InputError)
    assert "--force" in str(refused.exception)
    assert [p.name for p in out.iterdir()] == ["keep"], "the old folder is untouched"

    done = export(out, tiny_checkpoint, *options, "--force")
    assert done.exit_code == 0, done.exception
    report = json.loads(done.stdout)
    assert (report["passed"], report["bundle"]) == (True, str(out))
    manifest = load_manifest(out)
    files = dict.fromkeys(artifact.file for artifact in manifest.artifacts)
    assert list(files) == ["clinreadnet.fp32.onnx", "clinreadnet.safetensors"]
    assert manifest.artifacts[0].batch == BatchRange(2, 2, 3)
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "clinreadnet.fp32.onnx",
        "clinreadnet.safetensors",
        "golden.npz",
        "manifest.json",
        "parity.html",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--precision", "fp12"], "unknown precision 'fp12'; known: fp32", id="prec"),
        pytest.param(["--target", "sm90"], "--target sm90: unknown; tensorrt-rtx", id="sm90"),
        pytest.param(["--batch", "4:2:8"], "needs 1 <= MIN <= OPT <= MAX", id="min>opt"),
        pytest.param(["--batch", "4"], "give MIN:OPT:MAX, such as 1:4:16", id="batch"),
        pytest.param(["--preset", "small"], "is a checkpoint of preset 'tiny'", id="preset"),
        pytest.param(["--checkpoint", "no.safetensors"], "no such checkpoint", id="checkpoint"),
        pytest.param(["--target", "sm89", "--no-engines"], "exclude each other", id="engines"),
        pytest.param(
            ["--engine-precision", "fp16", "--no-engines"], "exclude each other", id="precisions"
        ),
        pytest.param(
            ["--precision", "fp32", "--engine-precision", "fp16"], "add --precision", id="engine"
        ),
        pytest.param(["--out", "no/such/bundle"], "create it first", id="parent"),
        pytest.param(["--flavour", "trt"], "unknown flavour 'trt'", id="flavour"),
        pytest.param(["--version-compatible"], "--version-compatible: tensorrt-rtx", id="option"),
        pytest.param(["--flavour", "tensorrt"], "this machine shows none", id="no-gpu"),
        pytest.param(["--batch", "1:4:2000"], "accepts at most 1024 slices", id="batch-limit"),
        pytest.param(["--batch", "64:64:64"], "MIN is at most 16", id="batch-min"),
        pytest.param(["--precision", "tf32", "--no-engines"], "precision of engines", id="tf32"),
        pytest.param(["--fp32-islands", "some"], "give default or auto", id="islands"),
        pytest.param(
            ["--fp32-islands", "auto", "--fused-attention"], "--fused-attention and", id="fused"
        ),
        pytest.param(["--optimization-level", "6"], "--optimization-level 6: give 0", id="level"),
        pytest.param(["--workspace", "0"], "--workspace 0: give 1 MiB or more", id="workspace"),
    ],
)
def test_bad_usage(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(builds, "find_gpus", list)
    result = export(tmp_path / "bundle", tiny_checkpoint, *options)
    assert isinstance(result.exception, InputError)
    assert re.search(message, str(result.exception))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_attention_is_fused_in_16_bit_graphs_alone(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    fused_by_precision: dict[str, bool] = {}

    def remember(model: object, path: Path, *, precision: str, fused_attention: bool) -> None:
        fused_by_precision[precision] = fused_attention
        path.write_bytes(b"graph")
        if precision == "bf16":
            raise KeyboardInterrupt

    monkeypatch.setattr(graphs, "export_onnx", remember)
    monkeypatch.setattr(bundles, "write_golden", lambda path, *rest: path.touch())
    with pytest.raises(KeyboardInterrupt):
        bundles.export_bundle(
            tmp_path / "bundle",
            checkpoint=tiny_checkpoint,
            preset="tiny",
            graphs=GraphRequest(("fp32", "fp16", "bf16"), fused_attention=fused),
            engines=EngineRequest(targets=()),
        )
    assert fused_by_precision == {"fp32": False, "fp16": fused, "bf16": fused}


def test_nothing_is_left_of_a_broken_export(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(graphs, "export_onnx", fail)
    monkeypatch.setattr(bundles, "write_golden", lambda path, *rest: path.touch())
    with pytest.raises(KeyboardInterrupt):
        bundles.export_bundle(
            tmp_path / "bundle",
            checkpoint=tiny_checkpoint,
            preset="tiny",
            engines=EngineRequest(targets=()),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick", "few_golden")
def test_a_failed_budget_marks_the_bundle(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRECISIONS, "fp32", replace(PRECISIONS["fp32"], budget=1e-12))
    result = export(tmp_path / "bundle", tiny_checkpoint, "--precision", "fp32", "--no-engines")
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.exit_code == 1
    manifest = load_manifest(tmp_path / "bundle")
    assert manifest.verified is False
    assert manifest.artifacts[0].parity is not None
    assert manifest.artifacts[0].parity.status == "failed"
    with pytest.raises(InputError, match="not verified"):
        Session(tmp_path / "bundle")


@pytest.mark.usefixtures("quick", "few_golden")
def test_chosen_islands_are_in_the_graph_and_in_the_manifest(
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = onnx.load(tiny_bundle / "clinreadnet.fp32.onnx").graph.node
    chosen = next(node.name for node in nodes if node.op_type == "MatMul")
    monkeypatch.setattr(graphs, "find_islands", lambda *rest: (chosen,))
    out = tmp_path / "bundle"
    options = ("--precision", "fp16", "--fp32-islands", "auto", "--no-engines")
    done = export(out, tiny_checkpoint, *options)
    assert done.exit_code == 0, done.exception
    assert sorted(p.name for p in out.glob("*.onnx")) == ["clinreadnet.fp16.onnx"]
    (artifact,) = (a for a in load_manifest(out).artifacts if a.kind == "onnx")
    assert artifact.fp32_islands == (chosen,)
    model = onnx.load(out / artifact.file)
    types = element_types(model)
    kinds = {n.name: types[n.output[0]] for n in model.graph.node if n.op_type == "MatMul"}
    assert kinds.pop(chosen) == onnx.TensorProto.FLOAT
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT16}
    if RTX_MISSING is None:
        islands = {"MATRIX_MULTIPLY": 1}
        builder = EngineBuilder(
            out / artifact.file, precision="fp16", flavour="tensorrt-rtx", islands=islands
        )
        assert builder.layers["MATRIX_MULTIPLY"]["FLOAT"] == 1


@pytest.mark.parametrize("targets", [None, ("sm89",)], ids=["default", "asked"])
def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch, targets: tuple[str, ...] | None) -> None:
    def missing(flavour: str) -> None:
        raise FlavourMissing("tensorrt-rtx is not installed; run pip install it")

    monkeypatch.setattr(requests, "load_flavour", missing)
    notes: list[str] = []
    if targets is None:
        assert requests.choose_targets(targets, "tensorrt-rtx", notes.append) == ()
        assert notes == [
            "no engines: tensorrt-rtx is not installed; run pip install it, then export again"
        ]
    else:
        with pytest.raises(FlavourMissing):
            requests.choose_targets(targets, "tensorrt-rtx", notes.append)


def test_parse_batch() -> None:
    assert parse_batch("2:4:8") == BatchRange(2, 4, 8)
