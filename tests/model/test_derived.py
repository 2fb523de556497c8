"""Tensors that a module derives from its weights: when they are kept."""

from __future__ import annotations

import copy
import io
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clinreadnet.model.derived import Derived, DerivingModule, buffer_derived
from clinreadnet.model.network import PRESETS, ClinReadNet


class Doubler(DerivingModule):
    """A module that doubles its weight and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.computed = 0

    def forward(self, dtype: torch.dtype = torch.float32) -> Tensor:
        def compute() -> Derived:
            self.computed += 1
            return (2 * self.weight.to(dtype).T,)

        return self.derived("double", [self.weight], dtype, compute)[0]


@pytest.fixture
def doubler() -> Doubler:
    """Return a module in evaluation mode that has kept a derived tensor."""
    module = Doubler().eval()
    with torch.no_grad():
        module()
    assert module.computed == 1
    return module


def test_is_computed_once(doubler: Doubler) -> None:
    with torch.no_grad():
        first = doubler()
    with torch.inference_mode():
        assert doubler() is first
    assert doubler.computed == 1
    assert first.is_contiguous(), "kernels would copy it at every launch"


def replace_data(module: Doubler) -> None:
    module.weight.data = torch.full((2, 3), 7.0)


def replace_data_twice(module: Doubler) -> None:
    """Replace the data twice: the second may get the memory and the version of the first."""
    module.weight.data = torch.zeros(2, 3)
    module.weight.data = torch.full((2, 3), 7.0)


def write_through_data(module: Doubler) -> None:
    module.weight.data.fill_(7)
    module.eval()


def replace_parameter(module: Doubler) -> None:
    module.weight = nn.Parameter(torch.full((2, 3), 7.0))


def write_in_place(module: Doubler) -> None:
    with torch.no_grad():
        module.weight.fill_(7)


def step(module: Doubler) -> None:
    """Take a step of an optimizer, without a change of mode."""
    module.weight.grad = torch.full((2, 3), -6.0)
    torch.optim.SGD(module.parameters(), lr=1.0).step()


def load(module: Doubler) -> None:
    module.load_state_dict({"weight": torch.full((2, 3), 7.0)})


def assign(module: Doubler) -> None:
    module.load_state_dict({"weight": torch.full((2, 3), 7.0)}, assign=True)


@pytest.mark.parametrize(
    "change",
    [
        replace_data,
        replace_data_twice,
        write_through_data,
        replace_parameter,
        write_in_place,
        step,
        load,
        assign,
    ],
)
def test_follows_the_weights(doubler: Doubler, change: Callable[[Doubler], None]) -> None:
    change(doubler)
    with torch.no_grad():
        assert torch.equal(doubler(), torch.full((3, 2), 14.0))


def test_training_computes_at_every_call(doubler: Doubler) -> None:
    doubler.train()
    with torch.no_grad():
        doubler()
        doubler()
    assert doubler.computed == 3


def test_gradients_reach_the_weights(doubler: Doubler) -> None:
    for expected in (2.0, 4.0):  # a kept graph could not be walked twice
        doubler().sum().backward()
        assert torch.equal(doubler.weight.grad, torch.full((2, 3), expected))
    doubler.weight.requires_grad_(False)
    doubler()
    assert doubler.computed == 3, "nothing asks for gradients: what is kept is good enough"


def test_another_dtype_is_computed(doubler: Doubler) -> None:
    with torch.no_grad():
        assert doubler(torch.float64).dtype == torch.float64
        assert doubler(torch.float32).dtype == torch.float32


def test_conversions_drop_what_is_kept(doubler: Doubler) -> None:
    for convert in (doubler.half, lambda: doubler.to("meta")):
        with torch.no_grad():
            value = doubler()
        assert value.dtype == torch.float32
        kept = weakref.ref(value)
        del value
        assert kept() is not None
        convert()
        assert kept() is None


def test_weights_of_inference_mode_are_not_kept() -> None:
    """They have no version: a write in place would not be seen."""
    with torch.inference_mode():
        module = Doubler().eval()
        module()
        module.weight.fill_(7)
        assert torch.equal(module(), torch.full((3, 2), 14.0))


def test_an_ensemble_under_vmap() -> None:
    module = Doubler().eval()
    stacked = {"weight": torch.stack([torch.ones(2, 3), torch.full((2, 3), 7.0)])}
    with torch.no_grad():
        module()
        out = torch.vmap(lambda weights: torch.func.functional_call(module, weights, ()))(stacked)
    assert out[:, 0, 0].tolist() == [2, 14]


def test_neither_copies_nor_states_contain_it(doubler: Doubler) -> None:
    assert list(doubler.state_dict()) == ["weight"]
    twin = copy.deepcopy(doubler)
    with torch.no_grad():
        twin()
        assert twin.computed == 2
        assert doubler() is doubler() and doubler.computed == 1
        twin.weight.fill_(7)
        assert torch.equal(twin(), torch.full((3, 2), 14.0))
        assert torch.equal(doubler(), torch.full((3, 2), 2.0))
    file = io.BytesIO()
    torch.save(doubler, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with torch.no_grad():
        loaded()
    assert loaded.computed == doubler.computed + 1


def test_fake_tensors_do_not_leak(doubler: Doubler) -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    doubler.eval()
    with torch.no_grad():
        with FakeTensorMode(allow_non_fake_inputs=True):
            doubler()
        assert not isinstance(doubler(), FakeTensor)


class Capture:
    """Replaces CUDA: it reports whether a graph is captured, and counts waits for a stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capturing, self.waits = False, 0
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: self.capturing)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)

    def synchronize(self) -> None:
        assert not self.capturing, "a wait would end the capture with an error"
        self.waits += 1


