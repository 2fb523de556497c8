"""Muon for the matrices of the stages, AdamW for everything else, as one optimiser.

Muon (Jordan et al. 2024) makes a matrix's update orthogonal. On this network it learns noise, which
is invisible to a nearly linear MLP at first, in minutes where AdamW takes hours (docs/training.md).
Both update from gradients that all processes share, so that every process takes the same step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clinreadnet.errors import InputError
from clinreadnet.model.network import ClinReadNet

MUON_RATE = 2.0
"""Learning rate of the matrices over that of the rest."""

HEAD_RATE = 2.0
"""Learning rate of the head over that of the rest."""


class Optimisers:
    """Two optimisers with one learning rate.

    Args:
        model: whose parameters to train, those that require a gradient.
        weight_decay: of the matrices of the stages; nothing else decays.
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
        """Forget the gradients."""
        for optimiser in self._all:
            optimiser.zero_grad(set_to_none=True)

    def step(self, learning_rate: float) -> None:
        """Take a step with this learning rate."""
        for optimiser in self._all:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * group["times"]
            optimiser.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each, for `load_state_dict`."""
        return [optimiser.state_dict() for optimiser in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Continue from a state.

        Raises:
            InputError: it is the state of another network's optimisers.
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
    """Whether Muon takes a parameter: the weight of a linear layer, no table and no gate."""
    return name.startswith("stages.") and parameter.ndim == 2 and name.endswith(".weight")


def _shapes(optimiser: torch.optim.Optimizer) -> list[list[tuple[int, ...]]]:
    return [[tuple(p.shape) for p in group["params"]] for group in optimiser.param_groups]


def _shapes_of(
    optimiser: torch.optim.Optimizer, state: dict[str, Any]
) -> list[list[tuple[int, ...]]] | None:
    """Shapes that a state was saved for, as far as the moments tell; None if the groups differ."""
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
