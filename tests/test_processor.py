import os
from pathlib import Path

import pytest

from clinreadnet import processor


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("processor\t: 0\nmodel name\t: A: B\nmodel name\t: C\n", "A: B", id="linux"),
        pytest.param("processor\t: 0\n", "fallback", id="no-name"),
        pytest.param(None, "fallback", id="other-system"),
    ],
)
def test_the_processor_is_named(
    monkeypatch: pytest.MonkeyPatch, text: str | None, name: str
) -> None:
    def read(path: Path, encoding: str) -> str:
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(processor.Path, "read_text", read)
    monkeypatch.setattr(processor.platform, "processor", lambda: "fallback")
    assert processor.cpu_name() == name
    monkeypatch.setattr(processor.platform, "processor", lambda: "")
    assert processor.cpu_name() == (name if name != "fallback" else "unknown processor")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        pytest.param("flags\t\t: fpu avx512_vnni\nflags\t: fpu\n", True, id="x86"),
        pytest.param("flags\t\t: fpu avx2 avx512_vnni2\n", False, id="x86-without"),
        pytest.param("Features\t: fp asimd asimddp\n", True, id="arm"),
        pytest.param("Features\t: fp asimd\n", False, id="arm-without"),
        pytest.param("processor\t: 0\n", None, id="not-told"),
    ],
)
def test_the_instructions_for_8_bit_products_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, known: bool | None
) -> None:
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    assert processor.multiplies_bytes() is None
    (tmp_path / "cpuinfo").write_text(text)
    assert processor.multiplies_bytes() is known


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process")
def test_a_bound_process_counts_its_own_processors() -> None:
    allowed = os.sched_getaffinity(0)
    assert processor.processors() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert processor.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