def test_a_capture_keeps_nothing_that_is_not_yet_computed(
    doubler: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Capture(monkeypatch)
    doubler.eval()
    with torch.no_grad():
        cuda.capturing = True
        doubler()
        cuda.capturing = False
        doubler()
        doubler()
    assert doubler.computed == 3
    assert cuda.waits == 1, "another stream may read it next"


def test_the_network_follows_its_weights() -> None:
    """Every tensor of the network decides its outputs after it was written in place."""
    torch.manual_seed(0)
    model = ClinReadNet(PRESETS["tiny"]).eval()
    hu = torch.randn(1, 1, 256, 256) * 300
    with torch.no_grad():
        before = torch.cat([output.flatten() for output in model(hu)])
        kept = {module for module in model.modules() if isinstance(module, DerivingModule)}
        sources = [tensor for module in kept for tensor in module.state_dict().values()]
        for tensor in sources:
            tensor.add_(0.1 * torch.rand_like(tensor))
        after = torch.cat([output.flatten() for output in model(hu)])
        fresh = torch.cat([output.flatten() for output in copy.deepcopy(model)(hu)])
    assert torch.equal(after, fresh) and not torch.equal(after, before)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda module: module.half(), id="conversion"),
        pytest.param(lambda module: module.train().eval(), id="train"),
        pytest.param(lambda module: module.load_state_dict(Doubler().state_dict()), id="load"),
    ],
)
def test_buffers_go_with_the_weights(doubler: Doubler, change: Callable[[Doubler], object]) -> None:
    buffer_derived(doubler)
    assert list(dict(doubler.named_buffers())) == ["derived_double_0"]
    assert list(doubler.state_dict()) == ["weight"]
    change(doubler)
    assert not dict(doubler.named_buffers())


def test_an_export_computes_from_the_weights() -> None:
    doubler = Doubler().eval()
    buffer_derived(doubler)
    with torch.no_grad():
        program = torch.export.export(doubler, ())
    assert "weight" in str(program.graph_signature) and "aten.mul.Tensor" in str(program.graph)
