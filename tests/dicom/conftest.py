"""A small bundle and a scored series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import write_bundle

from clinreadnet.data.slices import find_slices
from clinreadnet.dicom.sources import SOURCE_TAGS
from clinreadnet.runtime import Session
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.run import score_slices

pytest.importorskip("highdicom", reason="highdicom is not installed: the extra dicom")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="session")
def session(bundle: Path) -> Session:
    return Session(bundle, "onnxruntime-cpu")


@pytest.fixture(scope="session")
def scored(session: Session) -> Callable[..., SeriesReport]:
    def score(*paths: Any) -> SeriesReport:
        return score_slices(session, find_slices(paths, keep=SOURCE_TAGS))

    return score
