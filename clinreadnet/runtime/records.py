"""Which records of an artifact's verification count on a machine.

A record counts where the backend, its library's version, and the GPU or processor are the same: an
engine can be right on one GPU and wrong on another, or with another release of its library. Of the
package's own CPU engine the version and the instruction set count, not the processor's name: its
code computes the same bits on each.
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
"""Those that run on the processor."""


def library(backend: str) -> str:
    """Return the package that a backend runs with, as records name it."""
    row = BACKENDS.get(backend)
    return backend if row is None else row.library  # other releases may know other backends


def ran_on(backend: str, machine: Machine) -> RanOn:
    """Return what a record of a run that ends now says of its machine.

    Args:
        backend: name of the backend that ran.
        machine: the machine, with the version of the backend's library.
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
    """Return where a record was made: the GPU or processor, and the library if another is usual."""
    usual = ran.gpu is not None or ran.backend == CPU_BACKEND
    return ran.hardware if usual else f"{ran.hardware} with {ran.backend}"


def same_kind(run: RanOn, other: RanOn) -> bool:
    """Return whether a record of ``one`` counts where ``other`` runs."""
    package = library(run.backend)
    if (run.backend, run.libraries.get(package)) != (other.backend, other.libraries.get(package)):
        return False
    return run.hardware == other.hardware or (run.backend == NATIVE_BACKEND and run.gpu is None)


def record_here(artifact: Artifact, backend: str, machine: Machine) -> Parity | None:
    """Return an artifact's newest record that counts on a machine; None where there is none."""
    here = ran_on(backend, machine)
    records = [
        parity for parity in artifact.runs if parity.ran_on and same_kind(parity.ran_on, here)
    ]
    return max(
        records, key=lambda parity: parity.ran_on.date if parity.ran_on else "", default=None
    )


def other_records(artifact: Artifact, backend: str, machine: Machine) -> str | None:
    """Say what records of a backend hold that do not count on a machine; None without any."""
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
    """Judge an artifact by its record for a machine: one that failed there is not loaded."""
    record = record_here(artifact, backend, machine)
    if record is None or record.ran_on is None or record.status == "passed":
        return VALID
    where = record.ran_on
    return Verdict(
        Validity.INVALID,
        f"failed `clinreadnet verify` on {where.hardware}, {where.date[:10]} ({record.reason})",
    )
