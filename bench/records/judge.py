"""Judge a checkpoint against the shipped one: every goal for new weights in one table.

    python -m bench.records.judge run/model.safetensors --data validation --data validation-wide \
        --patients degraded --clean series --real slices

Differences have 95 % intervals by a paired bootstrap over anatomies or patients: both networks are
measured on the same draw. Networks are chosen with validation data. The sets of the model card are
refused unless ``--test`` says that nothing is chosen any more.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from clinreadnet.console import Column, Output, fitted_table, status
from clinreadnet.errors import InputError

with status("Importing PyTorch"):
    from bench.recording import print_record, run_facts
    from bench.tables.recorded import markdown
    from clinreadnet.data.ldctiqa import LdctiqaFolder
    from clinreadnet.data.region import OUTSIDE, find_region
    from clinreadnet.data.slices import find_slices
    from clinreadnet.evaluation.labels import (
        ceiling,
        folder_map_errors,
        open_labelled,
        score_folder,
    )
    from clinreadnet.evaluation.maps import rmse_ratio
    from clinreadnet.evaluation.order import evaluate_order, find_originals
    from clinreadnet.metrics import Interval, interval, resample_counts, resampled_sums, srocc
    from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
    from clinreadnet.model.predict import predict
    from clinreadnet.runtime.bundle.files import digest
    from clinreadnet.simulator.clean import scanned_slice

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

RESAMPLES = 1000

MOST_BELOW_CEILING = 0.05
MOST_MAP_RATIO = 0.55
LEAST_ORDER = 0.95
LEAST_AGREEMENT = 0.95
"""Least SROCC of the scores of real slices with those of the shipped network."""

STEP = 0.2
"""Grades by which a denoised copy must exceed its own source to be counted: a step of the labels.
The true quality of a copy can equal its source's, so that smaller differences are expected."""

TEST_SEEDS = {201, 202, 203, 3}
"""Seeds of the sets of the model card, which choose nothing."""


@dataclass(frozen=True)
class Row:
    """A measure of both networks.

    Attributes:
        data: name of the folder.
        measure: name of the measure.
        goal: the limit in words; empty if there is none.
        shipped: value of the shipped network; None if the measure compares both.
        candidate: value of the judged network.
        difference: candidate less shipped, with its interval; None if there is no pair.
        met: whether the candidate reaches the goal; None without a goal.
        better: 1 if the interval says better, -1 if worse, 0 if open.
    """

    data: str
    measure: str
    goal: str
    shipped: float | None
    candidate: float
    difference: Interval | None
    met: bool | None
    better: int


def row(
    data: str,
    measure: str,
    pair: tuple[float, float],
    difference: Interval | None,
    *,
    most: float | None = None,
    least: float | None = None,
) -> Row:
    """Return the row of a measure; ``pair`` is the value of the shipped network and of the judged.

    Less is better, unless ``least`` is the goal.
    """
    shipped, candidate = map(float, pair)
    goal, met = "", None
    if most is not None:
        goal, met = f"≤ {most:g}", candidate <= most
    if least is not None:
        goal, met = f"≥ {least:g}", candidate >= least
    sign = -1 if least is None else 1
    better = 0
    if difference is not None and (difference["low"] > 0 or difference["high"] < 0):
        better = sign * (1 if difference["low"] > 0 else -1)
    return Row(data, measure, goal, shipped, candidate, difference, met, better)


