"""Check whether an artifact is compatible with this machine, before it is loaded.

`verdict` is a pure function of the manifest's entry and a `Machine`. TensorRT-RTX also checks the
header of an engine (`header_verdict`).
"""

from __future__ import annotations

import enum
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clinreadnet.precision import PRECISIONS
from clinreadnet.processor import cpu_name, multiplies_bytes
from clinreadnet.runtime.bundle.manifest import Artifact
from clinreadnet.runtime.bundle.plugins import driver_obstacle
from clinreadnet.runtime.gpu import driver_version, find_gpus


class Validity(enum.IntEnum):
    """Compatibility of an artifact. A larger value is worse."""

    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


@dataclass(frozen=True)
class Verdict:
    """A validity with its reason, which is empty for VALID."""

    validity: Validity
    reason: str = ""


@dataclass(frozen=True)
class Machine:
    """Properties of a machine that determine compatibility.

    Attributes:
        platform: operating system and processor in the form of `current_platform`.
        gpu: name of the GPU, or None.
        target: architecture of the GPU, such as ``sm89``.
        driver: version of the NVIDIA driver.
        version: version of the backend's library; None if not needed or not installed.
        lean: whether that library is the lean runtime, which runs only version-compatible engines.
        processor: name of the processor.
        multiplies_bytes: whether the processor has instructions for 8-bit products; None if
            unknown.
    """

    platform: str
    gpu: str | None = None
    target: str | None = None
    driver: str | None = None
    version: str | None = None
    lean: bool = False
    processor: str = ""
    multiplies_bytes: bool | None = None


VALID = Verdict(Validity.VALID)

_AMPERE = 80


def current_platform() -> str:
    """Return the operating system and processor, such as ``linux-x86_64``."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{'x86_64' if machine == 'amd64' else machine}"


def this_machine(version: str | None = None, *, lean: bool = False, device: int = 0) -> Machine:
    """Return the properties of this machine and one of its GPUs.

    Args:
        version: version of the backend's library.
        lean: whether that library is the lean runtime.
        device: index of the GPU among the visible ones.
    """
    gpu = next(iter(find_gpus()[device : device + 1]), None)
    return Machine(
        platform=current_platform(),
        gpu=None if gpu is None else gpu.name,
        target=None if gpu is None else gpu.target,
        driver=None if gpu is None else driver_version(),
        version=version,
        lean=lean,
        processor=cpu_name(),
        multiplies_bytes=multiplies_bytes(),
    )


def verdict(artifact: Artifact, machine: Machine, batch: int | None = None) -> Verdict:
    """Return the verdict of an artifact on a machine.

    Args:
        artifact: entry of the manifest. For a graph only ``batch`` is checked.
        machine: the machine that will run it.
        batch: required slices per run.

    Returns:
        The worst validity, with all reasons for it.
    """
    verdicts = [_batch(artifact, batch)]
    if artifact.kind == "tensorrt-engine":
        if machine.gpu is None or machine.target is None:
            verdicts.append(_invalid("needs an NVIDIA GPU, and none is visible here"))
        else:
            verdicts += [
                _platform(artifact, machine),
                _version(artifact, machine),
                _architecture(artifact, machine),
                _driver(artifact, machine),
                _plugins(artifact, machine),
            ]
    return worst(verdicts)


def processor_verdict(artifact: Artifact, machine: Machine) -> Verdict:
    """Return the verdict of a graph on the processor."""
    if PRECISIONS[artifact.precision].quantized and machine.multiplies_bytes is False:
        return _suboptimal(
            f"{machine.processor} has no instructions for 8-bit products: {artifact.precision} may "
            "be slower than fp32"
        )
    return VALID


def native_verdict(artifact: Artifact, machine: Machine, *, fast: bool) -> Verdict:
    """Return the verdict of a checkpoint for the package's CPU engine.

    Args:
        artifact: the manifest's entry.
        machine: the machine, with version and instruction set of the engine.
        fast: whether the precision is faster than float32 with that instruction set.
    """
    if PRECISIONS[artifact.precision].quantized and not fast:
        return _suboptimal(
            f"{machine.processor} has no fast 8-bit products for the CPU engine {machine.version}: "
            f"{artifact.precision} may be slower than fp32"
        )
    return VALID


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst validity, with all reasons for it."""
    judgements = list(verdicts)
    validity = max((judgement.validity for judgement in judgements), default=Validity.VALID)
    if validity == Validity.VALID:
        return VALID
    return Verdict(
        validity,
        "; ".join(judgement.reason for judgement in judgements if judgement.validity == validity),
    )


