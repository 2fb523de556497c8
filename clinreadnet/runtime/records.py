"""Select the verification records of an artifact that apply to a machine.

A record applies if the backend, the version of its library, and the GPU or processor are the same:
an engine can be correct on one GPU and wrong on another, or with another release of its library.
For the package's CPU engine, version and instruction set decide, because results do not depend on
the processor.
"""

from __future__ import annotations

from clinreadnet._version import __version__
from clinreadnet.backends import BACKENDS
from clinreadnet.runtime.bundle.files import now
from clinreadnet.runtime.bundle.manifest import Artifact, Parity, RanOn
from clinreadnet.runtime.verdict import VALID, Machine, Validity, Verdict

CPU_BACKEND = "onnxruntime-cpu"
NATIVE_BACKEND = "native"
CPU_BACKENDS = tuple(row.name for row in BACKENDS.values() if row.on_cpu)
"""Names of the backends that run on the CPU."""


def library(backend: str) -> str:
    """Return the name of a backend's library in records."""
    row = BACKENDS.get(backend)
    return backend if row is None else row.library  # an unknown backend of another release


def ran_on(backend: str, machine: Machine) -> RanOn:
    """Return the machine and the time for the record of a run that ends now.

    Args:
        backend: name of the backend.
        machine: this machine, with the version of the backend's library.
    """
    gpu = backend not in CPU_BACKENDS
    versions = {"clinreadnet": __version__}
    if machine.version is not None:
        versions[library(backend)] = machine.version
    return RanOn(
        backend,
        now(),
        machine.platform,
        machine.processor,
        machine.gpu if gpu else None,
        machine.target if gpu else None,
        machine.driver if gpu else None,
        versions,
    )


def place(ran: RanOn) -> str:
    """Return the GPU or processor of a record, and the backend if it is not the default one."""
    usual = ran.gpu is not None or ran.backend == CPU_BACKEND
    return ran.hardware if usual else f"{ran.hardware} with {ran.backend}"


def same_kind(run: RanOn, other: RanOn) -> bool:
    """Return whether a record of ``run`` applies to ``other``."""
    package = library(run.backend)
    if (run.backend, run.libraries.get(package)) != (other.backend, other.libraries.get(package)):
        return False
    return run.hardware == other.hardware or (run.backend == NATIVE_BACKEND and run.gpu is None)


def record_here(artifact: Artifact, backend: str, machine: Machine) -> Parity | None:
    """Return the newest record of an artifact that applies to a machine, or None."""
    here = ran_on(backend, machine)
    records = [
        parity for parity in artifact.runs if parity.ran_on and same_kind(parity.ran_on, here)
    ]
    return max(
        records, key=lambda parity: parity.ran_on.date if parity.ran_on else "", default=None
    )


def other_records(artifact: Artifact, backend: str, machine: Machine) -> str | None:
    """Describe the records of a backend that do not apply to a machine, or return None."""
    here = ran_on(backend, machine)
    said = []
    for parity in artifact.runs:
        where = parity.ran_on
        if where is None or where.backend != backend or same_kind(where, here):
            continue
        what = "another GPU" if where.gpu is not None else "another processor"
        if where.hardware == here.hardware:
            what = f"with {library(backend)} {where.libraries.get(library(backend), '?')}"
        said.append(f"{parity.status} on {where.hardware}, {what}, {where.date[:10]}")
    return "; ".join(said) or None


def record_verdict(artifact: Artifact, backend: str, machine: Machine) -> Verdict:
    """Return the verdict of an artifact's record for a machine; INVALID if it failed there."""
    record = record_here(artifact, backend, machine)
    if record is None or record.ran_on is None or record.status == "passed":
        return VALID
    where = record.ran_on
    return Verdict(
        Validity.INVALID,
        f"failed `clinreadnet verify` on {where.hardware}, {where.date[:10]} ({record.reason})",
    )
