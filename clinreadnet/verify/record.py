"""Add the verification of this machine to a bundle's manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from clinreadnet.errors import CheckFailed, InputError, shell_word
from clinreadnet.runtime.bundle.files import load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, Manifest, Parity
from clinreadnet.runtime.bundle.sign import check_renewal, sign_bundle
from clinreadnet.runtime.bundle.trust import SIGNATURE_NAME, KeyFile
from clinreadnet.runtime.records import same_kind
from clinreadnet.verify.pages import write_pages
from clinreadnet.verify.report import VerifyReport


def record(report: VerifyReport, manifest: Manifest, key: KeyFile | None = None) -> str:
    """Add the records of a verification on golden slices to the manifest, and sign it again.

    A record replaces an earlier one of the same backend, release and hardware. The old signature is
    removed before the manifest is replaced, so that a signature always matches.

    Args:
        report: result of `verify_golden`.
        manifest: manifest that was verified.
        key: Ed25519 private key. Without it the bundle is unsigned afterwards.

    Returns:
        A line for the user.

    Raises:
        CheckFailed: a file is damaged; nothing is written.
        InputError: the manifest changed in the meantime, or the key cannot be used.
        Untrusted: the bundle has a signature that is not this key's.
    """
    if key is not None:
        check_renewal(report.bundle, key)
    records = {a.title: fresh(a) for a in report.artifacts}
    # A failed record without a machine means that the file did not load.
    damaged = [a.file for a in report.artifacts for parity in _all(a) if _did_not_load(parity)]
    if report.problems or damaged:
        raise CheckFailed(f"{report.bundle}: nothing is recorded, because a file did not load")
    if load_manifest(report.bundle) != manifest:
        raise InputError(
            f"{report.bundle}: the manifest was changed while the bundle was verified; run it again"
        )
    artifacts = tuple(merged(a, records[a.title]) for a in manifest.artifacts)
    failed = any(a.parity is not None and a.parity.status == "failed" for a in artifacts)
    signed = (report.bundle / SIGNATURE_NAME).exists()
    changed = replace(manifest, artifacts=artifacts, verified=manifest.verified and not failed)
    write_manifest(changed, report.bundle)
    if key is not None:
        sign_bundle(report.bundle, key)
    write_pages(report.bundle)
    count = sum(map(len, records.values()))
    said = f"{report.bundle}: {count} result{'s' * (count != 1)} recorded"
    if key is not None:
        return f"{said}, and signed again"
    if signed:
        return (
            f"{said}; the bundle is unsigned now: "
            f"run `clinreadnet sign {shell_word(report.bundle)} --key KEY`"
        )
    return said


def fresh(artifact: Artifact) -> tuple[Parity, ...]:
    """Return the records of an artifact that ran."""
    return tuple(
        parity
        for parity in _all(artifact)
        if parity.ran_on is not None and parity.status != NOT_RUN
    )


def merged(artifact: Artifact, records: Iterable[Parity]) -> Artifact:
    """Return an entry of a manifest with new records, replacing those of the same kind."""
    for parity in records:
        if artifact.parity is not None and _same(artifact.parity, parity):
            artifact = replace(artifact, parity=parity)
        else:
            others = tuple(old for old in artifact.records if not _same(old, parity))
            artifact = replace(artifact, records=(*others, parity))
    return artifact


def _same(parity: Parity, other: Parity) -> bool:
    return (
        parity.ran_on is not None
        and other.ran_on is not None
        and same_kind(parity.ran_on, other.ran_on)
    )


def _all(artifact: Artifact) -> tuple[Parity, ...]:
    return (*([] if artifact.parity is None else [artifact.parity]), *artifact.records)


def _did_not_load(parity: Parity) -> bool:
    return parity.status == "failed" and parity.ran_on is None
