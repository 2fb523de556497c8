"""The recorded run of `make ptx-check`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from bench.records import ptx
from bench.records.mutants import KINDS
from bench.records.ptx import (
    MUTANTS,
    MUTATED,
    NETWORKS,
    PRECISIONS_RUN,
    RECORD,
    TARGETS,
    machine_digest,
    main,
)
from bench.tables.kernels import OLDER
from clinreadnet.kernels.ops.fused_linear.kernel import SIZES

CAUGHT = 0.95
"""Least share of a kernel's mutants over all its configurations, less the equivalent ones."""


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return json.loads(RECORD.read_text())


def test_it_is_whole(record: dict[str, Any]) -> None:
    assert record["complete"] and record["mutants_of_each"] == MUTANTS >= 20
    files = {file for entry in record["kernels"].values() for file in entry["files"]}
    combinations = {
        (network, precision, target)
        for network, _, rest in (file.partition("/") for file in files)
        for _, precision, target, _ in (rest.split("."),)
    }
    assert combinations == {(n, p, t) for n in NETWORKS for p in PRECISIONS_RUN for t in TARGETS}


def test_every_kernel_is_within_its_budget(record: dict[str, Any]) -> None:
    worst = {entry["files"][0]: entry["error_over_budget"] for entry in record["kernels"].values()}
    assert [name for name, cases in worst.items() if not max(cases.values()) <= 1] == []


def test_every_kernel_of_the_older_triton_is_within_its_budget() -> None:
    older = json.loads(OLDER.read_text())
    assert older["complete"] and older["triton"].startswith("3.6.")
    assert older["launched"]["passed"] >= 26
    assert not older["launched"]["failed"] and not older["launched"]["skipped"]
    files = [file for entry in older["kernels"].values() for file in entry["files"]]
    assert {file.split(".")[2] for file in files} == {*TARGETS}
    assert "small" in {file.partition("/")[0] for file in files} <= {*NETWORKS}
    for entry in older["kernels"].values():
        assert max(entry["error_over_budget"].values()) <= 1, entry["files"][0]


@pytest.mark.parametrize("part", ["--network small", "--target sm80", "--mutants 0"])
def test_a_part_does_not_replace_the_record(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ptx, "launched", lambda: pytest.fail("started"))
    with pytest.raises(SystemExit):
        main(part.split())
    assert "a part needs --out" in capsys.readouterr().err


def test_mutants_are_caught(record: dict[str, Any]) -> None:
    """The record has the mutants of each kernel in all its launch configurations."""
    made: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for entry in record["kernels"].values():
        if not any(file.startswith(f"{MUTATED}/") for file in entry["files"]):
            assert not entry["mutants"]
            continue
        made.update(entry["mutants"])
        name = entry["files"][0].partition(".")[0]
        for size in SIZES:
            name = name.removesuffix(f"_{size}")
        caught[name] += sum(entry["caught"].values())
        missed[name] += sum(
            survivor["reason"].startswith("missed") for survivor in entry["survivors"]
        )
        assert sum(entry["mutants"].values()) == MUTANTS
        assert sum(entry["caught"].values()) + len(entry["survivors"]) == MUTANTS
    assert set(made) == set(KINDS)
    assert {n: missed[n] for n in missed if caught[n] < CAUGHT * (caught[n] + missed[n])} == {}


def test_every_survivor_has_a_reason(record: dict[str, Any]) -> None:
    survivors = [s for entry in record["kernels"].values() for s in entry["survivors"]]
    assert {s["reason"].partition(":")[0] for s in survivors} <= {"equivalent", "missed"}
    assert all(s["line"] > 0 and s["text"] and s["kind"] in KINDS for s in survivors)


def test_the_digest_names_the_machine() -> None:
    assert len(machine_digest()) == 16 and machine_digest() == machine_digest()
