"""Clocks, throttling and load, on a fake GPU and a fake system."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.measure import machine


def fake_nvml(reasons: int) -> SimpleNamespace:
    return SimpleNamespace(
        nvmlClocksThrottleReasonGpuIdle=1,
        nvmlClocksThrottleReasonApplicationsClocksSetting=2,
        nvmlClocksThrottleReasonSwPowerCap=4,
        nvmlClocksThrottleReasonHwSlowdown=8,
        nvmlClocksThrottleReasonAll=15,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: reasons,
        nvmlDeviceGetClockInfo=lambda gpu, kind: 1000 * kind,
        nvmlDeviceGetTemperature=lambda gpu, kind: 61,
    )


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [
        pytest.param(0, [], id="none"),
        pytest.param(1 | 2, [], id="idle-is-no-throttling"),
        pytest.param(1 | 4 | 8, ["hw_slowdown", "sw_power_cap"], id="throttled"),
    ],
)
def test_the_gpus_state_names_what_holds_it_back(reasons: int, throttled: list[str]) -> None:
    state = machine.gpu_state(fake_nvml(reasons))
    expected = {"sm_mhz": 1000, "memory_mhz": 2000, "temperature_c": 61, "throttled": throttled}
    assert state == expected


def test_throttling_after_the_run_counts_too(tmp_path: Path) -> None:
    reasons = iter((0, 4))
    nvml = fake_nvml(0)
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda gpu: next(reasons)
    watch = machine.Watch(nvml, tmp_path / "no-stat")
    assert watch.throttled == []
    watch.stop()
    assert watch.throttled == ["sw_power_cap"]
    assert watch.busy is None


def test_energy_is_that_of_the_runs_alone() -> None:
    """On a GPU of 300 W, a run takes half a second, and a run uses more memory."""
    now = {"seconds": 100.0, "runs": 0}

    def run() -> None:
        now["seconds"] += 0.5
        now["runs"] += 1

    nvml = fake_nvml(0)
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda gpu: 300e3 * now["seconds"]  # mJ
    nvml.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(
        used=(4 if now["runs"] == 2 else 3) * 2**30
    )
    usage = machine.usage(nvml, run, seconds=2.0, clock=lambda: now["seconds"])
    assert usage == machine.Usage(joules=150.0, memory_mib=4096.0)
    assert now["runs"] == 4


def test_a_gpu_that_does_not_count_its_energy_is_not_run() -> None:
    class NVMLError(Exception):
        pass

    def unsupported(gpu: int) -> int:
        raise NVMLError

    nvml = fake_nvml(0)
    nvml.NVMLError, nvml.nvmlDeviceGetTotalEnergyConsumption = NVMLError, unsupported
    assert machine.usage(nvml, lambda: pytest.fail("it ran")) is None
    assert machine.usage(None, lambda: pytest.fail("it ran")) is None


def test_others_share_leaves_out_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks, stat = os.sysconf("SC_CLK_TCK"), tmp_path / "stat"
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    now = {"wall": 100.0, "own": 5.0}
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(machine.time, "process_time", lambda: now["own"])
    stat.write_text("cpu 0 0 0 0 0 0 0 0 0 0\n")
    watch = machine.Watch(None, stat)
    # 10 s on two processors: 11 busy seconds, 7 of them this process's.
    stat.write_text(f"cpu {10 * ticks} 0 {1 * ticks} {8 * ticks} {1 * ticks} 0 0 0 0 0\n")
    now |= {"wall": 110.0, "own": 12.0}
    watch.stop()
    assert watch.busy == pytest.approx(4 / 20)


def test_the_machine_is_named_after_what_it_computes_on() -> None:
    name = machine.machine_name
    assert name("NVIDIA H100 80GB HBM3", "AMD EPYC", 16) == "nvidia-h100-80gb-hbm3"
    assert name(None, "AMD EPYC", 2) == "amd-epyc-2-threads"


def test_the_largest_cache_is_found(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "32M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    cache_bytes = machine.cache_bytes
    assert cache_bytes(tmp_path) == cache_bytes(tmp_path / "none") == 2**25
    (tmp_path / "index3").mkdir()
    (tmp_path / "index3" / "size").write_text("256M\n")
    assert cache_bytes(tmp_path) == 2**28
