"""An export with plugins, on a machine without TensorRT."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.export.bundle import export_bundle
from clinreadnet.export.plugins import graph as graphs
from clinreadnet.export.request import EngineRequest, GraphRequest
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.verify.run import verify_golden

pytestmark = pytest.mark.compile


@pytest.fixture(params=["as-plain", pytest.param("exported", marks=pytest.mark.whole)])
def _plugin_graph(
    request: pytest.FixtureRequest, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use the plain graph as the plugin graph. test_graph.py tests the export of plugin graphs."""

    def copy_graph(model: object, path: Path, *, plan: object) -> None:
        shutil.copy(tiny_bundle / "clinreadnet.fp32.onnx", path)

    if request.param == "as-plain":
        monkeypatch.setattr(graphs, "export_plugin_graph", copy_graph)


@pytest.mark.usefixtures("quick", "few_golden", "_plugin_graph")
def test_a_bundle_has_both_graphs_and_the_ptx(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    notes: list[str] = []
    report = export_bundle(
        out,
        checkpoint=tiny_checkpoint,
        preset="tiny",
        graphs=GraphRequest(["fp32"], batch=BatchRange(1, 1, 1)),
        engines=EngineRequest("tensorrt", targets=(), plugins=("sobel_stem",)),
        note=notes.append,
    )
    assert report.passed and notes == []
    plain, graph, *checkpoints = load_manifest(out).artifacts
    assert {entry.kind for entry in checkpoints} == {"checkpoint"}
    assert (plain.file, plain.plugins) == ("clinreadnet.fp32.onnx", None)
    assert graph.file == "clinreadnet.fp32.plugins.onnx" and graph.plugins is not None
    assert [node.name for node in graph.plugins.nodes] == ["sobel_stem_512x512"]
    assert graph.plugins.needed_at_run_time is False
    assert graph.toolchain["triton"] == graph.plugins.triton
    (ptx,) = graph.plugins.ptx
    assert ptx.file == "clinreadnet.fp32.plugins.sm80.sobel_stem.ptx" and ptx.isa == "8.0"
    text = (out / ptx.file).read_text()
    (out / ptx.file).write_text(text.replace("ret;", "exit;"))
    changed = verify_golden(out, load_manifest(out))
    assert not changed.passed
    assert [str(a.parity and a.parity.status) for a in changed.artifacts[:2]] == [
        "passed",
        "failed",
    ]
    assert "sobel_stem.ptx: " in str(changed.artifacts[1].parity)
