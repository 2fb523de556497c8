"""The plugins' part of an export: plan, choose on a GPU where that is asked for, write."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import triton

from clinreadnet.errors import InputError
from clinreadnet.export.plugins.artifacts import PluginGraph, plan_graphs, write_graph
from clinreadnet.export.plugins.choose import Choice, Trial, choose, try_engine
from clinreadnet.export.plugins.names import ALL, AUTO, PLUGIN_OPS
from clinreadnet.export.plugins.plan import Plan, make_plan
from clinreadnet.model.network import ClinReadNet
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.manifest import GOLDEN_NAME, Artifact, Manifest
from clinreadnet.runtime.bundle.plugins import Plugins

BuildEngine = Callable[[Artifact, PluginGraph | None, str, Path], Artifact]
"""Builds the engine of a precision from a graph of a folder, into that folder."""


class PluginStep:
    """The plugins of one export.

    Args:
        model: the network.
        wanted: names of ops, or ``ALL`` or ``AUTO`` alone.
        precisions: of the engines.
        targets: of the engines.
        portable: whether the engines are for every GPU since Ampere.
        note: called with one line for each kernel that is no plugin, and each choice.

    Raises:
        InputError: an op that was named can run no layer.
        CheckFailed: the driver of this machine does not know the kernels' PTX.
    """

    def __init__(
        self,
        model: ClinReadNet,
        wanted: Sequence[str],
        precisions: Sequence[str],
        targets: Sequence[str],
        *,
        portable: bool,
        note: Callable[[str], None],
    ) -> None:
        self._model, self._portable, self._note = model, portable, note
        self._precisions = tuple(precisions)
        self._auto = AUTO in wanted
        self._plans = plan_graphs(
            model,
            (ALL,) if self._auto else wanted,
            precisions,
            targets,
            portable=portable,
            note=note,
        )
        self._choices: dict[str, Choice] = {}

    def write(
        self,
        folder: Path,
        plain_of: dict[str, Artifact],
        scratch: Path,
        build: BuildEngine,
        describe: Callable[[Sequence[Artifact]], Manifest],
    ) -> Iterator[PluginGraph]:
        """Write the plugin graph of each precision; none where no plugin was kept.

        Args:
            folder: of the bundle; it holds the graphs and the golden slices.
            plain_of: entries of the graphs without plugins, by precision.
            scratch: folder for the engines of a choice.
            build: builds an engine.
            describe: returns the manifest of some artifacts.
        """
        for plan in self._plans:
            plain = plain_of[plan.precision]
            choice: Choice | None = None
            if self._auto:
                choice = self._choose(plan, folder, plain, scratch, build, describe)
                self._choices[plan.precision] = choice
                self._note(f"{plan.precision}: {choice.line()}")
                if not choice.ops:
                    continue
                plan = self._only(plan, choice.ops)
            made = write_graph(self._model, plan, plain, folder, portable=self._portable)
            if choice is not None and made.artifact.plugins is not None:
                plugins = replace(made.artifact.plugins, choice=choice.to_dict())
                made = replace(made, artifact=replace(made.artifact, plugins=plugins))
            yield made

    def declined(self, precision: str) -> Plugins | None:
        """Return what was measured for a graph's precision where no plugin was kept."""
        choice = self._choices.get(precision)
        if choice is None or choice.ops:
            return None
        return Plugins(triton.__version__, (), {}, (), choice=choice.to_dict())

    def _only(self, plan: Plan, ops: Sequence[str]) -> Plan:
        return make_plan(self._model.config, ops, plan.precision, tuple(plan.kernels))

    def _choose(
        self,
        plan: Plan,
        folder: Path,
        plain: Artifact,
        scratch: Path,
        build: BuildEngine,
        describe: Callable[[Sequence[Artifact]], Manifest],
    ) -> Choice:
        precision = next(p for p in self._precisions if PRECISIONS[p].graph == plan.precision)

        def trial(ops: tuple[str, ...]) -> Trial:
            place = scratch / f"{precision}-{'-'.join(ops) or 'none'}"
            place.mkdir()
            for name in (GOLDEN_NAME, plain.file):
                shutil.copy(folder / name, place)
            made = None
            if ops:
                part = self._only(plan, ops)
                made = write_graph(self._model, part, plain, place, portable=self._portable)
            engine = build(plain, made, precision, place)
            graphs = [plain] if made is None else [plain, made.artifact]
            found = try_engine(ops, place, describe([*graphs, engine]), engine)
            shutil.rmtree(place)
            return found

        return choose([op for op in PLUGIN_OPS if self._can(plan, op)], trial)

    def _can(self, plan: Plan, op: str) -> bool:
        try:
            self._only(plan, (op,))
        except InputError:
            return False
        return True
