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
    ("text", "bytes_known", "bfloat16_known"),
    [
        pytest.param("flags\t\t: fpu avx512_vnni\nflags\t: fpu\n", True, False, id="x86-bytes"),
        pytest.param("flags\t\t: fpu avx512f avx512_bf16\n", False, True, id="x86-bfloat16"),
        pytest.param("flags\t\t: fpu avx2 avx512_vnni2\n", False, False, id="x86-without"),
        pytest.param("Features\t: fp asimd asimddp bf16\n", True, True, id="arm"),
        pytest.param("Features\t: fp asimd\n", False, False, id="arm-without"),
        pytest.param("processor\t: 0\n", None, None, id="not-told"),
    ],
)
def test_the_products_of_the_processor_are_known_by_its_flags(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    bytes_known: bool | None,
    bfloat16_known: bool | None,
) -> None:
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    assert processor.multiplies_bytes() is None
    (tmp_path / "cpuinfo").write_text(text)
    assert processor.multiplies_bytes() is bytes_known
    assert processor.multiplies_bfloat16() is bfloat16_known


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process")
def test_a_bound_process_counts_its_own_processors() -> None:
    allowed = os.sched_getaffinity(0)
    assert processor.processors() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert processor.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("groups", "limits", "count"),
    [
        pytest.param("0::/\n", {"cpu.max": "150000 100000\n"}, 2, id="container"),
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 1, id="half"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 8, id="no-limit"),
        pytest.param("0::/\n", {"cpu.max": "1600000 100000\n"}, 8, id="more-than-there-are"),
        pytest.param(
            "0::/system.slice/a.service\n",
            {
                "system.slice/a.service/cpu.max": "400000 100000\n",
                "system.slice/cpu.max": "300000 100000\n",
            },
            3,
            id="service",
        ),
        pytest.param(
            "5:memory:/x\n2:cpu,cpuacct:/docker/of-the-host\n1:name=systemd:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
            id="version-1",
        ),
        pytest.param(
            "2:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
            id="version-1-no-limit",
        ),
        pytest.param(None, {}, 8, id="other-system"),
    ],
)
def test_a_share_of_the_processors_is_rounded_up(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    groups: str | None,
    limits: dict[str, str],
    count: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(processor, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(processor, "GROUPS", tmp_path / "cgroup")
    processor._share.cache_clear()
    request.addfinalizer(processor._share.cache_clear)
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    for name, text in limits.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert processor.processors() == count
