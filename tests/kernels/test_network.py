"""The whole network on its kernels, in the interpreter and on a GPU."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from clinreadnet.model import PRESETS, ClinReadNet
from clinreadnet.runtime.parity import BUDGETS, relative_error

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton")


@pytest.fixture(scope="module")
def pair() -> tuple[ClinReadNet, ClinReadNet]:
    torch.manual_seed(0)
    ours = ClinReadNet(PRESETS["tiny"], kernels="triton").eval()
    reference = ClinReadNet(PRESETS["tiny"], kernels="reference").eval()
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def slices(batch: int) -> torch.Tensor:
    return torch.randn(batch, 1, 256, 256, generator=torch.Generator().manual_seed(1)) * 300


@pytest.mark.interpret
def test_compiles_without_graph_breaks(pair: tuple[ClinReadNet, ClinReadNet]) -> None:
    """The stem and one stage: every call to an op that there is."""

    def forward(model: ClinReadNet, hu: torch.Tensor) -> torch.Tensor:
        return model.stages[0](model.stem(hu))

    x = slices(1)[..., :64, :96].contiguous()
    compiled = torch.compile(forward, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(pair[0], x), forward(pair[1], x))


@pytest.mark.interpret
def test_exports_ops_and_from_there_to_onnx(
    pair: tuple[ClinReadNet, ClinReadNet], tmp_path: Path
) -> None:
    """Ops stay whole in the exported program; their references replace them for ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from clinreadnet.kernels.sobel_stem_reference import sobel_stem_reference
    from clinreadnet.kernels.window_attention_reference import window_attention_reference

    ours, reference = pair
    ops = torch.ops.clinreadnet
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(ours, (slices(2),), dynamic_shapes={"hu": {0: batch}})
        targets = [node.target for node in program.graph.nodes]
        assert targets.count(ops.sobel_stem.default) == 1
        assert targets.count(ops.window_attention.default) == sum(PRESETS["tiny"].depths)
        program = program.run_decompositions(
            {
                ops.sobel_stem.default: sobel_stem_reference,
                ops.window_attention.default: window_attention_reference,
            }
        )
        torch.onnx.export(program, (), str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
        expected = reference(slices(3)).probs
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    outputs = session.run(None, {session.get_inputs()[0].name: slices(3).numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs[1]), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_within_the_parity_budget_on_a_gpu(
    pair: tuple[ClinReadNet, ClinReadNet], precision: str, compiled: bool
) -> None:
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    ours = copy.deepcopy(pair[0]).to("cuda", dtype)
    # The same rounded weights, in float64.
    reference = copy.deepcopy(pair[1]).to(dtype).double()
    run = torch.compile(ours, fullgraph=True) if compiled else ours
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        actual, expected = run(slices(3).cuda()), reference(slices(3).double())
    for name, output, right in zip(actual._fields, actual, expected, strict=True):
        error = relative_error(output.double().cpu().numpy(), right.numpy())
        assert error <= BUDGETS[precision], name
