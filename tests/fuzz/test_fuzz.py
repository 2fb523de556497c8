"""Random files of every kind are read or refused in one line. The corpus has all findings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzz.cases import READ, REFUSED, SEEDS, judge
from fuzz.run import CORPUS, fuzz
from support.whole import WHOLE

pytest.importorskip("cryptography")
SECONDS = float(os.environ.get("CLINREADNET_FUZZ_SECONDS", 30 if WHOLE else 5))


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*-*")), ids=lambda path: path.name)
def test_findings_of_the_corpus_stay_fixed(path: Path, tmp_path: Path) -> None:
    verdict = judge(path.name.partition("-")[0], path.read_bytes(), tmp_path)
    assert verdict in (READ, REFUSED)


@pytest.mark.parametrize("kind", SEEDS)
def test_the_seeds_are_read(kind: str, tmp_path: Path) -> None:
    from fuzz import cases

    for content in SEEDS[kind]():
        if kind == "graph" and content == SEEDS[kind]()[1]:
            continue  # float16, where float32 is expected
        if kind == "tif" and content == SEEDS[kind]()[-1]:
            continue  # in tiles, which are refused
        cases.read(kind, content, tmp_path)


def test_random_files_are_read_or_refused() -> None:
    run = fuzz(0, SECONDS)
    assert run.findings == {} and run.outcomes
