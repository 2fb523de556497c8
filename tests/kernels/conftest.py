from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill new tensors with NaN, to show what a kernel does not write."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def count_launches(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[str]]:
    """Return a function that watches a kernel's module. Its list grows with each launch."""

    def watch(module: Any) -> list[str]:
        launched: list[str] = []
        wrap = module.wrap_triton

        def counted(kernel: object) -> object:
            launched.append(str(kernel))
            return wrap(kernel)

        monkeypatch.setattr(module, "wrap_triton", counted)
        return launched

    return watch


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.cpu().double() - expected).norm() / expected.norm()).item()


@pytest.fixture
def within_budget() -> Callable[[Tensor, Tensor, Tensor], None]:
    """Assert that an error is at most twice the reference's plus one rounding of the type."""

    def check(actual: Tensor, reference: Tensor, expected: Tensor) -> None:
        assert (actual.dtype, actual.shape) == (reference.dtype, reference.shape)
        rounding = torch.finfo(actual.dtype).eps / 2
        budget = 2 * (relative_error(reference, expected) + rounding)
        assert relative_error(actual, expected) <= budget

    return check