def paired(statistic: Callable[[Indices], float], groups: Indices) -> Interval:
    """Return a difference of two networks with its interval over groups.

    Args:
        statistic: the difference on slices of the given indices [k], which can repeat.
        groups: [n] group of each slice.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rng = np.random.default_rng(0)
    draws = rng.integers(len(members), size=(RESAMPLES, len(members)))
    values = [statistic(np.concatenate([members[i] for i in draw])) for draw in draws]
    return interval(np.array([statistic(np.arange(len(groups))), *values], np.float64))


def judge_labelled(folder: LdctiqaFolder, checkpoints: tuple[Path, Path]) -> list[Row]:
    """Compare both networks with the labels and the tile labels of a simulated folder."""
    name, true = folder.folder.name, folder.scores.astype(np.float64)
    best, groups = ceiling(folder), folder.groups
    if best is None or groups is None:
        raise InputError(
            f"{folder.folder}: records no quality; make it with `clinreadnet simulate`"
        )
    scored = [score_folder(folder, load_checkpoint(path)) for path in checkpoints]
    counts = resample_counts(np.unique(groups, return_inverse=True)[1], RESAMPLES)
    sums = [resampled_sums(outputs["score"], true, counts) for outputs in scored]
    below = best["sum"]["value"] - np.array([values[0] for values in sums])
    rows = [
        row(
            name,
            "sum below its ceiling",
            (below[0], below[1]),
            interval(sums[0] - sums[1]),
            most=MOST_BELOW_CEILING,
        )
    ]
    maps = [folder_map_errors(folder, outputs["quality_map"]) for outputs in scored]
    if maps[0] is not None and maps[1] is not None:
        shipped, candidate = maps
        inside = np.isfinite(shipped[:, 1])
        shipped, candidate, own = shipped[inside], candidate[inside], groups[inside]
        rows.append(
            row(
                name,
                "map RMSE / flat",
                (rmse_ratio(shipped), rmse_ratio(candidate)),
                paired(lambda i: rmse_ratio(candidate[i]) - rmse_ratio(shipped[i]), own),
                most=MOST_MAP_RATIO,
            )
        )
    rows += _copies(folder, groups, (scored[0]["score"], scored[1]["score"]))
    return rows


def _copies(folder: LdctiqaFolder, groups: Indices, scores: tuple[Floats, Floats]) -> list[Row]:
    """Count denoised copies that score more than a step above their own source."""
    place = {name: i for i, name in enumerate(folder.names)}
    pairs = [
        (i, place[record["denoised_from"]])
        for i, record in enumerate(folder.records or [])
        if record.get("denoised_from") in place
    ]
    if not pairs:
        return []
    copies, sources = np.array(pairs).T
    shipped, candidate = (own[copies] > own[sources] + STEP for own in scores)
    measure = f"copies above their own source by {STEP:g}, of {len(pairs)}"
    change = candidate.astype(np.float64) - shipped
    difference = paired(lambda i: float(change[i].mean()) * len(change), groups[copies])
    return [
        row(folder.folder.name, measure, (int(shipped.sum()), int(candidate.sum())), difference)
    ]


def judge_order(
    data: Path, clean: Sequence[Path], folder: LdctiqaFolder, checkpoints: tuple[Path, Path]
) -> list[Row]:
    """Compare both networks on degraded copies of patients' slices."""
    shipped, candidate = (evaluate_order(data, path, clean) for path in checkpoints)
    records = folder.records or []
    anatomies, first = np.unique([record["anatomy"] for record in records], return_index=True)
    patients = np.array([records[i].get("group", records[i]["anatomy"]) for i in first])
    orders = [np.array(list(result["anatomies"].values())) for result in (shipped, candidate)]
    change = orders[1] - orders[0]
    name, limit = data.name, "the clean slice" if clean else "the scan of least noise"
    anatomy_of = dict(zip(folder.names, (record["anatomy"] for record in records), strict=True))
    above = []
    for result in (shipped, candidate):
        counts = Counter(anatomy_of[copy] for copy in result["denoised_above_clean"])
        above.append(np.array([counts[anatomy] for anatomy in anatomies.tolist()], np.float64))
    more = above[1] - above[0]
    return [
        row(
            name,
            "lowest SROCC of a slice's scans",
            (float(orders[0].min()), float(orders[1].min())),
            paired(lambda i: float(orders[1][i].min() - orders[0][i].min()), patients),
            least=LEAST_ORDER,
        ),
        row(
            name,
            "mean SROCC of a slice's scans",
            (float(orders[0].mean()), float(orders[1].mean())),
            paired(lambda i: float(change[i].mean()), patients),
            least=LEAST_ORDER,
        ),
        row(
            name,
            f"copies above {limit}, of {shipped['denoised']}",
            (float(above[0].sum()), float(above[1].sum())),
            paired(lambda i: float(more[i].mean()) * len(more), patients),
            most=0,
        ),
    ]