def header_verdict(trt: Any, runtime: Any, engine: bytes) -> Verdict:
    """Check the header of an engine with TensorRT-RTX, without deserialising it.

    Args:
        trt: module of the flavour, which has `Runtime.get_engine_validity`.
        runtime: `Runtime` of the module.
        engine: bytes of the engine. Only the header is used.
    """
    validity, mask = runtime.get_engine_validity(engine[: runtime.engine_header_size])
    if validity == trt.EngineValidity.VALID:
        return VALID
    kinds = trt.EngineInvalidityDiagnostics.__members__.items()
    reasons = [name.lower().replace("_", " ") for name, kind in kinds if int(mask) & int(kind)]
    reason = f"TensorRT-RTX: {', '.join(reasons) or 'no reason given'}"
    suboptimal = validity == trt.EngineValidity.SUBOPTIMAL
    return Verdict(Validity.SUBOPTIMAL if suboptimal else Validity.INVALID, reason)


def _invalid(reason: str) -> Verdict:
    return Verdict(Validity.INVALID, reason)


def _suboptimal(reason: str) -> Verdict:
    return Verdict(Validity.SUBOPTIMAL, reason)


def _batch(artifact: Artifact, batch: int | None) -> Verdict:
    profile = artifact.batch
    if batch is None or profile.min <= batch <= profile.max:
        return VALID
    return _invalid(
        f"batch {batch} is outside the profile of {artifact.file}, {profile.min} to {profile.max}"
    )


def _platform(artifact: Artifact, machine: Machine) -> Verdict:
    if artifact.flavour == "tensorrt-rtx":
        return VALID  # engines of this flavour do not depend on the operating system
    built = artifact.built_on.platform
    return VALID if built == machine.platform else _invalid(f"built for {built}")


def _version(artifact: Artifact, machine: Machine) -> Verdict:
    flavour = str(artifact.flavour)
    if machine.version is None:
        return _invalid(f"{flavour} is not installed")
    built_text = artifact.toolchain.get(flavour)
    if built_text is None:
        return _invalid(f"the manifest does not say which {flavour} built it")
    built, here = _numbers(built_text), _numbers(machine.version)
    compatible = artifact.version_compatible
    if machine.lean and not compatible:
        return _invalid("not version-compatible, but only the lean runtime is installed")
    if built[:3] == here[:3]:
        return VALID
    if not compatible:
        return _invalid(f"built with {flavour} {built_text}, here is {machine.version}")
    if built[0] == here[0] and here[:3] > built[:3]:
        return _suboptimal(f"built with {flavour} {built_text}, older than {machine.version} here")
    return _invalid(
        f"version-compatible from {flavour} {built_text} within {built[0]}.x, "
        f"here is {machine.version}"
    )


def _architecture(artifact: Artifact, machine: Machine) -> Verdict:
    built, here = str(artifact.target), str(machine.target)
    if built == here:
        built_gpu = artifact.built_on.gpu
        if artifact.flavour == "tensorrt" and built_gpu not in (None, machine.gpu):
            return _suboptimal(f"tuned on {built_gpu}, here is {machine.gpu}")
        return VALID
    if artifact.hardware_compatible:
        # Hardware-compatible engines run on Ampere or newer.
        if _sm(here) >= _AMPERE and _sm(built) >= _AMPERE:
            return _suboptimal(f"hardware-compatible, tuned for {built}, this GPU is {here}")
        return _invalid(f"hardware-compatible from sm{_AMPERE}, this GPU is {here}")
    return _invalid(f"built for {built}, this GPU is {here}")


def _driver(artifact: Artifact, machine: Machine) -> Verdict:
    built = artifact.built_on.driver
    if machine.driver is None:
        return _suboptimal("the version of the NVIDIA driver is unknown")
    if built is None or _numbers(machine.driver)[0] >= _numbers(built)[0]:
        return VALID
    return _suboptimal(f"built with driver {built}, here is the older {machine.driver}")


def _plugins(artifact: Artifact, machine: Machine) -> Verdict:
    for ptx in artifact.plugins.ptx if artifact.plugins is not None else ():
        reason = driver_obstacle(ptx.isa, machine.driver)
        if reason is not None:
            return _invalid(f"its plugins do not load: {reason}; install a newer driver")
    return VALID


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: ``10.16.1.11+cu13`` is (10, 16, 1, 11)."""
    numbers = []
    for part in version.split("+")[0].split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers) or (0,)


def _sm(target: str) -> int:
    digits = target.removeprefix("sm")
    return int(digits) if digits.isdecimal() else 0
