"""The Triton kernel against the float64 oracle, in the interpreter or on a GPU."""

from typing import Any

import pytest
import torch
from support.kernel_tests import (
    DEVICES,
    NEEDS_TRITON,
    assert_gradients_are_the_references,
    by_dtype,
    skip_wrong_products,
)
from support.oracles import fused_linear_oracle
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from clinreadnet.kernels import fused_linear
from clinreadnet.kernels.dispatch import Impl
from clinreadnet.kernels.launch import launch_config, trial
from clinreadnet.kernels.ptx.cases import uneven
from clinreadnet.kernels.ptx.inputs import fused_linear_inputs

pytestmark = NEEDS_TRITON
DTYPES = by_dtype(torch.float16, torch.bfloat16)
NAMES = "x weight bias norm_weight norm_bias residual".split()
PARTS = [
    pytest.param({}, False, id="linear"),
    pytest.param({"norm": True}, False, id="qkv"),
    pytest.param({"residual": True}, False, id="projection"),
    pytest.param({"norm": True}, True, id="fc1"),
    pytest.param({"norm": True, "residual": True}, True, id="all"),
]


def inputs(
    *shape: int, outputs: int, dtype: torch.dtype = torch.float16, device: str = "cpu", **parts: Any
) -> dict[str, Tensor]:
    made = fused_linear_inputs(*shape, outputs=outputs, **parts)
    return {name: tensor.to(device, dtype) for name, tensor in made.items()}