def judge_real(data: Path, checkpoints: tuple[Path, Path]) -> list[Row]:
    """Compare the answers of the gates and the scores on real slices, which have no labels."""
    refs, images = [], []
    for ref in find_slices([data], resample=True, note=lambda line: print(line, file=sys.stderr)):
        try:
            images.append(np.rint(ref.load()).astype(np.int16))
            refs.append(ref)
        except InputError as error:  # refused whatever the network
            print(error, file=sys.stderr)
    if not images:
        raise InputError(f"{data}: holds no slice that can be scored; name another folder")
    regions = [
        find_region(image, ref.loaded_mm).answer for image, ref in zip(images, refs, strict=True)
    ]
    answers: list[list[str]] = []
    scores = []
    for path in checkpoints:
        model = load_checkpoint(path)
        outputs = [predict(model, image[None]) for image in images]
        usual = float(model.novelty.threshold)
        answers.append(
            [
                "novel" if region != OUTSIDE and output["novelty"][0] > usual else region
                for region, output in zip(regions, outputs, strict=True)
            ]
        )
        scores.append(np.array([output["score"][0] for output in outputs]))
    other = [
        f"{ref.path.name}: {there} now {here}"
        for ref, there, here in zip(refs, *answers, strict=True)
        if there != here
    ]
    for line in other:
        print(line, file=sys.stderr)
    inside = np.array([answer not in (OUTSIDE, "novel") for answer in answers[0]], np.bool_)
    kept = (scores[0][inside], scores[1][inside])
    if not inside.any():
        raise InputError(f"{data}: the shipped network marks every slice; name another folder")
    agreement = _rank_correlation(*kept)
    changes = np.abs(kept[1] - kept[0])
    noise = np.array(
        [
            scanned_slice(images[i].astype(np.float32), refs[i].loaded_mm or 1.0).own_noise_hu
            for i in np.flatnonzero(inside)
        ]
    )
    falls = [_rank_correlation(score, noise) for score in kept]
    change = paired(
        lambda i: _rank_correlation(kept[1][i], noise[i]) - _rank_correlation(kept[0][i], noise[i]),
        np.arange(len(noise)),
    )
    differ = f"gate answers that differ, of {len(refs)}"
    agree = f"SROCC with the shipped scores, {len(changes)} slices in domain"
    limit = f"≥ {LEAST_AGREEMENT:g}"
    met = agreement >= LEAST_AGREEMENT
    most = float(changes.max(initial=0.0))
    return [
        Row(data.name, differ, "≤ 0", None, len(other), None, not other, 0),
        Row(data.name, agree, limit, None, agreement, None, met, 0),
        row(data.name, "SROCC of score and own noise", (falls[0], falls[1]), change),
        Row(data.name, "largest change of a score, grades", "", None, most, None, None, 0),
    ]


