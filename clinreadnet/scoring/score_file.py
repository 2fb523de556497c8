"""Read files of scores from `score --csv`, `score --json` and `score-archive`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, BinaryIO

from clinreadnet import limits
from clinreadnet.data.acquisition import Acquisition
from clinreadnet.errors import InputError, counted, first_line
from clinreadnet.files import AnyPath, open_regular
from clinreadnet.physics import SliceFigures
from clinreadnet.spec import LIKERT

READ_FIGURES = ("noise_hu", "water_diameter_cm", "ssde_mgy")
"""Columns of `score --figures` that are read if a file has them."""

_POSITION = "position"
# Least and largest valid value of each column.
_NUMBERS = {
    "score": (0.0, float(len(LIKERT) - 1)),
    **dict.fromkeys(("ctdi_vol_mgy", *READ_FIGURES), (0.0, math.inf)),
    **dict.fromkeys((_POSITION, "site_score"), (-math.inf, math.inf)),
}
_TEXTS = ("series", "kernel", "scanner", "device", "protocol", "acquired")
COLUMNS: tuple[str, ...] = ("score", "ctdi_vol_mgy", "in_domain", *_TEXTS)
"""Columns that every file has, and that are read."""
_SITE = ("site_score", "site_map")  # read if a file has them
IDENTITY = ("path", "frame", "sop_instance_uid")
"""Columns that tell slices apart, which are read on request."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TRUTH = {"true": True, "false": False}
_PARQUET = b"PAR1"  # first bytes of a Parquet file
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class StoredScore:
    """A row of a file of scores.

    Attributes:
        series: SeriesInstanceUID, folder or file.
        score: 0 bad ... 4 excellent; None if the slice was not scored.
        in_domain: False if the slice is marked as novel; None without a novelty threshold.
        acquisition: CTDIvol, kernel, scanner, device, protocol and date. Other fields are None.
        figures: those of ``READ_FIGURES`` that the file has. Other fields are None.
        site_score: grade on the scale of a site map; None without one.
        site_map: name of that map; empty if the file does not state it.
        path: the slice's file; empty unless requested.
        frame: frame number from 0 in a file of several slices, else None.
        sop_instance_uid: SOPInstanceUID; empty without one, or unless requested.
        position: position along the slice normal in mm; None without one, or unless requested.
    """

    series: str
    score: float | None
    in_domain: bool | None
    acquisition: Acquisition
    figures: SliceFigures = SliceFigures()
    site_score: float | None = None
    site_map: str = ""
    path: str = ""
    frame: int | None = None
    sop_instance_uid: str = ""
    position: float | None = None


def read_scores(
    path: AnyPath, *, identify: bool = False, figures: Sequence[str] = ()
) -> tuple[Iterator[StoredScore], str | None]:
    """Read a file of scores. Parquet, JSON and CSV are distinguished by the first bytes.

    Args:
        path: file of `score-archive`, `score --json` or `score --csv`.
        identify: whether to read the columns ``IDENTITY`` too, and the position if there is one.
        figures: those of ``READ_FIGURES`` that the file must have.

    Returns:
        An iterator over the rows, and the SHA-256 of the weights; None if the file does not state
        it.

    Raises:
        InputError: the file cannot be read, is too large, or lacks a column. Iteration also raises
            it for an invalid value.
        ModuleNotFoundError: pyarrow is not installed, which Parquet needs.
    """
    file = open_regular(path)
    try:
        size = os.fstat(file.fileno()).st_size
        if size > limits.SCORES_FILE:
            raise InputError(
                f"{path}: {size} bytes; at most {limits.SCORES_FILE} are read; split the file"
            )
        if size == 0:
            raise InputError(f"{path}: is empty; give a file of `clinreadnet score-archive`")
        start = file.read(len(_PARQUET))
        file.seek(0)
        columns = (*COLUMNS, *(IDENTITY if identify else ()), *figures)
        if start == _PARQUET:
            rows, weights = _open_parquet(file, path, columns)
        elif start.removeprefix(codecs.BOM_UTF8).startswith(b"{"):
            rows, weights = _open_json(file, path, columns)
        else:
            rows, weights = _open_csv(file, path, columns), None
    except BaseException:
        file.close()
        raise
    return _checked(file, rows, path), weights


