"""The plugins' part of an export: a bundle on the CPU, and a choice on a GPU that is made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.export.bundle import export_bundle  # noqa: E402
from clinreadnet.export.plugins import step as steps  # noqa: E402
from clinreadnet.export.plugins.artifacts import PluginGraph  # noqa: E402
from clinreadnet.export.plugins.choose import Trial  # noqa: E402
from clinreadnet.export.plugins.engine import GraphPlugins  # noqa: E402
from clinreadnet.export.plugins.plan import Plan  # noqa: E402
from clinreadnet.export.plugins.step import PluginStep  # noqa: E402
from clinreadnet.model.network import PRESETS, ClinReadNet  # noqa: E402
from clinreadnet.runtime.bundle.manifest import (  # noqa: E402
    GOLDEN_NAME,
    Artifact,
    BatchRange,
    BuiltOn,
    load_manifest,
)
from clinreadnet.runtime.bundle.plugins import Plugins  # noqa: E402
from clinreadnet.verify.run import verify_golden  # noqa: E402

pytestmark = pytest.mark.compile


def test_a_bundle_has_both_graphs_and_the_ptx(
    quick: None, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    notes: list[str] = []
    report = export_bundle(
        out,
        checkpoint=tiny_checkpoint,
        preset="tiny",
        precisions=["fp32"],
        flavour="tensorrt",
        targets=(),
        batch=BatchRange(1, 1, 1),
        plugins=("sobel_stem",),
        note=notes.append,
    )
    assert report.passed and notes == []
    plain, graph, *checkpoints = load_manifest(out).artifacts
    assert {entry.kind for entry in checkpoints} == {"checkpoint"}
    assert (plain.file, plain.plugins) == ("clinreadnet.fp32.onnx", None)
    assert graph.file == "clinreadnet.fp32.plugins.onnx" and graph.plugins is not None
    assert [one.name for one in graph.plugins.nodes] == ["sobel_stem_512x512"]
    assert graph.plugins.needed_at_run_time is False
    assert graph.toolchain["triton"] == graph.plugins.triton
    (ptx,) = graph.plugins.ptx
    assert ptx.file == "clinreadnet.fp32.plugins.sm80.sobel_stem.ptx" and ptx.isa == "8.0"
    text = (out / ptx.file).read_text()
    (out / ptx.file).write_text(text.replace("ret;", "exit;"))
    changed = verify_golden(out, load_manifest(out))
    assert not changed.passed
    assert [str(one.parity and one.parity.status) for one in changed.artifacts[:2]] == [
        "passed",
        "failed",
    ]
    assert "sobel_stem.ptx: " in str(changed.artifacts[1].parity)


def artifact(file: str, **changes: Any) -> Artifact:
    return replace(
        Artifact(file, "onnx", "fp16", "0" * 64, 1, BatchRange(1, 1, 1), {}, BuiltOn("x")),
        **changes,
    )


@pytest.mark.parametrize(
    ("faster", "kept"),
    [
        pytest.param(("sobel_stem", "mlp"), ["sobel_stem", "mlp"], id="two-win"),
        pytest.param((), [], id="none-wins"),
    ],
)
def test_a_choice_builds_each_op_and_keeps_what_wins(
    faster: tuple[str, ...], kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, ...]] = []
    built: list[str | None] = []
    notes: list[str] = []

    def write(model: Any, plan: Plan, plain: Artifact, folder: Path, *, portable: bool) -> Any:
        ops = tuple(dict.fromkeys(node.op for node in plan.nodes))
        made = artifact("g.plugins.onnx", plugins=Plugins("3", (), {"ops": "+".join(ops)}, ()))
        return PluginGraph(made, GraphPlugins(plan))

    def build(plain: Artifact, made: Any, precision: str, place: Path) -> Artifact:
        assert {one.name for one in place.iterdir()} == {GOLDEN_NAME, plain.file}
        built.append(None if made is None else made.artifact.plugins.native["ops"])
        return artifact("x.engine")

    def measure(ops: tuple[str, ...], place: Path, manifest: Any, engine: Artifact) -> Trial:
        tried.append(ops)
        return Trial(ops, 10.0 - sum(op in faster for op in ops), True, {"score": 1e-3})

    def describe(artifacts: Sequence[Artifact]) -> Any:
        return None

    monkeypatch.setattr(steps, "write_graph", write)
    monkeypatch.setattr(steps, "try_engine", measure)
    (tmp_path / "scratch").mkdir()
    for name in (GOLDEN_NAME, "g.onnx"):
        (tmp_path / name).write_text("x")
    model = ClinReadNet(PRESETS["small"])
    step = PluginStep(model, ("auto",), ["fp16"], ["sm80"], portable=False, note=notes.append)
    plain = {"fp16": artifact("g.onnx")}
    found = list(step.write(tmp_path, plain, tmp_path / "scratch", build, describe))
    ops = [(), ("sobel_stem",), ("window_attention",), ("attention_block",), ("mlp",)]
    assert tried == ops + ([tuple(kept)] if len(kept) > 1 else [])
    assert built[:5] == [None, "sobel_stem", "window_attention", "attention_block", "mlp"]
    assert f"fp16: plugins kept: {', '.join(kept) or 'none'} (none 10.00 ms" in notes[-1]
    assert list((tmp_path / "scratch").iterdir()) == []
    declined = step.declined("fp16")
    if kept:
        (made,) = found
        assert made.artifact.plugins is not None and declined is None
        assert made.artifact.plugins.choice["kept"] == kept
        assert made.artifact.plugins.native["ops"] == "sobel_stem+mlp"
    else:
        assert found == [] and declined is not None
        assert declined.choice["kept"] == [] and len(declined.choice["trials"]) == 5
