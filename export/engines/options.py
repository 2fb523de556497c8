"""Options of a TensorRT build and their checks.

TensorRT-RTX builds without a GPU. TensorRT builds on the target GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from clinreadnet.errors import InputError
from clinreadnet.limits import LARGEST_BATCH, LEAST_BATCH
from clinreadnet.runtime.backends.flavours import Flavour
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.gpu import find_gpus

DEFAULT_TARGETS = ("sm86", "sm89", "sm120")
"""Architectures of the last three generations of GeForce and RTX: 30, 40 and 50."""

DEFAULT_BATCH = BatchRange(1, 4, 16)

PLATFORMS = {"windows": "windows-x86_64"}
"""Operating systems for cross-builds, with their names in the manifest."""

OPTIMIZATION_LEVELS = 5
"""Highest optimisation level of all flavours; the lowest is 0."""


@dataclass(frozen=True)
class BuildOptions:
    """Build options besides target, precision and profile. ``None`` is TensorRT's default.

    Attributes:
        version_compatible: build for later releases of the major version and the lean runtime.
        hardware_compatible: build for any GPU since Ampere.
        strip_weights: omit the weights, which are refitted from the graph when the engine is
            loaded.
        timing_cache: file of kernel timings, which is read if it exists and updated.
        optimization_level: 0 (fast build) to 5 (fast engine).
        workspace_mib: limit of scratch memory in MiB.
        platform: one of ``PLATFORMS``; None for this operating system.
    """

    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    timing_cache: Path | None = None
    optimization_level: int | None = None
    workspace_mib: int | None = None
    platform: str | None = None

    def asked(self) -> list[str]:
        """Return the names of the options that differ from their defaults."""
        return [
            option.name for option in fields(self) if getattr(self, option.name) != option.default
        ]


def check_options(options: BuildOptions, flavour: Flavour) -> None:
    """Check options against a flavour.

    Raises:
        InputError: the flavour does not support an option, or a value is out of range.
    """
    for option in options.asked():
        if option not in flavour.options:
            raise InputError(f"`{option}`: {flavour.name} does not offer it; leave it out")
        if option in flavour.gpu_options and not find_gpus():
            raise InputError(
                f"`{option}`: {flavour.name} needs a GPU for it, and this machine shows none"
            )
    level = options.optimization_level
    if level is not None and not 0 <= level <= OPTIMIZATION_LEVELS:
        raise InputError(f"optimization_level={level}: give 0 to {OPTIMIZATION_LEVELS}")
    if options.platform is not None and options.platform not in PLATFORMS:
        raise InputError(
            f"platform={options.platform}: give {' or '.join(PLATFORMS)}, or leave it out to "
            "build for this operating system"
        )
    if options.workspace_mib is not None and options.workspace_mib < 1:
        raise InputError(f"workspace_mib={options.workspace_mib}: give 1 MiB or more")


def resolve_targets(targets: Sequence[str], flavour: Flavour) -> tuple[str, ...]:
    """Return the architectures to build for. ``current`` is that of this machine's GPU.

    Raises:
        InputError: the flavour cannot build for a target.
    """
    gpus = {gpu.target: None for gpu in find_gpus()}
    resolved: list[str] = []
    for target in targets:
        if not gpus and (target == "current" or not flavour.targets):
            raise InputError(
                f"targets={target}: {flavour.name} builds it on the GPU itself, and this machine "
                "shows none; export there, or build with flavour=tensorrt-rtx for a named target"
            )
        if target == "current":
            target = next(iter(gpus))
        elif not flavour.targets and target not in gpus:
            raise InputError(
                f"targets={target}: {flavour.name} builds for this machine's GPU alone "
                f"({', '.join(gpus)}); give targets=current, or export on a GPU of {target}"
            )
        if flavour.targets and target not in flavour.targets:
            raise InputError(
                f"targets={target}: unknown; {flavour.name} knows {', '.join(flavour.targets)}"
            )
        resolved.append(target)
    return tuple(dict.fromkeys(resolved))


def parse_batch(text: str) -> BatchRange:
    """Read a profile ``MIN:OPT:MAX``.

    Raises:
        InputError: the text is not three integers 1 <= MIN <= OPT <= MAX within the graph's batch.
    """
    try:
        low, best, high = map(int, text.split(":"))
    except ValueError:
        raise InputError(f"batch={text}: give MIN:OPT:MAX, such as 1:4:16") from None
    batch = BatchRange(low, best, high)
    check_batch(batch)
    return batch


def check_batch(batch: BatchRange) -> None:
    """Check that 1 <= min <= opt <= max <= ``LARGEST_BATCH`` and min <= ``LEAST_BATCH``.

    Raises:
        InputError: the profile is invalid.
    """
    if not 1 <= batch.min <= batch.opt <= batch.max:
        raise InputError(f"batch={batch}: needs 1 <= MIN <= OPT <= MAX")
    if batch.min > LEAST_BATCH:
        raise InputError(
            f"batch={batch}: MIN is at most {LEAST_BATCH}; smaller batches are filled up to it"
        )
    if batch.max > LARGEST_BATCH:
        raise InputError(f"batch={batch}: the graph accepts at most {LARGEST_BATCH} slices")
