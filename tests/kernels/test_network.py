"""The whole network on its kernels, in the interpreter and on a GPU."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from clinreadnet.metrics import relative_error
from clinreadnet.model.network import PRESETS, ClinReadNet, ClinReadNetConfig
from clinreadnet.precision import PRECISIONS

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
    """The stem and one stage: every call to an op."""

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
    from clinreadnet.kernels.ops.sobel_stem.reference import sobel_stem_reference
    from clinreadnet.kernels.ops.window_attention.reference import window_attention_reference

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


NARROW = ClinReadNetConfig(embed_dim=48, depths=(2, 1), heads=(3, 6), window=4)
"""Both numbers of channels that the fused kernels take, on 32x32 pixels."""


def narrow(kernels: str, dtype: torch.dtype, fused: bool = True) -> ClinReadNet:
    torch.manual_seed(0)
    return ClinReadNet(NARROW, kernels=kernels, fused=fused).eval().to(dtype)


@pytest.mark.interpret
@pytest.mark.parametrize(
    ("dtype", "fused", "launched"),
    [
        pytest.param(torch.float16, True, (3, 3, 0), id="float16"),
        pytest.param(torch.float32, True, (0, 3, 3), id="float32"),
        pytest.param(torch.float16, False, (0, 0, 3), id="unfused"),
    ],
)
def test_which_kernels_the_blocks_run(
    count_launches, dtype: torch.dtype, fused: bool, launched: tuple[int, int, int]
) -> None:
    """Float32 windows do not fit a chip's registers; all three agree with float64."""
    from clinreadnet.kernels.ops.attention_block import kernel as attention_block_triton
    from clinreadnet.kernels.ops.mlp import kernel as mlp_triton
    from clinreadnet.kernels.ops.window_attention import kernel as window_attention_triton

    modules = attention_block_triton, mlp_triton, window_attention_triton
    launches = [count_launches(module) for module in modules]
    model = narrow("triton", dtype, fused)
    oracle = narrow("reference", torch.float64)
    oracle.load_state_dict(model.state_dict())  # the same rounded weights
    hu = slices(1)[..., :32, :64].contiguous()
    with torch.no_grad():
        probs, expected = model(hu).probs, oracle(hu).probs
    assert tuple(len(launch) for launch in launches) == launched
    budget = 1e-5 if dtype == torch.float32 else 5e-3  # those of an exported artifact
    assert ((probs - expected).norm() / expected.norm()).item() < budget


@pytest.mark.interpret
def test_fused_blocks_compile_without_graph_breaks() -> None:
    model = narrow("triton", torch.float16)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    hu = slices(1)[..., :32, :64].contiguous()
    with torch.no_grad():
        assert torch.equal(compiled(hu).probs, model(hu).probs)


@pytest.mark.interpret
def test_fused_blocks_export_whole_and_from_there_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from clinreadnet.kernels.ops.attention_block.reference import attention_block_reference
    from clinreadnet.kernels.ops.mlp.reference import mlp_reference
    from clinreadnet.kernels.ops.sobel_stem.reference import sobel_stem_reference

    ops = torch.ops.clinreadnet
    hu = slices(3)[..., :32, :64].contiguous()
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(
            narrow("triton", torch.float16), (hu,), dynamic_shapes={"hu": {0: batch}}
        )
        targets = [node.target for node in program.graph.nodes]
        assert targets.count(ops.attention_block.default) == 3
        assert targets.count(ops.mlp.default) == 3
        assert ops.window_attention.default not in targets
        program = program.run_decompositions(
            {
                ops.sobel_stem.default: sobel_stem_reference,
                ops.attention_block.default: attention_block_reference,
                ops.mlp.default: mlp_reference,
            }
        )
        torch.onnx.export(program, (), str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
        expected = narrow("reference", torch.float64)(hu).probs
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    probs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: hu[:2].numpy()})[1])
    assert ((probs - expected[:2]).norm() / expected[:2].norm()).item() < 5e-3


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
        assert error <= PRECISIONS[precision].budget, name
