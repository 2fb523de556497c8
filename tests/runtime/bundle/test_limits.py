"""Manifests, golden files, keys and arguments beyond their limits."""

from __future__ import annotations

import copy
import io
import json
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bodies import body
from support.tiny_bundle import write_bundle

from clinreadnet import limits
from clinreadnet.errors import InputError, Untrusted
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.bundle.format import parse_manifest

cryptography = pytest.importorskip("cryptography")


def raw(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "manifest.json").read_text()))


def with_batch(low: int, high: int) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest["artifacts"][0]["batch"] = {"min": low, "opt": high, "max": high}

    return change


def failed_parity(manifest: dict[str, Any]) -> None:
    manifest["artifacts"][0]["parity"]["status"] = "failed"


def budget(manifest: dict[str, Any]) -> None:
    manifest["artifacts"][0]["parity"]["budget"] = 10**400


def golden(manifest: dict[str, Any]) -> None:
    manifest["golden"]["slices"] = 10**9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(with_batch(64, 64), "batch.min: Expected `int` <= 16", id="batch-64"),
        pytest.param(with_batch(10**6, 10**6), "min: Expected `int` <= 16", id="batch-10^6"),
        pytest.param(with_batch(1, 10**6), "batch.max: Expected `int` <= 1024", id="batch-max"),
        pytest.param(failed_parity, "verified is true, but the parity of", id="verified"),
        pytest.param(budget, "parity.budget: Number out of range", id="budget"),
        pytest.param(golden, "golden.slices: Expected `int` <= 512", id="golden"),
    ],
)
def test_a_manifest_beyond_a_limit_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    manifest = raw(bundle)
    change(manifest)
    with pytest.raises(InputError, match=reason):
        parse_manifest(json.dumps(manifest))


@pytest.mark.parametrize("key", ["verified", "sha256"])
def test_a_key_that_is_there_twice_is_refused(bundle: Path, key: str) -> None:
    text = (bundle / "manifest.json").read_text()
    at = text.index(f'"{key}"')
    end = text.index("\n", at)
    line = text[at:end].rstrip(",")
    with pytest.raises(InputError, match=f"'{key}' occurs twice"):
        parse_manifest(text[:at] + line + ", " + text[at:])


def member(compression: int = zipfile.ZIP_DEFLATED, flag: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name in ("hu", "label", "score", "probs", "quality_map", "novelty"):
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<i2", "fortran_order": False, "shape": (3, 512, 512)}
            )
            archive.writestr(f"{name}.npy", header.getvalue() + bytes(1000))
    content = bytearray(buffer.getvalue())
    if flag:
        at = content.index(b"PK\x01\x02")
        while at >= 0:
            content[at + 8] |= flag
            at = content.find(b"PK\x01\x02", at + 1)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(member(), "cut off", id="promises-too-much"),
        pytest.param(member(zipfile.ZIP_LZMA), "another method than deflate", id="lzma"),
        pytest.param(member(flag=1), "encrypted", id="encrypted"),
        pytest.param(b"PK\x05\x06" + bytes(18), "hu is missing", id="empty"),
    ],
)
def test_an_odd_golden_file_is_refused_at_once(tmp_path: Path, content: bytes, reason: str) -> None:
    bundle = write_bundle(tmp_path / "b")
    manifest = raw(bundle)
    manifest["golden"] |= {"sha256": digest(content), "size": len(content)}
    (bundle / "golden.npz").write_bytes(content)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    start = time.process_time()
    with pytest.raises(InputError, match=f"not a golden file .*{reason}"):
        Session(bundle)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"batch": 1.5}, "batch=1.5: not a whole number"),
        ({"batch": True}, "batch=True: not a whole number"),
        ({"batch": "4"}, "batch='4': not a whole number"),
        ({"threads": 0}, "threads=0: must be 1 or more"),
        ({"threads": 10**6}, f"threads=1000000: at most {limits.THREADS}"),
        ({"workers": 1.5}, "workers=1.5: not a whole number"),
        ({"workers": 10**6}, f"workers=1000000: at most {limits.WORKERS}"),
        ({"backends": None}, "backends=None: not a list"),
        ({"backends": 5}, "backends=5: not a list"),
        ({"precision": 5}, "precision=5"),
        ({"trusted_keys": 5}, "trusted_keys=5: is not a list of paths"),
        ({"not_before": "yesterday"}, "not_before='yesterday': not a time"),
        ({"not_before": 5}, "not_before=5: not a time"),
    ],
    ids=str,
)
def test_an_argument_that_cannot_be_is_refused(
    bundle: Path, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        Session(bundle, **arguments)


def test_a_session_is_not_copied(bundle: Path) -> None:
    with Session(bundle, "onnxruntime-cpu") as session:
        for clone in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied"):
                clone(session)
        assert len(session.score(body(40)[None])) == 1


def test_capacity_is_limited(bundle: Path) -> None:
    with Session(bundle, "onnxruntime-cpu") as session:
        for capacity in (0, 1.5, 10**6):
            with pytest.raises(InputError, match="capacity="):
                session.stream(capacity)


def test_an_older_bundle_is_refused(bundle: Path) -> None:
    assert raw(bundle)["created"] == "2026-01-31T12:00:00Z"
    for time_ in ("2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00"):
        Session(bundle, "onnxruntime-cpu", not_before=time_).close()
    for time_ in ("2026-02-01", "2026-01-31T12:00:01"):
        with pytest.raises(Untrusted, match=f"not_before={time_}; get the newest"):
            Session(bundle, "onnxruntime-cpu", not_before=time_)


def test_every_key_of_a_file_counts(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from clinreadnet.runtime.bundle.sign import sign_bundle

    bundle = write_bundle(tmp_path / "b")
    pairs = [Ed25519PrivateKey.generate() for _ in range(3)]
    secret, ring = tmp_path / "secret.pem", tmp_path / "ring.pem"
    secret.write_bytes(
        pairs[1].private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    )
    public = [
        pair.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        for pair in pairs
    ]
    sign_bundle(bundle, secret)
    ring.write_bytes(public[0] + b"# the new one\n" + public[1])
    Session(bundle, "onnxruntime-cpu", trusted_keys=[ring]).close()
    ring.write_bytes(public[0] + public[2])
    with pytest.raises(Untrusted, match="not signed by a trusted key"):
        Session(bundle, "onnxruntime-cpu", trusted_keys=[ring])


def test_a_stream_of_fixed_batches_gives_the_same_bits_however_many_wait(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [body(10.0 * i) for i in range(6)]
    with Session(bundle, "onnxruntime-cpu", batch=4) as session:
        sizes: list[int] = []
        run = OnnxRuntimeBackend.run

        def counted(self: OnnxRuntimeBackend, hu: Any) -> Any:
            sizes.append(len(hu))
            return run(self, hu)

        monkeypatch.setattr(OnnxRuntimeBackend, "run", counted)
        with session.stream(fixed_batch=True) as stream:
            for image in images:
                stream.put(image)
        assert len(list(stream)) == 6 and set(sizes) == {4}
