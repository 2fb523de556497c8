"""Muon for the matrices of the stages, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024) orthogonalises the update of a matrix. With it, this network learns to
measure noise in minutes, with AdamW in hours (docs/training.md). Gradients are averaged over all
processes, so every process takes the same step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clinreadnet.errors import InputError
from clinreadnet.model.network import ClinReadNet

MUON_RATE = 2.0
"""Learning rate of the matrices relative to the rest."""

HEAD_RATE = 2.0
"""Learning rate of the head relative to the rest."""


class Optimisers:
    """Two optimisers with a common learning rate.

    Args:
        model: network. Parameters that require a gradient are trained.
        weight_decay: weight decay of the stages' matrices; other parameters do not decay.
    """

    def __init__(self, model: ClinReadNet, weight_decay: float):
        head = {id(p) for p in model.head.parameters()}
        matrices, rest, of_head = [], [], []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if id(parameter) in head:
                of_head.append(parameter)
            elif _is_matrix(name, parameter):
                matrices.append(parameter)
            else:
                rest.append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": rest, "times": 1.0},
            {"params": of_head, "times": HEAD_RATE},
        ]
        groups = [group for group in groups if group["params"]]
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, weight_decay=0.0, betas=(0.9, 0.98))
        ]
        if matrices:
            muon = torch.optim.Muon(
                matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            muon.param_groups[0]["times"] = MUON_RATE
            self._all.append(muon)

    def zero_grad(self) -> None:
        """Set the gradients to None."""
        for optimiser in self._all:
            optimiser.zero_grad(set_to_none=True)

    def step(self, learning_rate: float) -> None:
        """Take a step with this learning rate."""
        for optimiser in self._all:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * group["times"]
            optimiser.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of both, for `load_state_dict`."""
        return [optimiser.state_dict() for optimiser in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load the states of `state_dict`.

        Raises:
            InputError: the states are of another network.
        """
        fits = len(states) == len(self._all) and all(
            _shapes(optimiser) == _shapes_of(optimiser, state)
            for optimiser, state in zip(self._all, states, strict=True)
        )
        if not fits:
            raise InputError("the saved state of the optimiser is of another network")
        for optimiser, state in zip(self._all, states, strict=True):
            optimiser.load_state_dict(state)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Return whether Muon trains a parameter: weights of linear layers, not tables or gates."""
    return name.startswith("stages.") and parameter.ndim == 2 and name.endswith(".weight")


def _shapes(optimiser: torch.optim.Optimizer) -> list[list[tuple[int, ...]]]:
    return [[tuple(p.shape) for p in group["params"]] for group in optimiser.param_groups]


def _shapes_of(
    optimiser: torch.optim.Optimizer, state: dict[str, Any]
) -> list[list[tuple[int, ...]]] | None:
    """Return the shapes of a saved state, from its moments; None if the groups differ."""
    groups = state["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in optimiser.param_groups]:
        return None
    shapes = []
    for group, saved in zip(optimiser.param_groups, groups, strict=True):
        row = []
        for parameter, number in zip(group["params"], saved["params"], strict=True):
            moments = state["state"].get(number, {})
            moment = next((m for m in moments.values() if getattr(m, "ndim", 0) > 0), parameter)
            row.append(tuple(moment.shape))
        shapes.append(row)
    return shapes
