"""Score slices with a bundle. The next batch is read while a batch is scored.

Only the outputs of each slice are kept, about 1 kB, not its pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.slices import NoBody, SliceRef
from clinreadnet.errors import ClinReadNetError, InputError, counted
from clinreadnet.runtime import Scores, Session
from clinreadnet.runtime.profiling import stage
from clinreadnet.scoring.result import SeriesReport, SliceScore, slice_scores
from clinreadnet.scoring.site_rules import NO_RULES, SiteRules


def score_slices(
    session: Session,
    refs: Sequence[SliceRef],
    *,
    figures: bool = False,
    rules: SiteRules = NO_RULES,
    advance: Callable[[int], None] = lambda slices: None,
    left_out: Callable[[SliceRef, InputError], None] | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> SeriesReport:
    """Score slices in order.

    Slices without a body at the ends of a series in a folder are skipped.

    Args:
        session: a loaded bundle.
        refs: at least one slice, from `find_slices`.
        figures: whether to measure `SliceScore.figures`.
        rules: rules of the site, which are applied to the scores.
        advance: called after each batch with its number of slices.
        left_out: called with a slice that cannot be loaded and the error, instead of raising.
        note: called with a line about skipped slices.

    Returns:
        The report.

    Raises:
        InputError: the rules cannot be applied to scores of this bundle; no slice can be loaded;
            without ``left_out``, a slice cannot be loaded.
    """
    rules.check(figures=figures, weights_sha256=session.manifest.model.weights_sha256)
    slices: list[SliceScore] = []
    kept: list[SliceRef] = []
    outputs: list[Scores] = []
    ends = SeriesEnds()
    batches = [refs[i : i + session.batch] for i in range(0, len(refs), session.batch)]
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(_load, batches[0], left_out is not None)
        for number, batch in enumerate(batches):
            images, failures = reading.result()
            if number + 1 < len(batches):
                reading = reader.submit(_load, batches[number + 1], left_out is not None)
            for ref, error in ends.sort(batch, failures):
                if left_out is None:
                    raise error
                left_out(ref, error)
            advance(len(failures))
            if not images:
                continue
            good = [batch[index] for index in images]
            result = _score(session, good, images.values(), figures)
            slices += slice_scores(good, result)
            kept += good
            outputs.append(result)
            advance(len(good))
    if line := ends.note():
        note(line)
    if not slices:
        raise InputError(
            f"none of {counted(len(refs), 'slice')} can be read; the lines above say why"
        )
    slices, limits = rules.apply(slices)
    return SeriesReport(
        slices,
        kept,
        Scores.concatenate(outputs),
        unjudged=session.manifest.unjudged,
        skipped=ends.skipped(),
        site_map=rules.site_map,
        limits=limits,
    )


def score_chunk(
    session: Session, refs: Sequence[SliceRef], *, figures: bool = False
) -> list[SliceScore | InputError]:
    """Load and score slices. A failure does not stop the others.

    Args:
        session: a loaded bundle.
        refs: n slices.
        figures: whether to measure `SliceScore.figures`.

    Returns:
        A score or an error for each slice.
    """
    images, failures = _load(refs, go_on=True)
    outcomes: dict[int, SliceScore | InputError] = dict(failures)
    good = [refs[index] for index in images]
    try:
        if images:
            together = _score(session, good, images.values(), figures)
            outcomes |= zip(images, slice_scores(good, together), strict=True)
    except ClinReadNetError:
        for index, image in images.items():  # score singly to find the failing slice
            try:
                alone = _score(session, [refs[index]], [image], figures)
                (outcomes[index],) = slice_scores([refs[index]], alone)
            except ClinReadNetError as error:
                outcomes[index] = InputError(f"{refs[index].name}: {error}")
    return [outcomes[index] for index in range(len(refs))]


def _score(
    session: Session, refs: Sequence[SliceRef], images: Iterable[NDArray[Any]], figures: bool
) -> Scores:
    """Return the outputs of the network for the images [512, 512] of n slices."""
    widths = [ref.loaded_mm for ref in refs]
    return session.score(np.stack(list(images)), widths, figures=figures, checked=True)


class SeriesEnds:
    """Finds slices without a body at the ends of a series."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._waiting: dict[str, list[tuple[SliceRef, InputError]]] = {}
        self._skipped: list[SliceRef] = []

    def sort(
        self, batch: Sequence[SliceRef], failures: Mapping[int, InputError]
    ) -> list[tuple[SliceRef, InputError]]:
        """Add a batch; return the failures that are now known not to be at the ends."""
        real: list[tuple[SliceRef, InputError]] = []
        for index, ref in enumerate(batch):
            error = failures.get(index)
            if error is not None and _may_be_skipped(ref, error):
                self._waiting.setdefault(ref.series, []).append((ref, error))
            elif error is not None:
                real.append((ref, error))
            elif waiting := self._waiting.pop(ref.series, None):
                if ref.series in self._begun:
                    real += waiting
                else:
                    self._skipped += [pair for pair, _ in waiting]
            if error is None:
                self._begun.add(ref.series)
        return real

    def skipped(self) -> list[SliceRef]:
        """Return the slices at the ends. Call this after the last batch."""
        return [*self._skipped, *(ref for own in self._waiting.values() for ref, _ in own)]

    def note(self) -> str | None:
        """Return a line about the slices at the ends; None if there are none."""
        if not (names := [ref.name for ref in self.skipped()]):
            return None
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"skipped slices without a body at the ends of a series ({names[0]}{more})"


def _may_be_skipped(ref: SliceRef, error: InputError) -> bool:
    return isinstance(error, NoBody) and not ref.named


def _load(
    batch: Sequence[SliceRef], go_on: bool
) -> tuple[dict[int, NDArray[np.int16 | np.float32]], dict[int, InputError]]:
    """Return the images of a batch by index, and the errors that do not stop the others.

    These are errors of slices without a body and, with ``go_on``, all errors.
    """
    images: dict[int, NDArray[np.int16 | np.float32]] = {}
    failures: dict[int, InputError] = {}
    for index, ref in enumerate(batch):
        try:
            with stage("read a slice"):
                images[index] = ref.load_compact()
        except InputError as error:
            if not (go_on or _may_be_skipped(ref, error)):
                raise
            failures[index] = error
    return images, failures
