"""Tensors that a layer computes from its weights alone, kept from one evaluation to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

Derived = tuple[Tensor, ...]


class _Kept(NamedTuple):
    dtype: torch.dtype
    storages: list[torch.UntypedStorage]
    """Of the sources. Held, so that no other tensor can take their place in memory."""
    versions: list[int]
    values: Derived


class DerivingModule(nn.Module):
    """A module that computes some tensors from its weights once, in evaluation mode.

    It computes them again after a weight was replaced or written in place, after ``train`` or
    ``eval``, and after a conversion such as ``half`` or ``to``. A write through ``weight.data``
    counts only after one of those calls. A captured CUDA graph contains the values of its capture.

    What is kept is neither in the state nor in copies of the module.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, _Kept] = {}

    def derived(
        self,
        name: str,
        sources: Sequence[Tensor],
        dtype: torch.dtype,
        compute: Callable[[], Derived],
    ) -> Derived:
        """Return the tensors of ``compute``, from an earlier call where nothing has changed.

        Every call computes them in training, where gradients reach ``sources``, and in a graph that
        ``torch.compile`` or ``torch.export`` traces.

        Args:
            name: of these tensors within the module.
            sources: all weights and buffers that they depend on.
            dtype: what else they depend on.
            compute: computes them.
        """
        if torch.compiler.is_compiling() or self.training:
            return compute()
        if torch.is_grad_enabled() and any(source.requires_grad for source in sources):
            return compute()
        try:
            storages = [source.untyped_storage() for source in sources]
            versions = [source._version for source in sources]
        except RuntimeError:  # tensors of inference mode have no version, those of vmap no storage
            return compute()
        kept = self._kept.get(name)
        if (
            kept is not None
            and kept.dtype == dtype
            and kept.versions == versions
            and [storage._cdata for storage in kept.storages]
            == [storage._cdata for storage in storages]
        ):
            return kept.values
        values = tuple(value.contiguous() for value in compute())
        if any(type(value) not in (Tensor, nn.Parameter) for value in values):
            return values  # such as the fake tensors of a tracer
        if sources[0].is_cuda:
            if torch.cuda.is_current_stream_capturing():  # computed when the graph is replayed
                return values
            # The next call may be on another stream.
            torch.cuda.current_stream(sources[0].device).synchronize()
        self._kept[name] = _Kept(dtype, storages, versions, values)
        return values

    def wide(self, name: str, dtype: torch.dtype, *sources: Tensor) -> Derived:
        """Return weights or buffers in ``dtype``; as ``derived``."""
        return self.derived(
            name, sources, dtype, lambda: tuple(source.to(dtype) for source in sources)
        )

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and compute again."""
        self._kept = {}
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._kept = {}
        module: Self = super()._apply(fn, recurse)
        return module

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}