def _checked(
    file: BinaryIO, rows: Iterator[tuple[int, Mapping[str, Any]]], path: AnyPath
) -> Iterator[StoredScore]:
    """Yield the rows, then close the file."""
    with file:
        for count, (number, row) in enumerate(rows, start=1):
            if count > limits.SCORES_ROWS:
                raise InputError(f"{path}: more than {limits.SCORES_ROWS} rows; split the file")
            yield _stored_score(row, f"{path}: row {number}")


def _stored_score(row: Mapping[str, Any], where: str) -> StoredScore:
    for name, (least, largest) in _NUMBERS.items():
        value = row.get(name)
        if value is not None and not (math.isfinite(value) and least <= value <= largest):
            span = f"0 ... {largest:.0f}" if largest < math.inf else "0 or more"
            span = "a finite number" if least < 0 else span
            raise InputError(f"{where}: {name} is {value}; expected {span}")
    acquired = row["acquired"]
    if acquired is not None and not _is_date(acquired):
        raise InputError(f"{where}: acquired is {acquired}; expected a date such as 2026-01-31")
    if row["series"] is None and row["score"] is not None:
        raise InputError(f"{where}: has a score and no series; score the slices again")
    figures: dict[str, Any] = {name: row.get(name) for name in READ_FIGURES}
    return StoredScore(
        series=row["series"] or "",
        score=row["score"],
        in_domain=row["in_domain"],
        acquisition=Acquisition(
            ctdi_vol_mgy=row["ctdi_vol_mgy"],
            kernel=row["kernel"],
            scanner=row["scanner"],
            device=row["device"],
            protocol=row["protocol"],
            acquired=acquired,
        ),
        figures=SliceFigures(**figures),
        site_score=row.get("site_score"),
        site_map=row.get("site_map") or "",
        path=row.get("path") or "",
        frame=row.get("frame"),
        sop_instance_uid=row.get("sop_instance_uid") or "",
        position=row.get(_POSITION),
    )


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return _DATE.fullmatch(text) is not None


