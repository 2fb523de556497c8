"""The whole network on its kernels, in the interpreter and on a GPU."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clinreadnet.kernels.dispatch import traced_as_ops
from clinreadnet.kernels.registry import OPS
from clinreadnet.model.derived import buffer_derived
from clinreadnet.model.network import PRESETS, Block, ClinReadNet, ClinReadNetConfig
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.comparison import relative_error

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
    compiled = torch.compile(forward, fullgraph=True, dynamic=False, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(pair[0], x), forward(pair[1], x))


@pytest.mark.whole
@pytest.mark.interpret
def test_exports_ops_and_from_there_to_onnx(
    pair: tuple[ClinReadNet, ClinReadNet], tmp_path: Path
) -> None:
    """Ops stay whole in the exported program; their references replace them for ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from clinreadnet.kernels.ops.region_statistics.reference import region_statistics_reference
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
                ops.region_statistics.default: region_statistics_reference,
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
"""Both numbers of channels that the fused kernels of whole halves take, on 32x32 pixels."""
WIDE = ClinReadNetConfig(embed_dim=96, depths=(1, 1), heads=(3, 6), window=4)
"""The largest of them, and one that only the fused linear layers take."""


def network(
    kernels: str, dtype: torch.dtype, fused: bool = True, config: ClinReadNetConfig = NARROW
) -> ClinReadNet:
    torch.manual_seed(0)
    return ClinReadNet(config, kernels=kernels, fused=fused).eval().to(dtype)


@pytest.mark.interpret
@pytest.mark.sample(every=3)
@pytest.mark.parametrize(
    ("config", "dtype", "fused", "launched"),
    [
        pytest.param(NARROW, torch.float16, True, (3, 3, 0, 2), id="float16"),
        pytest.param(NARROW, torch.float32, True, (0, 3, 3, 0), id="float32"),
        pytest.param(NARROW, torch.float16, False, (0, 0, 3, 0), id="unfused"),
        pytest.param(WIDE, torch.float16, True, (1, 1, 1, 6), id="wide-float16"),
    ],
)
def test_which_kernels_the_blocks_run(
    count_launches,
    config: ClinReadNetConfig,
    dtype: torch.dtype,
    fused: bool,
    launched: tuple[int, ...],
) -> None:
    """Float32 windows do not fit a chip's registers; all agree with float64."""
    from clinreadnet.kernels.ops.attention_block import kernel as attention_block_triton
    from clinreadnet.kernels.ops.fused_linear import kernel as fused_linear_triton
    from clinreadnet.kernels.ops.mlp import kernel as mlp_triton
    from clinreadnet.kernels.ops.window_attention import kernel as window_attention_triton

    modules = attention_block_triton, mlp_triton, window_attention_triton, fused_linear_triton
    launches = [count_launches(module) for module in modules]
    model = network("triton", dtype, fused, config)
    oracle = network("reference", torch.float64, config=config)
    oracle.load_state_dict(model.state_dict())  # the same rounded weights
    hu = slices(1)[..., :32, :64].contiguous()
    with torch.no_grad():
        actual, expected = model(hu), oracle(hu)
    assert tuple(len(launch) for launch in launches) == launched
    budget = 1e-5 if dtype == torch.float32 else 5e-3  # those of an exported artifact
    for name, output, right in zip(actual._fields, actual, expected, strict=True):
        assert relative_error(output.double().numpy(), right.numpy()) < budget, name


@pytest.mark.whole
@pytest.mark.interpret
def test_fused_blocks_compile_without_graph_breaks() -> None:
    model = network("triton", torch.float16, config=WIDE)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    hu = slices(1)[..., :32, :64].contiguous()
    with torch.no_grad():
        assert torch.equal(compiled(hu).probs, model(hu).probs)


@pytest.mark.whole
@pytest.mark.interpret
def test_fused_blocks_export_whole_and_from_there_to_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from clinreadnet.kernels.ops.attention_block.reference import attention_block_reference
    from clinreadnet.kernels.ops.fused_linear.reference import fused_linear_reference
    from clinreadnet.kernels.ops.mlp.reference import mlp_reference
    from clinreadnet.kernels.ops.ordinal_head.reference import ordinal_head_reference
    from clinreadnet.kernels.ops.region_statistics.reference import region_statistics_reference
    from clinreadnet.kernels.ops.sobel_stem.reference import sobel_stem_reference
    from clinreadnet.kernels.ops.window_attention.reference import window_attention_reference

    ops = torch.ops.clinreadnet
    hu = slices(3)[..., :32, :64].contiguous()
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(
            network("triton", torch.float16, config=WIDE), (hu,), dynamic_shapes={"hu": {0: batch}}
        )
        targets = [node.target for node in program.graph.nodes]
        called = {op: targets.count(getattr(ops, op).default) for op in OPS}
        assert called == dict.fromkeys(OPS, 1) | {"fused_linear": 6, "region_statistics": 2}
        program = program.run_decompositions(
            {
                ops.sobel_stem.default: sobel_stem_reference,
                ops.attention_block.default: attention_block_reference,
                ops.mlp.default: mlp_reference,
                ops.window_attention.default: window_attention_reference,
                ops.fused_linear.default: fused_linear_reference,
                ops.ordinal_head.default: ordinal_head_reference,
                ops.region_statistics.default: region_statistics_reference,
            }
        )
        torch.onnx.export(program, (), str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
        expected = network("reference", torch.float64, config=WIDE)(hu).probs
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    probs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: hu[:2].numpy()})[1])
    assert ((probs - expected[:2]).norm() / expected[:2].norm()).item() < 5e-3


