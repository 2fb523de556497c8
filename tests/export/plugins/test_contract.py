"""The plugins, registered with TensorRT's real bindings, and what these would build of them.

`plugin_host` calls what TensorRT's builder calls; the PTX and the launch that come back are run on
the CPU against a float64 oracle. TensorRT's own code is not part of it.
"""

from __future__ import annotations

import sys

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from support import plugin_contract
from support.plugin_contract import TYPES
from support.real_bindings import RealBinding, Unavailable

from bench.records.plugins import (
    BROKEN,
    NETWORK,
    REFUSED,
    SOURCES,
    TARGET,
    TOKENS,
    WITH_PLUGINS,
    Call,
    answered,
    run,
)
from clinreadnet.export.kernels import sources
from clinreadnet.export.plugins.kernel import Native
from clinreadnet.export.plugins.request import plugin_ops
from clinreadnet.kernels.ptx.errors import PtxError

pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stubs are ELF libraries"),
]


def calls(binding: RealBinding, *, broken: bool = False) -> list[Call]:
    """Return the answers of a binding to the plugins, or to plugins with a mistake."""
    try:
        return [call for call in answered(binding) if bool(call.request.broken) == broken]
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.whole
@pytest.mark.sample(every=2)
@pytest.mark.parametrize(
    "binding", WITH_PLUGINS[::-1], ids=lambda binding: binding.title.replace(" ", "-")
)
def test_launches_are_those_of_the_package(binding: RealBinding) -> None:
    """The expected sizes of a launch are calculated by hand."""
    assert len(calls(binding)) == 41
    for call in calls(binding):
        answer, sizes = call.answer, call.case.sizes
        expected = call.case.expected.shape
        if "tokens" in sizes:
            expected = torch.Size((*TOKENS[sizes["tokens"]], expected[1]))
        assert tuple(answer["out_shape"]) == expected, call.request
        names = {
            "sobel_stem": ("H", "W"),
            "window_attention": ("heads", "H", "W"),
            "attention_block": ("H", "W"),
            "mlp": ("tokens",),
        }
        (integers,) = (n for op, n in names.items() if call.request.source.startswith(op))
        assert answer["integers"] == [sizes[name] for name in integers], call.request
        assert answer["shared"] <= 48 * 1024
        dtype = {"fp16": "HALF", "fp32": "FLOAT", "bf16": "BF16"}[call.request.precision]
        assert answer["out_type"] == dtype
        assert ".version 8.0" in answer["ptx"] and ".target sm_80\n" in answer["ptx"]


@pytest.mark.whole
def test_both_bindings_answer_the_same() -> None:
    first, *rest = [[call.answer for call in calls(binding)] for binding in WITH_PLUGINS]
    assert rest and all(answers == first for answers in rest)


@pytest.mark.whole
@pytest.mark.sample(every=3)
@pytest.mark.parametrize("source", SOURCES)
def test_what_is_built_computes_what_the_oracle_does(source: str) -> None:
    """The other binding gives the same answers."""
    errors = {
        (call.request.precision, call.case.name): run(call)
        for call in calls(WITH_PLUGINS[-1])
        if call.request.source == source
    }
    assert len(errors) >= 4
    assert {name: over for name, over in errors.items() if not over <= 1} == {}


@pytest.mark.whole
@pytest.mark.parametrize(("source", "broken"), BROKEN, ids=["-".join(pair) for pair in BROKEN])
def test_mistakes_are_seen(source: str, broken: str) -> None:
    """A kernel with a mistake is built and run in the same way."""
    (call,) = (
        call
        for call in calls(WITH_PLUGINS[-1], broken=True)
        if (call.request.source, call.request.broken) == (source, broken)
    )
    with pytest.raises(PtxError, match=BROKEN[source, broken]):
        run(call)


@pytest.mark.parametrize(("source", "precision"), REFUSED, ids=["-".join(pair) for pair in REFUSED])
def test_what_no_plugin_can_be_says_why(source: str, precision: str) -> None:
    with pytest.raises(Native, match=REFUSED[source, precision]):
        plugin_contract.kernel(NETWORK, source, precision, TARGET)


@pytest.mark.whole
def test_inputs_of_another_type_are_refused() -> None:
    refused = [call for call in calls(WITH_PLUGINS[-1], broken=True) if "refused" in call.answer]
    assert [call.request.broken for call in refused] == ["typed-otherwise"]
    assert "x is DataType.FLOAT, not DataType.HALF" in refused[0].answer["refused"]


def test_every_kernel_of_the_network_is_tried() -> None:
    tried = [source for spec, source in sources(NETWORK) if spec.name in plugin_ops()]
    names = {source.name for source in tried if source.plugin}
    assert names == {*SOURCES, *(source for source, _ in REFUSED)}
    assert set(TYPES) == {"float32", "float16", "bfloat16"}
