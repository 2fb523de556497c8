"""Kernels as plugins: sizes, PTX, and the layers that use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from bench.records.ptx import NETWORKS
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export.kernels import SHARED_MEMORY, Kernel
from clinreadnet.export.plugins import kernel, plan
from clinreadnet.export.plugins.kernel import (
    ISA,
    Native,
    PluginKernel,
    isa_of,
    prepared,
    without_hidden,
)
from clinreadnet.export.plugins.plan import check_precisions, make_plan
from clinreadnet.export.plugins.request import parse_plugins, plugin_ops
from clinreadnet.kernels.grid import HEADS, TOKENS, B, Formula, H, bound_sizes, ceil_div, shape_text
from clinreadnet.kernels.registry import OPS
from clinreadnet.model.network import PRESETS, ClinReadNetConfig
from clinreadnet.runtime.bundle.plugins import DRIVER_OF_ISA

PTX = """.version 8.0
.target sm_80
.visible .entry add(
\t.param .u64 .ptr .global .align 1 add_param_0,
\t.param .u32 add_param_1,
\t.param .u64 .ptr .global .align 1 add_param_2,
\t.param .u64 .ptr .global .align 1 add_param_3,
\t.param .u64 .ptr .global .align 1 add_param_4
)
.reqntid 128
{
\tld.param.b64 %rd1, [add_param_2];
\tret;
}
"""


class Symbol:
    """An integer like TensorRT's expressions: numbers can only be right operands."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __add__(self, other: Any) -> Symbol:
        return Symbol(self.value + (other.value if isinstance(other, Symbol) else other))

    def __mul__(self, other: Any) -> Symbol:
        return Symbol(self.value * (other.value if isinstance(other, Symbol) else other))

    def __floordiv__(self, other: int) -> Symbol:
        return Symbol(self.value // other)


def test_a_formula_is_a_c_expression_and_its_value() -> None:
    """On numbers, on symbolic integers, and as a C host evaluates the text."""
    sizes = {"B": 3, "H": 5, "tokens": 135, "heads": 6}
    symbolic = {name: Symbol(value) for name, value in sizes.items()}
    formulas: dict[str, Formula] = {
        "B * (((H + 1) / 2) + 3)": B * ((H + 1) // 2 + 3),
        "3 * heads * 16": 3 * HEADS * 16,
        "((tokens + 63) / 64)": ceil_div(TOKENS, 64),
        "B * (H / 2) * 1": B * (H // 2) * 1,
    }
    for text, formula in formulas.items():
        assert formula.text == text
        by_hand = eval(text.replace("/", "//"), {}, sizes)
        assert formula.at(sizes) == formula.at(symbolic).value == by_hand
    assert formulas["B * (((H + 1) / 2) + 3)"].at(sizes) == 3 * 6
    with pytest.raises(KeyError):
        Formula("W").at(sizes)
    for wrong in (lambda: B // H, lambda: 64 // TOKENS, lambda: B - 1, lambda: B % 2):  # type: ignore[operator]
        with pytest.raises(TypeError):
            wrong()
    assert shape_text((B, (H + 1) // 2, 3 * HEADS * 16, 24)) == (
        "[B, (H + 1) / 2, 3 * heads * 16, 24]"
    )


def test_sizes_come_from_the_inputs() -> None:
    declared = {"x": (TOKENS, 48), "bias": (HEADS, 64, 64)}
    actual = {"x": (3, 5, 9, 48), "bias": (6, 64, 64)}
    assert bound_sizes(declared, actual) == {"tokens": 135, "heads": 6}
    with pytest.raises(ValueError, match=r"x: has 1 dimensions, not \[tokens, 48\]"):
        bound_sizes(declared, actual | {"x": (48,)})
    with pytest.raises(ValueError, match="bias: has 4 dimensions"):
        bound_sizes({"bias": (64, 64)}, {"bias": (1, 6, 64, 64)})


def test_hidden_parameters_are_cut() -> None:
    cut = without_hidden(PTX, "add", 2)
    assert "add_param_2" in cut and "add_param_3" not in cut and "add_param_4" not in cut
    assert cut.count("\t.param") == 3 and cut.endswith(PTX[PTX.index(".reqntid") :])
    with pytest.raises(CheckFailed, match="reads its hidden parameter add_param_2"):
        without_hidden(PTX, "add", 3)
    with pytest.raises(CheckFailed, match="sub: not a kernel of this PTX"):
        without_hidden(PTX, "sub", 2)
    assert isa_of(PTX) == "8.0"


def test_a_kernel_that_takes_its_arguments_in_another_order_is_refused() -> None:
    plugin = small().of_target("sm80")["mlp_48_16384"]
    launch, of = plugin.launch, (plugin.source, plugin.grid)
    hidden = [replace(launch.arguments[0], name=f"h{i}", value=0) for i in range(2)]
    whole = plugin.ptx.replace("\n)", ",\n.param .u64 h0,\n.param .u64 h1\n)", 1)
    kept = replace(launch, arguments=(*launch.arguments, *hidden))
    assert prepared(*of, kept, whole.encode()).launch.arguments == launch.arguments
    mixed = (launch.arguments[-1], *launch.arguments[:-1], *hidden)
    with pytest.raises(CheckFailed, match="inputs, integers and the output in this order"):
        prepared(*of, replace(launch, arguments=mixed), whole.encode())
    with pytest.raises(CheckFailed, match="has 11 parameters, not 12; this Triton hides others"):
        prepared(*of, replace(kept, arguments=(*kept.arguments, hidden[0])), whole.encode())


def test_every_gpu_generation_has_an_isa_that_a_driver_is_known_for() -> None:
    assert set(ISA) == set(SHARED_MEMORY)
    assert {f"{isa / 10}" for isa in ISA.values()} <= set(DRIVER_OF_ISA)


def small(ops: Sequence[str] = tuple(plugin_ops()), precision: str = "fp16", **changes: Any) -> Any:
    return make_plan(PRESETS["small"], ops, precision, (), named=False, **changes)


@pytest.mark.compile
def test_the_plan_of_the_shipped_network() -> None:
    """The fused op has priority. Its kernel for 96 channels does not fit."""
    chosen = small()
    assert chosen.layers("sobel_stem") == ("stem",)
    assert set(chosen.layers("attention_block")) == {"stages.0.0", "stages.0.1"}
    windows = chosen.layers("window_attention")
    assert len(windows) == 10 and not any(layer.startswith("stages.0") for layer in windows)
    assert len(chosen.layers("mlp")) == 4
    assert set(chosen.native) == {"attention_block_96_shift0", "attention_block_96_shift4"}
    assert all("bytes of shared memory on sm80" in reason for reason in chosen.native.values())
    names = [node.name for node in chosen.nodes]
    assert len(set(names)) == len(names) and all(name.isidentifier() for name in names)
    assert set(chosen.of_target("sm80")) == set(names)
    alone = small(("window_attention",))
    assert len(alone.layers("window_attention")) == 12


@pytest.mark.compile
def test_a_kernel_that_one_target_refuses_is_no_plugin_of_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = {
        target: made["mlp_96"].launch.dynamic_shared_bytes
        for target, made in make_plan(
            PRESETS["small"], ("mlp",), "fp16", ("sm80", "sm90")
        ).kernels.items()
    }
    assert shared["sm90"] < shared["sm80"]
    monkeypatch.setattr(kernel, "SHARED_BYTES", shared["sm80"] - 1)
    chosen = make_plan(PRESETS["small"], ("mlp",), "fp16", ("sm80", "sm90"))
    assert {node.source.name for node in chosen.nodes} == {"mlp_48"}
    assert "on sm80" in chosen.native["mlp_96"] and set(chosen.kernels) == {"sm80", "sm90"}


def network(**changes: Any) -> ClinReadNetConfig:
    return replace(PRESETS["small"], **changes)


@pytest.mark.parametrize(
    ("config", "op", "precision", "message"),
    [
        (PRESETS["small"], "attention_block", "fp32", "float16 or bfloat16, not torch.float32"),
        (PRESETS["tiny"], "mlp", "fp16", "48 or 96 channels, which no block of this network has"),
        (network(window=16, heads=(3, 6, 12, 24)), "attention_block", "fp16", "a window in 4...8"),
        (NETWORKS["window-11"], "attention_block", "fp16", "48 or 96 channels"),
        (network(use_sobel=False), "sobel_stem", "fp16", "trained without Sobel edges"),
    ],
    ids=["float32", "channels", "window", "other", "edges"],
)
def test_an_op_that_was_named_and_can_run_no_layer_is_an_error(
    config: ClinReadNetConfig, op: str, precision: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        make_plan(config, (op,), precision, ())
    assert str(error.value).startswith(f"plugins={op}: no layer in {precision}: ")


def test_a_network_without_attention_is_refused() -> None:
    with pytest.raises(InputError, match="trained without attention"):
        make_plan(network(use_attention=False), ("mlp",), "fp16", ())


def test_precisions_are_judged_before_anything_is_compiled() -> None:
    check_precisions(plugin_ops(), ["fp16", "bf16"])
    check_precisions(("mlp",), ["fp32", "tf32"])
    with pytest.raises(InputError, match="plugins=attention_block: .*not fp32; leave it out"):
        check_precisions(("mlp", "attention_block"), ["fp16", "fp32"])
    with pytest.raises(InputError, match="int8 graphs are made from quantised layers"):
        check_precisions((), ["int8"])


def test_scratch_memory_and_spills_leave_an_op_native(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = OPS["sobel_stem"]
    (source,) = plan.plugin_sources("sobel_stem", plan.network_shape(PRESETS["small"]))
    whole = kernel.compile_source

    def scratch(*arguments: Any) -> Any:
        compiled = whole(*arguments)
        assert compiled is not None
        metadata = compiled.made.metadata._replace(global_scratch_size=64)

        class Made:
            pass

        Made.metadata = metadata  # type: ignore[attr-defined]
        return replace(compiled, made=Made)

    monkeypatch.setattr(kernel, "compile_source", scratch)
    with pytest.raises(Native, match="needs 64 bytes of scratch memory"):
        kernel.plugin_kernel(spec, source, "fp16", "sm80")

    def spills(*arguments: Any) -> Any:
        raise CheckFailed("sobel_stem fp16 sm80: spills 8 bytes")

    monkeypatch.setattr(kernel, "compile_source", spills)
    with pytest.raises(Native, match="spills 8 bytes"):
        kernel.plugin_kernel(spec, source, "fp16", "sm80")
    with pytest.raises(Native, match="no kernel is compiled for sm121"):
        kernel.plugin_kernel(spec, source, "fp16", "sm121")


def test_a_driver_that_is_too_old_is_said_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "driver_version", lambda: "520.61.05")
    with pytest.raises(CheckFailed, match="PTX ISA 8.0 needs NVIDIA driver 525 or later"):
        plan.check_driver(small(("sobel_stem",)))


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        ("none", ()),
        ("all", ("all",)),
        ("mlp, sobel_stem,mlp", ("mlp", "sobel_stem")),
    ],
)
def test_names(text: str, ops: tuple[str, ...]) -> None:
    assert parse_plugins(text) == ops


def test_unknown_names() -> None:
    for text in ("stem", "", "mlp,all", "auto"):
        with pytest.raises(InputError, match="unknown; give sobel_stem, window_attention"):
            parse_plugins(text)


def test_types() -> None:
    plugin = small(("sobel_stem",)).of_target("sm80")["sobel_stem_512x512"]
    assert isinstance(plugin, PluginKernel) and isinstance(plugin.launch, Kernel)
    assert [a.name for a in plugin.inputs] == ["x", "weight", "bias"]
    assert plugin.extras == ("H", "W") and plugin.output.name == "out"
