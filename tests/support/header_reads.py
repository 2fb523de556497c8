"""Count how often headers are read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pydicom
import pytest

from clinreadnet.data import dicom_container


def count_header_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Start to count: ``header`` by our reader, ``meta`` and ``file`` by pydicom's."""
    reads: Counter[str] = Counter()

    def counted(module: Any, name: str, kind: str) -> None:
        read = getattr(module, name)

        def one_more(*arguments: Any, **options: Any) -> Any:
            reads[kind] += 1
            return read(*arguments, **options)

        monkeypatch.setattr(module, name, one_more)

    counted(dicom_container, "read_dataset", "header")
    counted(pydicom.filereader, "read_file_meta_info", "meta")
    counted(pydicom, "dcmread", "file")
    return reads
