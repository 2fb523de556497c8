"""Whether an engine fits this machine, determined before it is deserialised.

`verdict` is a pure function of the manifest's entry and a `Machine`. With TensorRT-RTX the library
also checks the engine's header (`header_verdict`).
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
    """Fit of an engine; a larger value is worse."""

    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


@dataclass(frozen=True)
class Verdict:
    """A validity and its reason; the reason of VALID is empty."""

    validity: Validity
    reason: str = ""


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that an engine must fit.

    Attributes:
        platform: operating system and processor, as `current_platform` writes them.
        gpu: name of the GPU, or None without one.
        target: its architecture, such as ``sm89``.
        driver: version of the NVIDIA driver.
        version: of the flavour's installed package; None if not needed or not installed.
        lean: whether that package is the lean runtime, which runs only version-compatible engines.
        processor: name of the processor.
        multiplies_bytes: whether it has instructions for 8-bit products; None if unknown.
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
    """Return this machine with one of its GPUs.

    Args:
        version: of the backend's library.
        lean: whether that is the lean runtime.
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
    """Judge an artifact for a machine.

    Args:
        artifact: the manifest's entry. For a graph only ``batch`` is checked.
        machine: the machine that will run it.
        batch: slices per run that the caller requires.

    Returns:
        The worst validity found, with every reason for it.
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
    """Judge a graph for the processor that will run it."""
    if PRECISIONS[artifact.precision].quantized and machine.multiplies_bytes is False:
        return _suboptimal(
            f"{machine.processor} has no instructions for 8-bit products: {artifact.precision} may "
            "be slower than fp32"
        )
    return VALID


def native_verdict(artifact: Artifact, machine: Machine, *, fast: bool) -> Verdict:
    """Judge a checkpoint for the package's own CPU engine.

    Args:
        artifact: the manifest's entry.
        machine: with the engine's version and instruction set.
        fast: whether its precision is faster than float32 with that instruction set.
    """
    if PRECISIONS[artifact.precision].quantized and not fast:
        return _suboptimal(
            f"{machine.processor} has no fast 8-bit products for the CPU engine {machine.version}: "
            f"{artifact.precision} may be slower than fp32"
        )
    return VALID


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst validity, with every reason for it."""
    judgements = list(verdicts)
    validity = max((judgement.validity for judgement in judgements), default=Validity.VALID)
    if validity == Validity.VALID:
        return VALID
    return Verdict(
        validity,
        "; ".join(judgement.reason for judgement in judgements if judgement.validity == validity),
    )


def header_verdict(trt: Any, runtime: Any, engine: bytes) -> Verdict:
    """Let TensorRT-RTX check an engine's header, without deserialising the engine.

    Args:
        trt: the flavour's module, which has `Runtime.get_engine_validity`.
        runtime: its `Runtime`.
        engine: the engine's bytes; only the header is passed on.
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
        return VALID  # its engines do not depend on the operating system
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
        # Hardware-compatible means Ampere or newer.
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