def _check_columns(names: list[str], path: AnyPath, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns to read: ``columns``, and optional ones that are there."""
    missing = [name for name in columns if names.count(name) != 1]
    if missing and set(missing) <= {*READ_FIGURES}:
        raise InputError(
            f"{path}: has no {' and '.join(missing)}; score the slices with `clinreadnet score "
            "--figures`, or remove the limits on them"
        )
    if missing:
        lacks = f"lacks, or has twice, {', '.join(missing)}"
        what = "is not a file of scores" if len(missing) == len(columns) else lacks
        raise InputError(
            f"{path}: {what}; give a file of `clinreadnet score-archive`, `clinreadnet score "
            "--csv` or `clinreadnet score --json`, made by this version"
        )
    optional = (*READ_FIGURES, *_SITE, *([_POSITION] if IDENTITY[0] in columns else []))
    return (*columns, *(n for n in optional if n not in columns and names.count(n) == 1))


def _open_csv(
    file: BinaryIO, path: AnyPath, columns: tuple[str, ...]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Spreadsheets can write a byte order mark.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(_short_lines(text, path), strict=True)
    heading = next(_lines(reader, path), [])
    columns = _check_columns(heading, path, columns)
    return _csv_rows(reader, {name: heading.index(name) for name in columns}, len(heading), path)


def _short_lines(text: io.TextIOWrapper, path: AnyPath) -> Iterator[str]:
    while line := text.readline(limits.SCORES_LINE + 1):
        if len(line) > limits.SCORES_LINE:
            raise InputError(
                f"{path}: a line has more than {limits.SCORES_LINE} characters; give a file of "
                "`clinreadnet score-archive` or `clinreadnet score --csv`"
            )
        yield line


def _lines(reader: Any, path: AnyPath) -> Iterator[list[str]]:
    try:
        yield from reader
    except UnicodeDecodeError:
        raise InputError(f"{path}: is neither Parquet nor CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num}: is not CSV ({first_line(error)})"
        ) from None


def _csv_rows(
    reader: Any, places: Mapping[str, int], width: int, path: AnyPath
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    numbers = [name for name in _NUMBERS if name in places]
    for number, line in enumerate(_lines(reader, path), start=1):
        if len(line) != width:
            raise InputError(
                f"{path}: row {number}: has {counted(len(line), 'value')} for "
                f"{counted(width, 'column')}"
            )
        row: dict[str, Any] = {name: line[place] or None for name, place in places.items()}
        try:
            for name in numbers:
                row[name] = None if row[name] is None else float(row[name])
        except ValueError:
            raise InputError(f"{path}: row {number}: {name} is not a number: {row[name]}") from None
        if (frame := row.get("frame")) is not None:
            if not (frame.isascii() and frame.isdigit() and len(frame) < 10):
                raise InputError(f"{path}: row {number}: frame is not a number: {frame}")
            row["frame"] = int(frame)
        if row["in_domain"] is not None:
            if row["in_domain"].lower() not in _TRUTH:  # spreadsheets write TRUE
                raise InputError(f"{path}: row {number}: in_domain is not true, false or empty")
            row["in_domain"] = _TRUTH[row["in_domain"].lower()]
        yield number, row


def _open_json(
    file: BinaryIO, path: AnyPath, columns: tuple[str, ...]
) -> tuple[Iterator[tuple[int, Mapping[str, Any]]], str | None]:
    if os.fstat(file.fileno()).st_size > limits.LABELS:
        raise InputError(
            f"{path}: more than {limits.LABELS} bytes of JSON; give the scores as CSV or Parquet"
        )
    try:
        document = json.loads(file.read().decode("utf-8-sig"))
        rows = [
            {**row, **row["acquisition"], **(row.get("figures") or {})}
            for row in document["slices"]
        ]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise InputError(f"{path}: is not what `clinreadnet score --json` prints") from None
    return _json_rows(rows, path, columns), _weights(document.get("session"))


def _json_rows(
    rows: list[dict[str, Any]], path: AnyPath, columns: tuple[str, ...]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys((*columns, *_SITE), (str,))
    kinds |= {**dict.fromkeys(_NUMBERS, (int, float)), "in_domain": (bool,), "frame": (int,)}
    for number, row in enumerate(rows, start=1):
        names = _check_columns(list(row), path, columns)
        for name in names:
            value = row[name]
            if value is None:
                continue
            wrong_truth = isinstance(value, bool) and name != "in_domain"
            too_large = isinstance(value, int) and abs(value) >= 2**31
            if wrong_truth or too_large or not isinstance(value, kinds[name]):
                raise InputError(f"{path}: row {number}: {name} has a wrong type or is too large")
        yield number, {name: row[name] for name in names}


def _open_parquet(
    file: BinaryIO, path: AnyPath, columns: tuple[str, ...]
) -> tuple[Iterator[tuple[int, Mapping[str, Any]]], str | None]:
    import pyarrow
    from pyarrow import parquet, types

    try:
        source = parquet.ParquetFile(file)
        schema = source.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    columns = _check_columns(schema.names, path, columns)
    if source.metadata.num_rows > limits.SCORES_ROWS:
        raise InputError(
            f"{path}: {source.metadata.num_rows} rows; at most {limits.SCORES_ROWS} are read; "
            "split the file"
        )
    kinds: dict[str, tuple[Callable[[Any], bool], ...]] = dict.fromkeys(
        columns, (types.is_string, types.is_large_string)
    )
    kinds |= {**dict.fromkeys(_NUMBERS, (types.is_floating,)), "in_domain": (types.is_boolean,)}
    kinds["frame"] = (types.is_integer,)
    for name in columns:
        kind = schema.field(name).type
        if not any(fits(kind) for fits in (*kinds[name], types.is_null)):
            raise InputError(
                f"{path}: column {name} holds {kind}; give a file of `clinreadnet score-archive`"
            )
    try:
        session = json.loads((schema.metadata or {})[b"session"])
    except (KeyError, ValueError, RecursionError):
        session = None
    return _parquet_rows(source, path, columns), _weights(session)


def _parquet_rows(
    source: Any, path: AnyPath, columns: tuple[str, ...]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow

    first = 1
    try:
        for batch in source.iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
            values = [batch.column(name).to_pylist() for name in columns]
            for number, row in enumerate(zip(*values, strict=True), start=first):
                yield number, dict(zip(columns, row, strict=True))
            first += batch.num_rows
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: AnyPath, error: BaseException) -> InputError:
    return InputError(
        f"{path}: is not a Parquet file that can be read ({first_line(error)}); write it again"
    )


def _weights(session: Any) -> str | None:
    """Return the SHA-256 of the weights of a session's description; None without one."""
    try:
        return str(session["weights_sha256"])
    except (KeyError, TypeError):
        return None
