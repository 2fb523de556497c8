"""The specs of the ops against the ops and the network."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import clinreadnet.kernels
from clinreadnet.kernels.dispatch import DTYPES
from clinreadnet.kernels.launch import CONFIGS
from clinreadnet.kernels.ops.ordinal_head import spec as ordinal_head
from clinreadnet.kernels.ops.sobel_stem import spec as sobel_stem
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import HEAD, LINEARS, STAGES, STATISTICS, STEM, LayerShape, OpSpec
from clinreadnet.model.network import PRESETS, Block, ClinReadNet, ClinReadNetConfig
from clinreadnet.precision import exported_precisions, precision_of
from clinreadnet.spec import FINE_GRADES, HU_MIN, HU_RANGE, SIZE

META = torch.device("meta")
SPECS = [pytest.param(spec, id=name) for name, spec in OPS.items()]
SHAPES = [
    pytest.param(spec, shape, id=f"{name}-{shape.name}".replace(" ", "-"))
    for name, spec in OPS.items()
    for shape in spec.benched
]


def test_every_folder_of_an_op_is_registered() -> None:
    folders = {path.parent.name for path in (CONFIGS.parent / "ops").glob("*/op.py")}
    assert set(OPS) == folders
    assert all(name == spec.name for name, spec in OPS.items())
    assert set(OPS) <= set(clinreadnet.kernels.__all__)


def test_every_op_has_launch_configurations_of_every_type() -> None:
    configs = json.loads((CONFIGS / "default.json").read_text())
    assert set(OPS) == {op for op, tree in configs.items() if isinstance(tree, dict)}
    for name, spec in OPS.items():
        assert set(configs[name]) == set(spec.limits.dtypes)


def test_the_types_are_those_of_the_exported_precisions() -> None:
    assert {precision_of(name).name for name in DTYPES} == set(exported_precisions())
    for name, dtype in DTYPES.items():
        assert getattr(torch, name) == dtype


def test_the_shapes_are_those_of_the_preset_small() -> None:
    config = ClinReadNetConfig()
    with META:
        model = ClinReadNet(config)
    assert STEM == LayerShape("stem", SIZE, config.embed_dim // 2)
    shapes = [
        (
            SIZE // 4 >> int(name.split(".")[1]),
            block.norm1.weight.numel(),
            block.attention.heads,
            block.attention.window,
            block.attention.shift,
            block.attention.octaves,
            block.mlp[0].out_features,
        )
        for name, block in model.named_modules()
        if isinstance(block, Block) and block.attention.shift
    ]
    stated = [(s.side, s.channels, s.heads, s.window, s.shift, s.octaves, s.hidden) for s in STAGES]
    assert list(dict.fromkeys(shapes)) == stated


def test_what_the_specs_repeat_is_the_networks() -> None:
    """The kernels import nothing else of the package."""
    assert (sobel_stem.LOWEST, sobel_stem.SPAN) == (HU_MIN, HU_RANGE)
    assert ordinal_head.GRADES == FINE_GRADES
    with META:
        head = ClinReadNet(fused=True).head
    weight, _ = head._token_layer()
    (linear,) = (layer for layer in LINEARS if layer.linear == "head")
    assert len(weight) == linear.hidden == ordinal_head.FIRST + HEAD.channels
    pytest.importorskip("triton", reason="the export of kernels imports it")
    from clinreadnet.export.kernels import network_shape

    exported = network_shape(ClinReadNetConfig())
    assert (HEAD, STATISTICS) == (exported.head, exported.statistics)
    named = [
        replace(mine, name=its.name) for mine, its in zip(LINEARS, exported.linears, strict=True)
    ]
    assert tuple(named) == exported.linears


@pytest.mark.parametrize("spec", SPECS)
def test_what_a_spec_names_lies_within_its_limits(spec: OpSpec) -> None:
    for shape in (*spec.compiled, *spec.extremes, *spec.benched):
        for dtype in spec.limits.dtypes:
            obstacle = spec.limits.obstacle(
                spec.decides,
                DTYPES[dtype],
                90,
                channels=shape.channels,
                head_dim=shape.head_dim,
                window=shape.window,
                octaves=shape.octaves,
            )
            assert obstacle is None, shape


@pytest.mark.parametrize("spec", SPECS)
def test_the_op_takes_the_arguments_of_its_spec(spec: OpSpec) -> None:
    shape = spec.benched[0]
    tensors = spec.arguments(shape, 3, "float16", META)
    output = spec.call(tensors, shape, "reference")
    assert tensors[0].shape[0] == output.shape[0] == 3
    assert output.dtype == (torch.float32 if spec.wide else torch.float16)


@pytest.mark.parametrize(("spec", "shape"), SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bytes_are_those_of_the_arguments_and_the_output(
    spec: OpSpec, shape: LayerShape, dtype: str
) -> None:
    tensors = spec.arguments(shape, 2, dtype, META)
    output = spec.call(tensors, shape, "reference")
    item = precision_of(dtype).item_size
    assert spec.work(shape, 2, item).bytes == sum(t.nbytes for t in (*tensors, output))


@pytest.mark.parametrize(("spec", "shape"), SHAPES)
def test_operations_are_those_of_the_reference(spec: OpSpec, shape: LayerShape) -> None:
    tensors = spec.arguments(shape, 2, "float32", META)
    with FlopCounterMode(display=False) as counter:
        spec.call(tensors, shape, "reference")
    # The reference makes its edges with a convolution: two 3x3 filters on every pixel.
    edges = 2 * 2 * 9 * 2 * shape.side**2 if spec.name == "sobel_stem" else 0
    assert spec.work(shape, 2, 4).flops == counter.get_total_flops() - edges


def test_presets_share_the_shapes_that_are_tuned() -> None:
    """Each preset's stem has an entry of its own."""
    widths = {
        shape.channels
        for padded in ("16", "32", "64")
        for _, _, shape in OPS["sobel_stem"].tuning("float16", padded).timed
    }
    assert widths == {config.embed_dim // 2 for config in PRESETS.values()}