def _rank_correlation(a: Floats, b: Floats) -> float:
    """Return the SROCC; NaN for less than two slices."""
    return srocc(a, b) if len(a) > 1 else float("nan")


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of the table, beside the data."""
    changes = [own.difference for own in rows]
    return [
        Column("measure", [own.measure for own in rows]),
        Column("goal", [own.goal for own in rows], 3),
        Column("shipped", ["" if own.shipped is None else f"{own.shipped:.4g}" for own in rows], 1),
        Column("candidate", [f"{own.candidate:.4g}" for own in rows]),
        Column(
            "difference (95 %)", ["" if change is None else _span(change) for change in changes], 5
        ),
        Column("goal met", [{True: "yes", False: "no", None: ""}[own.met] for own in rows], 2),
        Column("change", [_better(own) for own in rows], 4),
    ]


def _span(change: Interval) -> str:
    return f"{change['value']:+.4f} ({change['low']:+.4f} … {change['high']:+.4f})"


def _better(own: Row) -> str:
    return {1: "better", -1: "worse", 0: "" if own.difference is None else "open"}[own.better]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    columns = [Column("data", [own.data for own in rows]), *_columns(rows)]
    body = zip(*(map(str, column.cells) for column in columns), strict=True)
    return markdown([column.heading for column in columns], list(body))


def print_table(rows: Sequence[Row], output: Console) -> None:
    """Print the rows: a table that fits a terminal, Markdown to a file."""
    if not output.is_terminal:
        output.print(table(rows), soft_wrap=True, highlight=False)
        return
    for data in dict.fromkeys(own.data for own in rows):
        own = [row for row in rows if row.data == data]
        measures, *columns = _columns(own)
        shown = fitted_table(output, data, list(map(str, measures.cells)), columns, most=12)
        output.print(shown)


def check_role(folders: Sequence[LdctiqaFolder], *, test: bool) -> str:
    """Return what the data is: "validation" or "test".

    Raises:
        InputError: a set of the model card is given without ``test``.
    """
    card = [
        folder.folder
        for folder in folders
        if folder.source["seed"] in TEST_SEEDS and folder.breadth != "wide"
    ]
    if card and not test:
        raise InputError(
            f"{card[0]}: has the seed of a test set of the model card; choose with other seeds, "
            "and give --test when nothing is chosen any more"
        )
    return "test" if test else "validation"


def _check_inputs(options: argparse.Namespace) -> None:
    """Check what can be checked before the minutes that the scores take.

    Raises:
        InputError: the checkpoint cannot be read, a folder is named twice or holds no slices, or
            the degraded copies are not those of the clean slices.
    """
    load_checkpoint(options.checkpoint)
    for paths in (options.data, options.patients, options.real):
        seen: set[Path] = set()
        for path in paths:
            if path.resolve() in seen:
                raise InputError(f"{path}: named twice; name it once")
            seen.add(path.resolve())
    for path in (*options.clean, *options.real):
        find_slices([path], resample=True, note=lambda line: None)
    for path in options.patients:
        find_originals(open_labelled(path), options.clean)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or the record as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="model.safetensors to compare")
    for option, what in (
        ("data", "simulated folder"),
        ("patients", "folder of `simulate --anatomy`"),
        ("clean", "slices of the patients before they were degraded"),
        ("real", "folder of real slices without labels"),
    ):
        parser.add_argument(f"--{option}", type=Path, action="append", default=[], help=what)
    parser.add_argument("--test", action="store_true", help="look at test sets, once all is chosen")
    parser.add_argument("--json", action="store_true", help="print the record")
    options = parser.parse_args(arguments)
    if not (options.data or options.patients or options.real):
        parser.error("nothing to judge on; give --data, --patients or --real")
    if options.clean and not options.patients:
        parser.error("--clean needs --patients: the folder made of these slices")
    checkpoints = (pretrained_path(), options.checkpoint)
    with status("Reading the folders"):
        _check_inputs(options)
        labelled, degraded = (
            [open_labelled(path) for path in paths] for paths in (options.data, options.patients)
        )
    role = check_role([*labelled, *degraded], test=options.test)
    rows: list[Row] = []
    for folder in labelled:
        rows += judge_labelled(folder, checkpoints)
    for path, folder in zip(options.patients, degraded, strict=True):
        rows += judge_order(path, options.clean, folder, checkpoints)
    for path in options.real:
        with status(f"Scoring {path}"):
            rows += judge_real(path, checkpoints)
    goals = [own for own in rows if own.met is not None]
    record: dict[str, Any] = {
        **run_facts(f"python -m bench.records.judge {options.checkpoint.name}"),
        "role": role,
        "data": [folder.source for folder in (*labelled, *degraded)],
        "shipped_sha256": digest(checkpoints[0].read_bytes()),
        "checkpoint_sha256": digest(options.checkpoint.read_bytes()),
        "rows": [asdict(own) for own in rows],
    }
    if options.json:
        return print_record(record)
    sets = ", ".join(
        f"{source['name']} (seed {source['seed']}, {source['breadth']})"
        for source in record["data"]
    )
    output = Output()
    output.print(
        f"{role} data: {sets or 'slices without labels'}\n", soft_wrap=True, highlight=False
    )
    print_table(rows, output)
    print(
        f"\n{sum(bool(own.met) for own in goals)} of {len(goals)} goals met; "
        f"{sum(own.better < 0 for own in rows)} measures are worse than the shipped network's"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        words = str(error).replace("`clean`", "--clean")
        print(f"judge: {words}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("judge: interrupted", file=sys.stderr)
        sys.exit(130)
