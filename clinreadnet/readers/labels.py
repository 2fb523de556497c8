"""Read a CSV file of readers' grades, and match its slices with a file of scores.

Long form has a row for each reader and slice, wide form a row for each slice and a column for each
reader::

    slice,reader,grade,patient        slice,patient,A,B,C
    IM0001.dcm,A,3,P1                 IM0001.dcm,P1,3,4,3
    IM0001.dcm,B,4,P1                 IM0002.dcm,P1,2,,3
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.slices import framed
from clinreadnet.errors import InputError, counted, first_line, visible
from clinreadnet.files import AnyPath, read_regular
from clinreadnet.scoring.score_file import StoredScore, read_scores
from clinreadnet.scoring.summary import scanner_name
from clinreadnet.spec import GRADE_RANGE

Floats = NDArray[np.float64]

FACTS = ("scanner", "protocol", "size")
"""Columns to group by."""
_IDS = ("slice", "sop_instance_uid", "path", "file")
_FRAME, _READER, _GRADE, _PATIENT = "frame", "reader", "grade", "patient"
_SHOWN = 8  # columns that a message names
_KNOWN = (*_IDS, _FRAME, _READER, _GRADE, _PATIENT, *FACTS)


@dataclass(frozen=True)
class Scale:
    """The grades that a site uses: that of the worst image and that of the best.

    European criteria may give 1 to the best image: then ``bad`` is larger than ``excellent``.
    """

    bad: float = 0.0
    excellent: float = GRADE_RANGE

    def of_score(self, score: Any) -> Any:
        """Return scores (0 bad ... 4 excellent) as linear values on this scale."""
        return self.bad + (self.excellent - self.bad) / GRADE_RANGE * score

    @property
    def direction(self) -> float:
        """Return 1 if larger grades are better, else -1."""
        return math.copysign(1.0, self.excellent - self.bad)

    def __str__(self) -> str:
        return f"{self.bad:g} (bad) ... {self.excellent:g} (excellent)"


@dataclass(frozen=True)
class Labels:
    """Grades of n slices by k readers.

    Attributes:
        names: [n] slices, as the file names them.
        readers: [k] names of the readers.
        grades: float64 [n, k]; NaN where a reader did not grade a slice.
        scale: the site's scale.
        patients: [n] patients; None where not stated.
        facts: scanner, protocol and size [n] of the slices, as far as stated.
    """

    names: tuple[str, ...]
    readers: tuple[str, ...]
    grades: Floats
    scale: Scale
    patients: tuple[str | None, ...]
    facts: Mapping[str, tuple[str | None, ...]]


@dataclass(frozen=True)
class Reading:
    """Grades and scores of the same n slices.

    Attributes:
        labels: the grades.
        score: float64 [n], 0 bad ... 4 excellent.
        weights_sha256: SHA-256 of the network's weights; None if the scores do not state it.
        unmatched: graded slices that have no score.
        novel: graded slices that are left out because their score is marked as novel.
    """

    labels: Labels
    score: Floats
    weights_sha256: str | None
    unmatched: tuple[str, ...]
    novel: int


def parse_scale(text: str) -> Scale:
    """Return the scale of a text such as ``1:5``, the worst grade first.

    Raises:
        InputError: the text is not two different numbers.
    """
    try:
        bad, excellent = map(float, text.split(":"))
    except ValueError:
        bad = excellent = math.nan
    if not (math.isfinite(bad) and math.isfinite(excellent)) or bad == excellent:
        raise InputError(f"scale={text}: give the worst and the best grade, such as 1:5")
    return Scale(bad, excellent)


def read_files(labels: AnyPath, scores: AnyPath, scale: Scale | None = None) -> Reading:
    """Read a file of grades and the scores of its slices: `read_labels`, then `match`.

    Raises:
        InputError: as in these, or each file is given in place of the other.
    """
    try:
        return match(read_labels(labels, scale), scores, labels)
    except InputError:
        if _exchanged(labels, scores):
            raise InputError(
                f"{labels} is a file of scores, and {scores} has grades; exchange `labels` and "
                "`scores`"
            ) from None
        raise


def _exchanged(labels: AnyPath, scores: AnyPath) -> bool:
    try:
        next(read_scores(labels, identify=True)[0], None)
        read_labels(scores, Scale(-math.inf, math.inf))
    except (InputError, ModuleNotFoundError):  # pyarrow
        return False
    return True


def read_labels(path: AnyPath, scale: Scale | None = None) -> Labels:
    """Read a CSV file of grades in long or wide form.

    Fields are separated by commas, semicolons or tabs. Where they are not separated by commas, a
    comma is a decimal point. An empty grade, or ``NA``, is a slice that the reader did not grade.

    Args:
        path: the file, UTF-8.
        scale: the site's scale; default 0 (bad) ... 4 (excellent).

    Raises:
        InputError: the file is not such a CSV file, has a grade outside the scale, a reader twice
            on a slice, two patients for a slice, or no two different grades.
    """
    scale = scale or Scale()
    rows, heading, comma = _read_rows(path)
    lower = [name.casefold() for name in heading]
    ids = [name for name in _IDS if name in lower]
    shown = ", ".join(heading[:_SHOWN]) + ("" if len(heading) <= _SHOWN else " ...")
    expected = (
        f"its columns are {shown}; give both columns reader and grade, a row for each grade, or "
        "a column for each reader, a row for each slice"
    )
    if not ids:
        raise InputError(
            f"{path}: no column names the slices (slice, sop_instance_uid, path or file): "
            f"{expected}"
        )
    long = _READER in lower and _GRADE in lower
    if not long and (_READER in lower or _GRADE in lower):
        lacking = _GRADE if _READER in lower else _READER
        raise InputError(f"{path}: no column {lacking}: {expected}")
    readers = [] if long else [name for name in heading if name.casefold() not in _KNOWN]
    if not long and not readers:
        raise InputError(f"{path}: no column has grades: {expected}")
    grades: dict[str, dict[str, float]] = {}
    stated: dict[str, dict[str, str]] = {}
    seen: set[str] = set(readers)
    for number, cells in rows:
        where = f"{path}: row {number}"
        row = dict(zip(lower, cells, strict=True))
        if comma and "size" in row:
            row["size"] = row["size"].replace(",", ".")
        name = _slice_name(row, ids, where)
        if long:
            if not row[_READER]:
                raise InputError(f"{where}: has no reader")
            given: Iterable[tuple[str, str]] = [(row[_READER], row[_GRADE])]
            seen.add(row[_READER])
        else:
            if name in grades:
                raise InputError(f"{where}: slice {name} is in the file twice; give it one row")
            given = [(reader, row[reader.casefold()]) for reader in readers]
        own = grades.setdefault(name, {})
        for reader, text in given:
            if reader in own:
                raise InputError(f"{where}: {reader} graded {name} twice; keep one of the rows")
            if (grade := _grade(text, scale, f"{where}: {reader}", comma)) is not None:
                own[reader] = grade
        facts = stated.setdefault(name, {})
        for column in (_PATIENT, *FACTS):
            if (value := row.get(column)) and facts.setdefault(column, value) != value:
                raise InputError(
                    f"{where}: {column} of {name} is {value}, and {facts[column]} in another row"
                )
    names = tuple(name for name, own in grades.items() if own)
    columns = tuple(sorted(seen)) if long else tuple(readers)
    matrix = np.array([[grades[name].get(r, np.nan) for r in columns] for name in names], float)
    _check_grades(columns, matrix, path)
    return Labels(
        names,
        columns,
        matrix,
        scale,
        tuple(stated[name].get(_PATIENT) for name in names),
        {fact: tuple(stated[name].get(fact) for name in names) for fact in FACTS},
    )


def match(labels: Labels, scores: AnyPath, path: AnyPath) -> Reading:
    """Find the score of each graded slice.

    A slice is found by its SOPInstanceUID, else by its file and frame: the whole path, or as much
    of its end as names a single slice. Scanner and protocol come from the scores where the labels
    do not state them. Slices that are marked as novel, or not scored, are left out.

    Args:
        labels: the grades.
        scores: file of `score --csv`, `score --json` or `score-archive`.
        path: the file of grades, for messages.

    Raises:
        InputError: the file cannot be read, no slice or a single one is in both files, or a name
            fits several slices.
    """
    rows, weights = read_scores(scores, identify=True)
    wanted: dict[str, list[StoredScore]] = {_normal(name): [] for name in labels.names}
    first: StoredScore | None = None
    total = 0
    for row in rows:
        total += 1
        first = first or row
        for key in _keys(row):
            if key in wanted:
                wanted[key].append(row)
    found: list[tuple[int, StoredScore]] = []
    unmatched: list[str] = []
    names: dict[int, str] = {}  # of the rows, which `wanted` keeps
    novel = 0
    for index, name in enumerate(labels.names):
        own = wanted[_normal(name)]
        if len(own) > 1:
            raise InputError(
                f"{path}: {name} fits {len(own)} slices of {scores}, such as {_shown(own[0])} and "
                f"{_shown(own[1])}; give more of the path, or the SOP Instance UID"
            )
        if not own or own[0].score is None:
            unmatched.append(name)
        elif own[0].in_domain is False:
            novel += 1
        elif (other := names.setdefault(id(own[0]), name)) != name:
            raise InputError(
                f"{path}: {other} and {name} are one slice of {scores}; name it one way"
            )
        else:
            found.append((index, own[0]))
    if first is None or len(unmatched) == len(labels.names):
        there = "has no rows" if first is None else f"names them as {_shown(first)}"
        raise InputError(
            f"{path}: none of {counted(len(labels.names), 'slice')}, such as {labels.names[0]}, "
            "is among the "
            f"{total} of {scores}, which {there}; give SOP Instance UIDs, or files and frames"
        )
    if len(found) < 2:
        raise InputError(
            f"{path}: {len(found)} of its {counted(len(labels.names), 'slice')} can be compared "
            "with "
            f"{scores} ({len(unmatched)} without a score, {novel} marked as novel); two are needed"
        )
    kept = [index for index, _ in found]
    facts = {
        fact: tuple(labels.facts[fact][index] or _fact(row, fact) for index, row in found)
        for fact in FACTS
    }
    return Reading(
        Labels(
            tuple(labels.names[index] for index in kept),
            labels.readers,
            labels.grades[kept],
            labels.scale,
            tuple(labels.patients[index] for index in kept),
            facts,
        ),
        np.array([row.score for _, row in found], np.float64),
        weights,
        tuple(unmatched),
        novel,
    )


def _read_rows(path: AnyPath) -> tuple[list[tuple[int, list[str]]], list[str], bool]:
    """Return the numbered rows, the heading, and whether a comma is a decimal point."""
    try:
        text = read_regular(path, limits.LABELS).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not CSV in UTF-8; save it as such") from None
    lines = text.splitlines()
    heading = lines[0] if lines else ""
    separator = max(",;\t", key=heading.count)
    try:
        parsed = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    except csv.Error as error:
        raise InputError(f"{path}: is not CSV ({first_line(error)})") from None
    if len(parsed) < 2:
        raise InputError(f"{path}: has no rows of grades")
    names, *cells = parsed
    lower = [name.casefold() for name in names]
    if twice := [name for name in names if lower.count(name.casefold()) > 1 or not name]:
        raise InputError(f"{path}: has several columns {twice[0]!r}; name each once")
    rows = [(number, row) for number, row in enumerate(cells, start=1) if any(row)]
    for number, row in rows:
        if len(row) != len(names):
            raise InputError(
                f"{path}: row {number}: has {counted(len(row), 'value')} for "
                f"{counted(len(names), 'column')}"
            )
    return rows, names, separator != ","


def _slice_name(row: Mapping[str, str], ids: list[str], where: str) -> str:
    name = next((row[column] for column in ids if row[column]), "")
    if not name:
        raise InputError(f"{where}: names no slice")
    frame = row.get(_FRAME)
    return f"{name}[{frame}]" if frame else name


def _grade(text: str, scale: Scale, where: str, comma: bool) -> float | None:
    if text.casefold() in ("", "na", "n/a", "nan", "-"):
        return None
    try:
        grade = float(text.replace(",", ".") if comma else text)
    except ValueError:
        raise InputError(
            f"{where}: the grade is {text!r}; give a number, or remove a column that has no grades"
        ) from None
    low, high = sorted((scale.bad, scale.excellent))
    if not low <= grade <= high:
        raise InputError(
            f"{where}: the grade {text} is not on the scale {scale}; state the site's `scale`"
        )
    return grade


def _check_grades(readers: tuple[str, ...], grades: Floats, path: AnyPath) -> None:
    if len(grades) > limits.GRADED_SLICES or len(readers) > limits.READERS:
        raise InputError(
            f"{path}: {len(grades)} slices and {len(readers)} readers; at most "
            f"{limits.GRADED_SLICES} and {limits.READERS} are compared"
        )
    if not len(grades):
        raise InputError(f"{path}: has no grade")
    given = np.isfinite(grades)
    if not given.any(axis=0).all():
        raise InputError(f"{path}: {readers[int(given.any(axis=0).argmin())]} graded no slice")
    first = grades[given][0]
    if (grades[given] == first).all():
        raise InputError(
            f"{path}: all {given.sum()} grades are {first:g}, so agreement is not defined; "
            "have slices read that differ in quality"
        )


def _normal(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _keys(row: StoredScore) -> Iterator[str]:
    """Yield every name of a slice: its UID, and each end of its path with its frame."""
    if row.sop_instance_uid:
        yield framed(row.sop_instance_uid, row.frame)
    path = framed(_normal(row.path), row.frame)
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        yield path


def _shown(row: StoredScore) -> str:
    uid = f" ({row.sop_instance_uid})" if row.sop_instance_uid else ""
    return visible(framed(row.path, row.frame) + uid)


def _fact(row: StoredScore, name: str) -> str | None:
    if name == "scanner":
        return scanner_name(row.acquisition)
    if name == "protocol":
        return row.acquisition.protocol
    size = row.figures.water_diameter_cm
    return None if size is None else f"{size:g}"
