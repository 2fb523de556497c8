"""Verdicts on engines: validity and reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from clinreadnet.runtime.bundle.manifest import Artifact, BatchRange, BuiltOn
from clinreadnet.runtime.verdict import (
    VALID,
    Machine,
    Validity,
    Verdict,
    current_platform,
    processor_verdict,
    verdict,
    worst,
)

LINUX = "linux-x86_64"
HERE = Machine(LINUX, "RTX 4090", "sm89", "580.65.06", "10.16.1.11")
RTX = dataclasses.replace(HERE, version="1.7.1.116")


def engine(flavour: str = "tensorrt", **changes: Any) -> Artifact:
    fields: dict[str, Any] = {
        "file": "x.engine",
        "kind": "tensorrt-engine",
        "precision": "fp16",
        "sha256": "0" * 64,
        "size": 1,
        "batch": BatchRange(2, 4, 8),
        "toolchain": {"tensorrt": "10.16.1.11", "tensorrt-rtx": "1.7.1.116", "torch": "2.13.0"},
        "built_on": BuiltOn(LINUX, "RTX 4090", "580.65.06"),
        "flavour": flavour,
        "target": "sm89",
    }
    return Artifact(**(fields | changes))


def on(**changes: Any) -> Machine:
    return dataclasses.replace(HERE, **changes)


VC, HC = {"version_compatible": True}, {"hardware_compatible": True}
CASES: dict[str, tuple[Artifact, Machine, str, str]] = {
    "same": (engine(), HERE, "VALID", ""),
    "rtx-same": (engine("tensorrt-rtx"), RTX, "VALID", ""),
    "rtx-built-without-gpu": (
        engine("tensorrt-rtx", built_on=BuiltOn(LINUX)), RTX, "VALID", "",
    ),
    "no-gpu": (engine(), Machine(LINUX), "INVALID", "needs an NVIDIA GPU"),
    "platform": (engine(), on(platform="windows-x86_64"), "INVALID", "built for linux-x86_64"),
    "arm": (engine(), on(platform="linux-aarch64"), "INVALID", "built for linux-x86_64"),
    "rtx-elsewhere": (
        engine("tensorrt-rtx"), dataclasses.replace(RTX, platform="windows-x86_64"), "VALID", "",
    ),
    "not-installed": (engine(), on(version=None), "INVALID", "tensorrt is not installed"),
    "no-version": (
        engine(toolchain={"torch": "2"}), HERE, "INVALID", "does not say which tensorrt built it",
    ),
    "other-build": (engine(), on(version="10.16.1.99"), "VALID", ""),
    "other-patch": (engine(), on(version="10.16.2.1"), "INVALID", "10.16.1.11, here is 10.16.2.1"),
    "other-minor": (engine(), on(version="10.13.0"), "INVALID", "here is 10.13.0"),
    "other-major": (engine(), on(version="11.4.0"), "INVALID", "here is 11.4.0"),
    "rtx-release": (
        engine("tensorrt-rtx"), on(version="1.6.0.1"), "INVALID", "tensorrt-rtx 1.7.1.116, here",
    ),
    "compatible-newer": (
        engine(**VC), on(version="10.17.0.1"), "SUBOPTIMAL", "older than 10.17.0.1 here",
    ),
    "compatible-older": (engine(**VC), on(version="10.15.0"), "INVALID", "within 10.x"),
    "compatible-major": (engine(**VC), on(version="11.0.0"), "INVALID", "within 10.x"),
    "lean": (engine(), on(lean=True), "INVALID", "only the lean runtime"),
    "lean-compatible": (engine(**VC), on(lean=True), "VALID", ""),
    "architecture": (engine(), on(target="sm86"), "INVALID", "built for sm89, this GPU is sm86"),
    "newer-architecture": (engine(), on(target="sm120"), "INVALID", "this GPU is sm120"),
    "sm80-compatible-on-sm86": (
        engine(target="sm80", **HC), on(target="sm86"), "SUBOPTIMAL", "tuned for sm80, this GPU is",
    ),
    "sm89-compatible-on-sm80": (
        engine(**HC), on(target="sm80"), "SUBOPTIMAL", "tuned for sm89, this GPU is sm80",
    ),
    "compatible-on-sm120": (
        engine(target="sm80", **HC), on(target="sm120"), "SUBOPTIMAL", "hardware-compatible",
    ),
    "compatible-on-turing": (engine(**HC), on(target="sm75"), "INVALID", "from sm80, this GPU is"),
    "other-gpu": (engine(), on(gpu="RTX 4060"), "SUBOPTIMAL", "tuned on RTX 4090, here is RTX 4"),
    "rtx-other-gpu": (
        engine("tensorrt-rtx"), dataclasses.replace(RTX, gpu="RTX 4060"), "VALID", "",
    ),
    "older-driver": (engine(), on(driver="575.10"), "SUBOPTIMAL", "the older 575.10"),
    "newer-driver": (engine(), on(driver="590.1"), "VALID", ""),
    "unknown-driver": (engine(), on(driver=None), "SUBOPTIMAL", "driver is unknown"),
    "built-without-driver": (engine(built_on=BuiltOn(LINUX)), HERE, "VALID", ""),
    "invalid-hides-suboptimal": (
        engine(), on(driver="575.10", target="sm86"), "INVALID", "built for sm89, this GPU is sm86",
    ),
    "every-reason": (
        engine(), on(platform="x", version="9"), "INVALID", "built for linux-x86_64; built with",
    ),
    "strange-target": (engine(**HC), on(target="mps"), "INVALID", "this GPU is mps"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("artifact", "machine", "validity", "reason"), CASES.values(), ids=CASES.keys()
)
def test_an_engine_is_judged(
    artifact: Artifact, machine: Machine, validity: str, reason: str
) -> None:
    result = verdict(artifact, machine)
    assert result.validity.name == validity
    assert reason in result.reason
    assert bool(result.reason) == (validity != "VALID")


@pytest.mark.parametrize("batch", [None, 1, 2, 8, 9])
def test_the_batch_is_judged_against_the_profile(batch: int | None) -> None:
    graph = engine(None, kind="onnx", target=None)
    for artifact, machine in ((engine(), HERE), (graph, Machine("any"))):
        result = verdict(artifact, machine, batch)
        if batch in (1, 9):
            assert result.validity == Validity.INVALID
            assert f"batch {batch} is outside the profile of x.engine, 2 to 8" in result.reason
        else:
            assert result == VALID


def test_a_graph_runs_on_any_machine() -> None:
    assert verdict(engine(None, kind="onnx", target=None), Machine("plan9-mips")) == VALID


def test_the_worst_verdict_counts() -> None:
    slow, wrong = Verdict(Validity.SUBOPTIMAL, "slow"), Verdict(Validity.INVALID, "wrong")
    assert worst([]) == worst([VALID]) == VALID
    assert worst([VALID, slow, slow]) == Verdict(Validity.SUBOPTIMAL, "slow; slow")
    assert worst([slow, wrong, VALID]) == wrong


def test_the_platform_is_written_as_the_exporter_writes_it() -> None:
    system, _, processor = current_platform().partition("-")
    assert system in ("linux", "windows", "darwin") and processor


@pytest.mark.parametrize(
    ("precision", "known", "suboptimal"),
    [
        ("int8", False, True),
        ("int8-dynamic", False, True),
        ("int8-dynamic", True, False),
        ("int8-dynamic", None, False),
        ("fp32", False, False),
    ],
)
def test_8_bits_on_a_processor_without_their_products(
    precision: str, known: bool | None, suboptimal: bool
) -> None:
    graph = engine(kind="onnx", precision=precision, flavour=None, target=None)
    result = processor_verdict(graph, on(processor="Old CPU", multiplies_bytes=known))
    assert result.validity == (Validity.SUBOPTIMAL if suboptimal else Validity.VALID)
    assert ("Old CPU has no instructions for 8-bit products" in result.reason) == suboptimal