class Launches(TorchDispatchMode):
    """Counts the operations that would launch a kernel on a GPU.

    Views and questions about types launch nothing. Every other operation counts once, an op of this
    package too; a convolution or a product counts once though its library may launch more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if not (
            func.is_view or name in ("aten._unsafe_view.default", "aten.promote_types.default")
        ):
            self.names.append(name)
        if func.namespace == "clinreadnet":
            tensors = [tensor for tensor in args if tensor is not None]
            assert all(tensor.is_contiguous() for tensor in tensors), (
                f"{name} would copy an argument"
            )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("fused", "most"), [pytest.param(True, 60, id="fused"), pytest.param(False, 175, id="unfused")]
)
def test_launches_of_a_slice_do_not_grow(fused: bool, most: int) -> None:
    """Float16, batch 1, without computing: meta tensors pass for those of a GPU."""
    model = ClinReadNet(kernels="triton", fused=fused).eval().half().to("meta")
    hu = torch.empty(1, 1, 512, 512, dtype=torch.float16, device="meta")
    with torch.no_grad(), traced_as_ops():
        model(hu)  # computes what depends on the weights alone
        with Launches() as launches:
            model(hu)
    ops = [name for name in launches.names if name.startswith("clinreadnet.")]
    assert len(ops) == (56 if fused else 13)
    assert len(launches.names) <= most


@pytest.mark.parametrize(
    ("given", "before"), [(torch.float32, 0), (torch.bfloat16, 4)], ids=["float32", "bfloat16"]
)
def test_the_stem_encodes_no_rounded_slices(given: torch.dtype, before: int) -> None:
    """Slices in bfloat16 are converted, shifted, scaled and clipped before the stem."""
    model = ClinReadNet(PRESETS["tiny"], kernels="triton").eval().bfloat16().to("meta")
    hu = torch.empty(1, 1, 512, 512, dtype=given, device="meta")
    with torch.no_grad(), traced_as_ops(), Launches() as launches:
        model.stem.from_hu(hu)
    assert launches.names.index("clinreadnet.sobel_stem.default") == before


def compiled_launches(model: ClinReadNet, hu: torch.Tensor) -> list[str]:
    """Count as `Launches` does, in the graph that PyTorch's compiler is given."""
    counted: list[str] = []

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Callable[..., Any]:
        def run(*inputs: torch.Tensor) -> Any:
            with Launches() as launches:
                outputs = graph(*inputs)
            counted.extend(launches.names)
            return outputs

        return run

    torch.compiler.reset()
    torch.compile(model, backend=backend, fullgraph=True, dynamic=False)(hu)
    return counted


@pytest.mark.whole
def test_a_compiled_network_computes_no_derived_tensor() -> None:
    """Float16, batch 1: what the weights alone determine is a buffer of the compiled graph."""
    config = replace(PRESETS["small"], depths=(2, 2, 2, 2))  # more blocks are the same again
    model = ClinReadNet(config, kernels="triton").eval().half().to("meta")
    hu = torch.empty(1, 1, 512, 512, dtype=torch.float16, device="meta")
    with torch.no_grad(), traced_as_ops():
        with pytest.raises(AssertionError, match="attention_block.default would copy an argument"):
            compiled_launches(model, hu)
        buffer_derived(model, hu)
        compiled = compiled_launches(model, hu)
        with Launches() as launches:
            model(hu)
    assert compiled == launches.names


def loud(kernels: str = "reference", config: ClinReadNetConfig = NARROW) -> ClinReadNet:
    """Return a network whose attention decides its outputs: a fault in it exceeds every budget."""
    torch.manual_seed(0)
    model = ClinReadNet(config, kernels=kernels).eval()
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, Block):
                attention = block.attention
                attention.projection.weight.mul_(4)
                attention.qkv.weight[: 2 * attention.qkv.in_features].mul_(2)
        model.head.vote.weight.mul_(5)
    return model


LOUD_SLICES = slices(3)[..., :64, :128].contiguous()


def test_a_dropped_shift_exceeds_every_budget() -> None:
    """What the test on a GPU compares would show it, in every precision."""
    model = loud().double()
    with torch.no_grad():
        expected = model(LOUD_SLICES.double())
        for block in model.modules():
            if isinstance(block, Block):
                block.attention.shift = 0
        dropped = model(LOUD_SLICES.double())
    budget = max(PRECISIONS[name].budget for name in ("fp32", "fp16", "bf16"))
    for name in ("score", "probs", "quality_map"):
        wrong, right = getattr(dropped, name).numpy(), getattr(expected, name).numpy()
        assert relative_error(wrong, right) > 2 * budget, name


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("config", [NARROW, WIDE], ids=["narrow", "wide"])
def test_within_the_parity_budget_on_a_gpu(
    config: ClinReadNetConfig, precision: str, compiled: bool
) -> None:
    """48, 96 and 192 channels: the fused kernels run."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    ours = loud("triton", config).to("cuda", dtype)
    reference = loud(config=config).to(dtype).double()  # the same rounded weights
    run = torch.compile(ours, fullgraph=True) if compiled else ours
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        actual, expected = run(LOUD_SLICES.cuda()), reference(LOUD_SLICES.double())
    for name, output, right in zip(actual._fields, actual, expected, strict=True):
        error = relative_error(output.double().cpu().numpy(), right.numpy())
        assert error <= PRECISIONS[precision].budget, name