def on(device: str, args: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in args.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("parts", "gelu"), PARTS)
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [
        pytest.param((1, 32), 96, id="one-token"),
        pytest.param((3, 5, 9, 96), 160, id="last-tile-in-part-and-narrow-tiles"),
        pytest.param((2, 64, 192), 256, id="whole-tiles"),
        pytest.param((2, 64, 64), 192, id="last-outputs-in-part"),
    ],
)
def test_within_budget(
    poisoned,
    within_budget,
    count_launches,
    device: str,
    dtype: torch.dtype,
    parts: dict[str, bool],
    gelu: bool,
    shape: tuple[int, ...],
    outputs: int,
) -> None:
    skip_wrong_products(device, dtype)
    from clinreadnet.kernels.ops.fused_linear import kernel as fused_linear_triton

    launches = count_launches(fused_linear_triton)
    args = inputs(*shape, outputs=outputs, dtype=dtype, **parts)
    expected = fused_linear_oracle(**args, gelu=gelu)
    actual = fused_linear(**on(device, args), gelu=gelu, impl="triton")
    assert len(launches) == 1
    reference = fused_linear(**args, gelu=gelu, impl="reference")
    within_budget(actual, reference, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [
        pytest.param((1, 2, 2, 8), 64, id="one-token"),
        pytest.param((3, 6, 14, 48), 96, id="odd-batch-h-not-w"),
        pytest.param((1, 16, 8, 32), 32, id="whole-tiles"),
    ],
)
def test_merged_tokens_within_budget(
    poisoned, within_budget, device: str, dtype: torch.dtype, shape: tuple[int, ...], outputs: int
) -> None:
    """Channels of 2x2 neighbours lie in two runs; a chunk of channels crosses neither."""
    skip_wrong_products(device, dtype)
    args = inputs(*shape, outputs=outputs, dtype=dtype, norm=True, merge=True)
    args["x"] = uneven(args["x"])
    expected = fused_linear_oracle(**args, gelu=False, merge=True)
    actual = fused_linear(**on(device, args), merge=True, impl="triton")
    within_budget(actual, fused_linear(**args, merge=True, impl="reference"), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "channels", "value"),
    [
        pytest.param("x", slice(None), 0.7, id="constant-input"),
        pytest.param("x", slice(None), 6e4, id="constant-near-the-largest-half"),
        pytest.param("x", slice(1), 6e4, id="first-channel-far-from-the-mean"),
        pytest.param("x", slice(1, None), 6e4, id="all-but-the-first-far-away"),
        pytest.param("bias", slice(None), 1e4, id="huge-output"),
        pytest.param("bias", slice(None), -1e4, id="dead-output"),
    ],
)
def test_extremes(
    poisoned, within_budget, device: str, name: str, channels: slice, value: float
) -> None:
    """The variance comes from differences to the first channel, whose squares are huge here."""
    args = inputs(5, 192, outputs=64, norm=True, residual=True)
    args[name][..., channels] = value
    expected = fused_linear_oracle(**args, gelu=True)
    actual = fused_linear(**on(device, args), gelu=True, impl="triton")
    assert actual.isfinite().all()
    within_budget(actual, fused_linear(**args, gelu=True, impl="reference"), expected)


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize(
    ("tokens", "size"),
    [(1, "small"), (1024, "small"), (1025, "medium"), (8192, "medium"), (8193, "large")],
)
def test_the_number_of_tokens_decides_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tokens: int, size: str, norm: bool
) -> None:
    from clinreadnet.kernels.launch import launch_config, trial
    from clinreadnet.kernels.ops.fused_linear import kernel

    keys = "fused_linear", "float16", "norm" if norm else "plain", size
    launched: list[dict[str, Any]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *args, **constants: launched.append(constants)

    monkeypatch.setattr(kernel, "wrap_triton", lambda function: Recorder())
    args = inputs(tokens, 32, outputs=32, norm=norm)
    tensors = [args.get(name) for name in NAMES]
    with trial(launch_config("", 0, *keys) | {"block_m": 16, "num_warps": 2}, *keys):
        kernel.fused_linear_op._init_fn(*tensors, gelu=False, eps=1e-5)
    assert (launched[0]["BLOCK_M"], launched[0]["num_warps"]) == (16, 2)


@pytest.mark.parametrize("device", DEVICES)
def test_eps_reaches_the_kernel(device: str) -> None:
    args = inputs(5, 32, outputs=32, norm=True, device=device)
    out = fused_linear(**args, eps=1.0, impl="triton")
    expected = fused_linear(**args, eps=1.0, impl="reference")
    torch.testing.assert_close(out, expected, rtol=4e-3, atol=4e-3)
    assert not torch.allclose(out, fused_linear(**args, impl="triton"), rtol=4e-2, atol=4e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_may_have_any_strides(device: str) -> None:
    args = inputs(5, 32, outputs=96, norm=True, device=device)
    expected = fused_linear(**args, impl="triton")
    args["weight"] = args["weight"].t().contiguous().t()
    for name in ("bias", "norm_weight", "norm_bias"):
        args[name] = args[name].repeat_interleave(2)[::2]
    assert torch.equal(fused_linear(**args, impl="triton"), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("parts", "needed"),
    [
        pytest.param({"norm": True, "residual": True}, None, id="all"),
        pytest.param({"residual": True}, ["x", "residual"], id="without-norm"),
        pytest.param({"norm": True}, ["weight", "norm_bias"], id="some"),
        pytest.param({"norm": True, "merge": True}, None, id="merge"),
    ],
)
def test_gradients_are_the_references(
    device: str, parts: dict[str, bool], needed: list[str] | None
) -> None:
    merge = parts.get("merge", False)
    args = inputs(*((3, 2, 4, 32) if merge else (3, 5, 32)), outputs=64, **parts)

    def op(*tensors: Tensor, impl: Impl) -> Tensor:
        named = dict(zip(args, tensors, strict=True))
        return fused_linear(**named, gelu=True, merge=merge, impl=impl)

    places = [place for place, name in enumerate(args) if needed is None or name in needed]
    assert_gradients_are_the_references(op, list(args.values()), places, device)


@pytest.mark.interpret
def test_empty_batch() -> None:
    args = inputs(0, 4, 32, outputs=64, norm=True, residual=True)
    assert fused_linear(**args, impl="triton").shape == (0, 4, 64)


@pytest.mark.interpret
@pytest.mark.parametrize(
    ("parts", "gelu"), [*PARTS[1:4], pytest.param({"norm": True, "merge": True}, False, id="merge")]
)
def test_registrations_agree(parts: dict[str, bool], gelu: bool) -> None:
    from clinreadnet.kernels.ops.fused_linear.kernel import fused_linear_op

    merge = parts.get("merge", False)
    args = inputs(*((3, 2, 4, 32) if merge else (3, 5, 32)), outputs=64, **parts)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for x in (args["x"], args["x"].clone().requires_grad_()):
        tensors = [(args | {"x": x}).get(name) for name in NAMES]
        constants = {"gelu": gelu, "eps": 1e-5, "merge": merge}
        torch.library.opcheck(fused_linear_op, tensors, constants, test_utils=checks)


def test_the_op_on_the_cpu_is_the_reference() -> None:
    from clinreadnet.kernels.ops.fused_linear.kernel import fused_linear_op

    args = inputs(3, 5, 32, outputs=64, norm=True, residual=True)
    expected = fused_linear(**args, gelu=True, impl="reference")
    assert torch.equal(fused_linear_op(**args, gelu=True, eps=1e-5), expected)


LIBRARY = ("fused_linear", "float16", "plain", "small")


@pytest.mark.parametrize(
    ("sides", "least", "launched"),
    [
        pytest.param("32x64", 16, 1, id="below"),
        pytest.param("32x64", 15, 0, id="at"),
        pytest.param("32x64", 14, 0, id="above"),
        pytest.param("64x32", 1, 1, id="other-layer"),
    ],
)
def test_the_library_computes_a_layer_from_a_number_of_tokens_on(
    monkeypatch: pytest.MonkeyPatch, sides: str, least: int, launched: int
) -> None:
    from clinreadnet.kernels.ops.fused_linear import kernel

    launches: list[object] = []
    launcher = {"__getitem__": lambda self, grid: lambda *args, **constants: launches.append(grid)}
    monkeypatch.setattr(kernel, "wrap_triton", lambda function: type("", (), launcher)())
    args = inputs(3, 5, 32, outputs=64, residual=True)
    config = launch_config("", 0, *LIBRARY) | {"library": {sides: least}}
    with trial(config, *LIBRARY):
        rest = dict.fromkeys(NAMES) | args
        out = kernel.fused_linear_op._init_fn(**rest, gelu=True, eps=1e-5)
    assert len(launches) == launched
    if not launched:
        assert torch.equal(out, fused_linear(**args, gelu=True, impl="reference"))


@pytest.mark.parametrize(
    "library",
    [{"32x64": 0}, {"32x64": -5}, {"32x64": 0.5}, {"32x64": True}, {"32": 5}, {"0x64": 5}, [5], 7],
    ids=str,
)
def test_a_nonsense_number_of_tokens_is_refused_in_a_line(library: object) -> None:
    from clinreadnet.kernels.ops.fused_linear.kernel import fused_linear_config

    with trial(launch_config("", 0, *LIBRARY) | {"library": library}, *LIBRARY):
        with pytest.raises(ValueError) as refused:
            fused_linear_config(False, 15, torch.float16, "", 0)
    (line,) = str(refused.value).splitlines()
    where = f"default.json: fused_linear/float16/plain/small: library={library!r}"
    assert f"{where}: give a number of tokens" in line


@pytest.mark.parametrize(
    ("channels", "outputs", "change", "message"),
    [
        pytest.param(32, 32, {}, "needs CUDA tensors, not cpu", id="cpu"),
        pytest.param(
            32,
            32,
            {"x": torch.float32, "residual": torch.float32},
            "float16 or bfloat16, not torch.float32",
            id="float32",
        ),
        pytest.param(
            32,
            32,
            {"bias": torch.float32},
            "in the dtype of x, torch.float16, not torch.float16, torch.float32",
            id="mixed",
        ),
        pytest.param(32, 32, {"x": None}, "contiguous x", id="transposed"),
        pytest.param(
            32,
            32,
            {"residual": torch.bfloat16},
            "a residual in the dtype of x, torch.float16, not torch.bfloat16",
            id="mixed-residual",
        ),
        pytest.param(32, 32, {"residual": None}, "contiguous residual", id="transposed-residual"),
        pytest.param(48, 32, {}, "multiple of 32 as channels, not 48", id="channels"),
        pytest.param(32, 80, {}, "multiple of 32 as channels, not 80", id="outputs"),
    ],
)
def test_triton_outside_its_limits_is_refused(
    channels: int, outputs: int, change: dict[str, torch.dtype | None], message: str
) -> None:
    args = inputs(2, 2, channels, outputs=outputs, norm=True, residual=True)
    for name, dtype in change.items():
        args[name] = args[name].transpose(0, 1) if dtype is None else args[name].to(dtype)
    with pytest.raises(ValueError, match=message):
        fused_linear(**args, impl="triton")


def test_refused_before_compute_capability_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinreadnet.kernels.dispatch.gpu_of", lambda device: ("T4", 75))
    made = inputs(5, 32, outputs=32)
    with FakeTensorMode():
        args = {k: torch.empty(t.shape, dtype=t.dtype, device="cuda") for k, t in made.items()}
        with pytest.raises(ValueError, match="needs compute capability 8.0 or later, not 7.5"):
            fused_linear(**args, impl="triton")
        assert fused_linear(**args).shape == (5, 32)
