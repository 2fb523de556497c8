"""Tables of docs/kernels.md that come from recorded runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.measure.cards import ALL, CARDS, Card, find_card
from bench.recording import RESULTS
from bench.tables.recorded import markdown, read_json
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import LINEARS, STAGES, STEM, NetworkShape

PTX = RESULTS / "ptx" / "kernels.json"
OLDER = RESULTS / "kernels" / "triton-3.6.json"
"""The run of the kernels as the Triton of PyTorch 2.11 compiles them, without mutants."""
COUNTS = RESULTS / "kernels" / "machine-code.json"
DETAILED = 90
"""Compute capability for the table of instructions by class."""
LEAST_OCCUPANCY = 0.25


def ptx() -> dict[str, Any]:
    """Return the recorded run of compiled kernels on the CPU."""
    return read_json(PTX)


def runs() -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    """Yield network, kernel, precision and target of every file, with its run."""
    for kernel in ptx()["kernels"].values():
        for file in kernel["files"]:
            network, _, rest = file.partition("/")
            name, precision, target, _ = rest.split(".")
            yield network, name, precision, target, kernel


def _op(name: str) -> str:
    return next(op for op in OPS if name.startswith(op))


def executed_table() -> str:
    """Return the number of executed files and the largest error over budget, by op and target."""
    ratios: dict[tuple[str, str], dict[str, list[float]]] = {}
    for _, name, precision, target, run in runs():
        row = ratios.setdefault((_op(name), precision), {})
        row.setdefault(target, []).append(max(run["error_over_budget"].values()))
    targets = sorted(
        {target for row in ratios.values() for target in row}, key=lambda t: int(t[2:])
    )
    rows = [
        [
            f"`{op}`",
            precision,
            *(f"{len(row[t])}: {max(row[t]):.2f}" if t in row else "refused" for t in targets),
        ]
        for (op, precision), row in sorted(ratios.items())
    ]
    return markdown(["op", "precision", *targets], rows)


def mutants_table() -> str:
    """Return the mutants of each kernel of the preset `small`, over all precisions and targets."""
    made: dict[str, Counter[str]] = {}
    for kernel in ptx()["kernels"].values():
        name = kernel["files"][0].partition("/")[2].partition(".")[0]
        if not kernel["mutants"]:
            continue
        row = made.setdefault(name, Counter())
        row["kernels"] += 1
        row["made"] += sum(kernel["mutants"].values())
        row["caught"] += sum(kernel["caught"].values())
        row.update(survivor["reason"].partition(":")[0] for survivor in kernel["survivors"])
    rows = [
        [
            f"`{name}`",
            *(str(row[key]) for key in ("kernels", "made", "caught", "equivalent", "missed")),
            f"{100 * row['caught'] / (row['made'] - row['equivalent']):.1f} %",
        ]
        for name, row in made.items()
    ]
    head = ["kernel", "compiled kernels", "mutants", "caught", "equivalent", "missed"]
    return markdown([*head, "caught of those that differ"], rows)


def caught_table() -> str:
    """Return the results by kind of mutant."""
    kinds: dict[str, Counter[str]] = {}
    for kernel in ptx()["kernels"].values():
        for kind, count in kernel["mutants"].items():
            kinds.setdefault(kind, Counter())["made"] += count
        for survivor in kernel["survivors"]:
            kinds[survivor["kind"]][survivor["reason"]] += 1
    reasons = sorted({reason for row in kinds.values() for reason in row if reason != "made"})
    rows = [
        [
            kind,
            str(row["made"]),
            str(row["made"] - sum(row[reason] for reason in reasons)),
            *(str(row[reason]) for reason in reasons),
        ]
        for kind, row in kinds.items()
    ]
    return markdown(["change", "mutants", "caught", *reasons], rows)


def missed_table() -> str:
    """Return all wrong mutants that passed."""
    rows = [
        [f"`{kernel['files'][0]}`", str(s["line"]), s["kind"], f"`{s['text']}`"]
        for kernel in ptx()["kernels"].values()
        for s in kernel["survivors"]
        if s["reason"].startswith("missed")
    ]
    return markdown(["file", "line", "change", "instruction"], rows) if rows else "None.\n"


def counts() -> dict[str, Any]:
    """Return the recorded counts of machine code."""
    return read_json(COUNTS)


def bounds(row: dict[str, Any], card: Card) -> dict[str, float]:
    """Return the least cycles of a program by what bounds them, as far as the GPU is known.

    "memory" is the time of a copy of as many bytes. "L2" assumes that no load hits the L1 cache.
    """
    cycles = {"memory": row["bytes"] / card.copy, "issue": float(row["issued"])}
    if card.cache is not None:
        cycles["L2"] = row["cache"] / card.cache
    if card.products is not None and row["dtype"] != "float32":
        cycles["products"] = row["flops"] / card.products
    return cycles


def issue_ceiling(
    op: str, stage: int | None, dtype: str, gpu: str, layer: str = "", batch: int = 64
) -> float | None:
    """Return the largest possible percentage of a copy's bandwidth for a kernel.

    Args:
        op: name of the op.
        stage: stage of the shifted block, from 1; None for the stem.
        dtype: dtype of the products.
        gpu: name of the GPU in CUDA, such as "NVIDIA H100 80GB HBM3".
        layer: linear layer, if the op is a linear layer; kind of spread, if it is statistics.
        batch: slices per launch, if the kernel depends on it.

    Returns:
        The percentage; None if the GPU or the kernel was not counted.
    """
    linears = tuple(linear for linear in LINEARS if linear.name == f"stage {stage}")
    network = NetworkShape(STEM, () if stage is None else (STAGES[stage - 1],), linears)
    names = [
        source.name
        for source in OPS[op].sources(network)
        if (not layer or layer in (source.shape.linear, source.shape.spread))
        and source.shape.batch in (None, batch)
    ]
    if (match := find_card(gpu)) is None:
        return None
    capability, card = match
    for row in counts()["kernels"]:
        if (row["capability"], row["dtype"]) == (capability, dtype) and row["kernel"] in names:
            return 100 * float(row["ceiling"]) * CARDS[capability].copy / card.copy
    return None


def of_architectures(cell: Callable[[dict[str, Any]], str], dtypes: Sequence[str]) -> str:
    """Return a table with a row for each kernel and type, and a column for each architecture."""
    kernels: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in counts()["kernels"]:
        if row["dtype"] in dtypes:
            kernels.setdefault((row["kernel"], row["dtype"]), {})[row["capability"]] = row
    capabilities = [int(capability) for capability in counts()["gpus"]]
    rows = [
        [f"`{name}`", dtype, *(cell(row[c]) if c in row else "refused" for c in capabilities)]
        for (name, dtype), row in kernels.items()
    ]
    return markdown(["kernel", "type", *(f"sm_{c}" for c in capabilities)], rows)


def resources_table() -> str:
    """Return registers, spills and shared memory of all kernels on all architectures."""
    return of_architectures(
        lambda row: f"{row['registers']} / {row['spilled']} / {row['shared'] / 1024:.1f}",
        ("float32", "float16", "bfloat16"),
    )


def ceilings_table() -> str:
    """Return instructions, bytes, products, occupancy and bound of all kernels."""
    return of_architectures(_ceiling, ("float32", "float16"))


def _ceiling(row: dict[str, Any]) -> str:
    low = "!" if row["occupancy"] < LEAST_OCCUPANCY else ""
    cards = [card for capability, card in ALL if capability == row["capability"]]
    shown = [f"**{bound_text(row, card)}**" for card in cards]
    if len(cards) > 1:
        shown = [f"{card.name} {bound}" for card, bound in zip(cards, shown, strict=True)]
    return " / ".join(
        [
            f"{row['issued']:.0f}",
            str(row["bytes"]),
            str(row["cache"]),
            row["product"] or "none",
            f"{100 * row['occupancy']:.0f} %{low}",
            ", ".join(shown),
        ]
    )


def bound_text(row: dict[str, Any], card: Card) -> str:
    """Return what bounds a kernel on a card, and the largest share of the bandwidth."""
    cycles = bounds(row, card)
    by = max(cycles, key=cycles.__getitem__)
    return by if by == "memory" else f"{by} {100 * cycles['memory'] / cycles[by]:.0f} %"


def classes_table() -> str:
    """Return the instructions per scheduler and program by class, on one architecture."""
    chosen = [
        row
        for row in counts()["kernels"]
        if row["capability"] == DETAILED and row["dtype"] != "bfloat16"
    ]
    kinds = list(dict.fromkeys(kind for row in chosen for kind in row["instructions"]))
    rows = [
        [
            f"`{row['kernel']}`",
            row["dtype"],
            *(f"{row['instructions'].get(kind, 0):.0f}" for kind in kinds),
            _widths(row["loads"]),
            _widths(row["stores"]),
        ]
        for row in chosen
    ]
    return markdown(["kernel", "type", *kinds, "load bits: count", "store bits: count"], rows)


def _widths(accesses: dict[str, int]) -> str:
    return ", ".join(f"{bits}: {accesses[bits]}" for bits in sorted(accesses, key=int))


def gpus_table() -> str:
    """Return the GPUs of the ceilings."""

    def rate(value: float | None, unit: str) -> str:
        return "" if value is None else f"{value:.0f} {unit}"

    rows = [
        [
            f"sm_{capability}",
            card.name,
            f"{card.copy:.1f}",
            "90 % of the data sheet" if card.copied is None else "measured",
            rate(card.cache_gigabytes, "GB/s"),
            rate(card.teraflops, "TFLOP/s"),
        ]
        for capability, card in sorted(ALL, key=lambda item: item[0])
    ]
    head = ["", "GPU", "copy, bytes per cycle and multiprocessor", "copy"]
    return markdown([*head, "L2 cache", "bfloat16 products"], rows)


def _source(record: dict[str, Any]) -> str:
    parts = [
        f"`{record['command']}`",
        f"commit {record['commit'][:7]}",
        f"Triton {record['triton']}",
    ]
    return ", ".join([*parts, record["cpu"]] if "cpu" in record else parts) + ".\n"


def ptx_source() -> str:
    """Return the source of the run of compiled kernels."""
    total = sum(kernel["cpu_seconds"] for kernel in ptx()["kernels"].values())
    whole = "" if ptx()["complete"] else "The run was stopped before its end. "
    return f"{whole}{total:.0f} CPU seconds, {_source(ptx())}"


def older_source() -> str:
    """Return number, errors and source of the kernels of the older Triton."""
    record = read_json(OLDER)
    kernels = record["kernels"].values()
    files = sum(len(kernel["files"]) for kernel in kernels)
    worst = max(max(kernel["error_over_budget"].values()) for kernel in kernels)
    whole = "" if record["complete"] else "The run was stopped before its end. "
    return (
        f"{whole}{files} files with {len(kernels)} different kernels, largest error "
        f"{worst:.2f} of its budget; {record['launched']['passed']} of "
        f"{record['launched']['passed'] + record['launched']['failed']} kernels of the launcher "
        f"within theirs. {_source(record)}"
    )


TABLES = {
    "ceilings": ceilings_table,
    "counted": lambda: _source(counts()),
    "executed": executed_table,
    "gpus": gpus_table,
    "instructions": classes_table,
    "missed": missed_table,
    "mutant-kinds": caught_table,
    "mutants": mutants_table,
    "older-triton": older_source,
    "ptx-run": ptx_source,
    "resources": resources_table,
}
