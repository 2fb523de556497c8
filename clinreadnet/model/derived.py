"""Cache tensors that a layer derives from its weights only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

Derived = tuple[Tensor, ...]


class _Kept(NamedTuple):
    dtype: torch.dtype
    storages: list[torch.UntypedStorage]
    """Storages of the sources. They are kept alive so that their addresses are not reused."""
    versions: list[int]
    values: Derived


class DerivingModule(nn.Module):
    """A module that caches tensors derived from its weights in evaluation mode.

    The cache is invalidated if a weight is replaced or written in place, by ``train`` or ``eval``,
    and by a conversion such as ``half`` or ``to``. A write through ``weight.data`` is not detected.
    A captured CUDA graph contains the values at the time of the capture.

    The cache is not part of the state dict or of copies of the module.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, _Kept] = {}
        self._buffered: dict[str, tuple[torch.dtype, int]] = {}
        """Type and number of the tensors of each name that are buffers."""

    def derived(
        self,
        name: str,
        sources: Sequence[Tensor],
        dtype: torch.dtype,
        compute: Callable[[], Derived],
    ) -> Derived:
        """Return the tensors of ``compute``, from the cache if the sources have not changed.

        The cache is not used in training, if gradients reach ``sources``, and while
        ``torch.compile`` or ``torch.export`` traces. ``torch.compile`` uses the buffers of
        `buffer_derived`.

        Args:
            name: name of the tensors, unique within the module.
            sources: all weights and buffers that they depend on.
            dtype: further key of the cache.
            compute: function that computes the tensors.
        """
        if torch.compiler.is_compiling() or self.training:
            known, count = self._buffered.get(name, (None, 0))
            if known != dtype or torch.compiler.is_exporting():
                return compute()
            return tuple(getattr(self, _buffer(name, place)) for place in range(count))
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
            return values  # for example fake tensors of a tracer
        if sources[0].is_cuda:
            if torch.cuda.is_current_stream_capturing():  # computed when the graph is replayed
                return values
            # The next call can be on another stream.
            torch.cuda.current_stream(sources[0].device).synchronize()
        self._kept[name] = _Kept(dtype, storages, versions, values)
        return values

    def wide(self, name: str, dtype: torch.dtype, *sources: Tensor) -> Derived:
        """Return weights or buffers converted to ``dtype``, cached as in ``derived``."""
        return self.derived(
            name, sources, dtype, lambda: tuple(source.to(dtype) for source in sources)
        )

    def train(self, mode: bool = True) -> Self:
        """Set the mode and clear the cache."""
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._forget()
        module: Self = super()._apply(fn, recurse)
        return module

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*arguments)

    def _forget(self) -> None:
        for name, (_, count) in self._buffered.items():
            for place in range(count):
                delattr(self, _buffer(name, place))
        self._kept, self._buffered = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}


def _buffer(name: str, place: int) -> str:
    return f"derived_{name}_{place}"


@torch.no_grad()
def buffer_derived(model: nn.Module, *example: Tensor) -> None:
    """Make the derived tensors of a model buffers, so that ``torch.compile`` computes none of them.

    Compile the model afterwards. A compiled model does not follow a weight that is written in
    place. ``train``, ``eval``, a conversion and ``load_state_dict`` remove the buffers, which are
    not part of the state dict.

    Args:
        model: model in evaluation mode.
        example: inputs of the model, of any batch.
    """
    model(*example)
    for module in model.modules():
        if isinstance(module, DerivingModule):
            for name, kept in module._kept.items():
                for place, value in enumerate(kept.values):
                    module.register_buffer(_buffer(name, place), value, persistent=False)
                module._buffered[name] = kept.dtype, len(kept.values)
