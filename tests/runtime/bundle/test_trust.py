"""Checks before anything is parsed or loaded; these tests construct no backend."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from support.bodies import body
from support.tiny_bundle import make_graph, write_bundle

from clinreadnet import limits
from clinreadnet.errors import InputError, Untrusted
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends import loading as backends_module
from clinreadnet.runtime.backends import onnxruntime_cuda, tensorrt
from clinreadnet.runtime.bundle import files as files_module
from clinreadnet.runtime.bundle.files import load_manifest, write_manifest
from clinreadnet.runtime.bundle.sign import sign_bundle


def write_keys(folder: Path, name: str, private: Any = None) -> tuple[Path, Path]:
    """Write the key NAME.pem and the public key NAME.pub.pem."""
    private = private or ed25519.Ed25519PrivateKey.generate()
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return secret, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_keys(tmp_path_factory.mktemp("keys"), "vendor")


@pytest.fixture
def bundle(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    path = write_bundle(tmp_path / "bundle")
    sign_bundle(path, keys[0])
    return path


@pytest.fixture
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (backends_module, "OnnxRuntimeBackend"),
        (onnxruntime_cuda, "OnnxRuntimeCudaBackend"),
        (tensorrt, "TensorRTBackend"),
    ):
        monkeypatch.setattr(module, name, lambda *a, **k: pytest.fail("it was loaded"))


@pytest.fixture
def nothing_is_parsed(monkeypatch: pytest.MonkeyPatch, nothing_is_loaded: None) -> None:
    monkeypatch.setattr(
        files_module, "parse_manifest", lambda *a, **k: pytest.fail("it was parsed")
    )


def test_a_signed_bundle_opens_with_any_of_the_trusted_keys(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    _, other = write_keys(tmp_path, "other")
    assert Session(bundle, trusted_keys=[keys[1]]).backend == "onnxruntime-cpu"
    assert Session(bundle, trusted_keys=[other, keys[1]]).backend == "onnxruntime-cpu"
    assert (bundle / "manifest.sig").stat().st_size == 64


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
def test_openssl_makes_the_keys_and_reads_the_signature(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    key, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    commands = (
        ["genpkey", "-algorithm", "ed25519", "-out", key],
        ["pkey", "-in", key, "-pubout", "-out", public],
    )
    for command in commands:
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    signature = sign_bundle(bundle, key)
    verify = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-sigfile", signature]
    verify += ["-in", bundle / "manifest.json"]
    subprocess.run(["openssl", *verify], check=True, capture_output=True)
    assert Session(bundle, trusted_keys=[public]).manifest.verified


def change_manifest(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"tiny"', b'"tinY"'))


def cut_signature(bundle: Path) -> None:
    path = bundle / "manifest.sig"
    path.write_bytes(path.read_bytes()[:-1])


def lengthen_signature(bundle: Path) -> None:
    with (bundle / "manifest.sig").open("ab") as file:
        file.write(b"\0")


SIGNED_WRONGLY: dict[str, tuple[Callable[[Path], None], str]] = {
    "unsigned": (
        lambda b: (b / "manifest.sig").unlink(),
        "not signed, manifest.sig is missing; sign it",
    ),
    "changed": (change_manifest, "changed after it was signed"),
    "white-space": (
        lambda b: (b / "manifest.json").write_text((b / "manifest.json").read_text() + " "),
        "changed after it was signed",
    ),
    "other-key": (
        lambda b: sign_bundle(b, write_keys(b.parent, "stranger")[0]) and None,
        "not signed by a trusted key",
    ),
    "empty-signature": (lambda b: (b / "manifest.sig").write_bytes(b""), "changed after"),
    "cut-signature": (cut_signature, "changed after it was signed"),
    "longer-signature": (lengthen_signature, "65 bytes, at most 64 are read"),
}


@pytest.mark.parametrize(("spoil", "message"), SIGNED_WRONGLY.values(), ids=SIGNED_WRONGLY.keys())
def test_a_manifest_that_is_not_signed_right_is_not_even_parsed(
    bundle: Path,
    keys: tuple[Path, Path],
    spoil: Callable[[Path], None],
    message: str,
    request: pytest.FixtureRequest,
) -> None:
    spoil(bundle)
    request.getfixturevalue("nothing_is_parsed")
    with pytest.raises(Untrusted, match=message) as refusal:
        Session(bundle, trusted_keys=[keys[1]])
    assert "\n" not in str(refusal.value)


def outside(bundle: Path, name: str) -> Path:
    """Replace a file by a link to the same bytes outside the bundle."""
    target = bundle.parent / f"outside-{name}"
    shutil.move(bundle / name, target)
    (bundle / name).symlink_to(target)
    return target


def flip_a_bit(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)


def swap(bundle: Path) -> None:
    first, second = bundle / "clinreadnet.fp32.onnx", bundle / "clinreadnet.fp16.onnx"
    first.rename(bundle / "spare")
    second.rename(first)
    (bundle / "spare").rename(second)


def same_size(bundle: Path) -> None:
    size = (bundle / "clinreadnet.fp32.onnx").stat().st_size
    (bundle / "clinreadnet.fp32.onnx").write_bytes(make_graph().ljust(size, b"\0")[:-1] + b"\1")


def pipe(bundle: Path) -> None:
    (bundle / "clinreadnet.fp32.onnx").unlink()
    os.mkfifo(bundle / "clinreadnet.fp32.onnx")


def circle(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").symlink_to("manifest.json")


TAMPERED: dict[str, tuple[Callable[[Path], Any], type[InputError], str]] = {
    "byte-of-the-graph": (
        lambda b: flip_a_bit(b, "clinreadnet.fp32.onnx"), Untrusted, "SHA-256 differs",
    ),
    "byte-of-the-golden-file": (
        lambda b: flip_a_bit(b, "golden.npz"), Untrusted, "SHA-256 differs",
    ),
    "swapped-files": (swap, Untrusted, r"\d+ bytes, the manifest says \d+"),
    "same-size": (same_size, Untrusted, "SHA-256 differs"),
    "link-graph": (
        lambda b: outside(b, "clinreadnet.fp32.onnx"), Untrusted, "a link that leaves the bundle",
    ),
    "link-golden": (lambda b: outside(b, "golden.npz"), Untrusted, "a link that leaves"),
    "link-manifest": (lambda b: outside(b, "manifest.json"), Untrusted, "a link that leaves"),
    "pipe": (pipe, Untrusted, "not a plain file"),
    "link-circle": (circle, InputError, "cannot be read"),
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
@pytest.mark.parametrize(("spoil", "kind", "message"), TAMPERED.values(), ids=TAMPERED.keys())
@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_file_that_was_tampered_with_is_never_loaded(
    bundle: Path, spoil: Callable[[Path], Any], kind: type[InputError], message: str
) -> None:
    spoil(bundle)
    with pytest.raises(kind, match=message) as refusal:
        Session(bundle)
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("nothing_is_loaded")
def test_after_a_tampered_file_no_backend_is_tried(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other backend is tried, although it would run: a changed bundle is not trusted."""
    monkeypatch.setattr(backends_module, "find_gpus", lambda: ["a GPU"])
    monkeypatch.setattr(backends_module, "offers_cuda", lambda: True)
    flip_a_bit(bundle, "clinreadnet.fp32.onnx")
    with pytest.raises(Untrusted):
        Session(bundle, ("onnxruntime-cuda", "onnxruntime-cpu"))


@pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
def test_a_link_inside_the_bundle_is_followed(bundle: Path) -> None:
    (bundle / "clinreadnet.fp32.onnx").rename(bundle / "kept")
    (bundle / "clinreadnet.fp32.onnx").symlink_to("kept")
    (bundle.parent / "alias").symlink_to(bundle)
    assert Session(bundle.parent / "alias").artifact.precision == "fp32"


def test_a_manifest_of_a_gigabyte_is_refused_unread(
    bundle: Path, keys: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(2**30)  # sparse
    request.getfixturevalue("nothing_is_parsed")
    for trusted in (None, [keys[1]]):
        tracemalloc.start()
        with pytest.raises(
            Untrusted, match=f"1073741824 bytes, at most {limits.MANIFEST} are read"
        ):
            Session(bundle, trusted_keys=trusted)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < limits.MANIFEST


@pytest.mark.parametrize("levels", [33, 10_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["list", "dict"])
@pytest.mark.usefixtures("nothing_is_loaded")
def test_deep_nesting_is_refused(bundle: Path, levels: int, opening: str, closing: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["artifacts"][0]["parity"]["details"] = {"deep": "HERE"}
    text = json.dumps(raw).replace('"HERE"', opening * levels + "0" + closing * levels)
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="nested more than 32 deep|not JSON|at most"):
        Session(bundle)


@pytest.mark.parametrize("file", ["../x.onnx", "/etc/passwd", "a/../../x", "manifest.sig"])
@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_name_that_is_a_path_or_taken_is_refused(bundle: Path, file: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["artifacts"][0]["file"] = file
    (bundle / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match="not a plain file name inside the bundle"):
        Session(bundle)


def test_the_bytes_that_are_hashed_are_the_bytes_that_are_loaded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes after it was read. The bytes in memory are used."""
    loaded: list[bytes] = []
    honest = (bundle / "clinreadnet.fp32.onnx").read_bytes()
    real_read, real_backend = backends_module.read_listed, backends_module.OnnxRuntimeBackend

    def read_then_change(*arguments: Any) -> bytes:
        content = real_read(*arguments)
        (bundle / "clinreadnet.fp32.onnx").write_bytes(b"changed")
        return content

    def load(content: bytes, **rest: Any) -> Any:
        loaded.append(content)
        return real_backend(content, **rest)

    monkeypatch.setattr(backends_module, "read_listed", read_then_change)
    monkeypatch.setattr(backends_module, "OnnxRuntimeBackend", load)
    Session(bundle, "onnxruntime-cpu")
    assert loaded == [honest]


def test_writing_a_manifest_removes_its_old_signature(
    bundle: Path, keys: tuple[Path, Path]
) -> None:
    write_manifest(dataclasses.replace(load_manifest(bundle), verified=True), bundle)
    assert not (bundle / "manifest.sig").exists()
    with pytest.raises(Untrusted, match="not signed, manifest.sig is missing; sign it"):
        Session(bundle, trusted_keys=[keys[1]])
    sign_bundle(bundle, keys[0])
    Session(bundle, trusted_keys=[keys[1]])


def test_a_broken_bundle_is_not_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    flip_a_bit(bundle, "clinreadnet.fp16.onnx")
    with pytest.raises(Untrusted, match="fp16.onnx: SHA-256 differs"):
        sign_bundle(bundle, keys[0])
    with pytest.raises(InputError, match="no such bundle"):
        sign_bundle(tmp_path / "nowhere", keys[0])
    with pytest.raises(InputError, match="manifest.json: is a file; name the folder of the bundle"):
        sign_bundle(bundle / "manifest.json", keys[0])
    assert not (bundle / "manifest.sig").exists()


def test_keys_that_cannot_be_used_are_refused(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    secret, public = keys
    rsa_secret, rsa_public = write_keys(
        tmp_path, "rsa", rsa.generate_private_key(public_exponent=65537, key_size=1024)
    )
    text = tmp_path / "text.pem"
    text.write_text("no key")
    for key, message in [
        (public, "not an unencrypted private key in PEM form"),
        (text, "not an unencrypted private key"),
        (rsa_secret, "not an Ed25519 key"),
        (tmp_path / "none.pem", "no such file"),
    ]:
        with pytest.raises(InputError, match=message) as refusal:
            sign_bundle(bundle, key)
        assert "\n" not in str(refusal.value)
    for trusted, message in [
        ([secret], "not a public key in PEM form"),
        ([text], "not a public key"),
        ([rsa_public], "not an Ed25519 key"),
        ([tmp_path / "none.pem"], "no such file"),
        ([], "`trusted_keys` is empty"),
        (public, "trusted_keys=.*: is a single path"),
    ]:
        with pytest.raises(InputError, match=message):
            Session(bundle, trusted_keys=trusted)


def test_signatures_without_the_package_name_it(
    bundle: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(InputError, match=r'pip install "clinreadnet\[sign\]"'):
        Session(bundle, trusted_keys=[keys[1]])
    with pytest.raises(InputError, match=r"clinreadnet\[sign\]"):
        sign_bundle(bundle, keys[0])
    Session(bundle)  # and is not needed without keys


def test_the_command_signs_and_score_checks(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "manifest.sig").unlink()

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clinreadnet.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    image = bundle.parent / "a.npy"
    np.save(image, body(40))
    score = ("score", image, "--bundle", bundle, "--trusted-key", keys[1], "--json")
    refused = run(*score)
    assert refused.returncode == 2 and "not signed" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    signed = run("sign", bundle, "--key", keys[0])
    assert (signed.returncode, signed.stdout.strip()) == (0, str(bundle / "manifest.sig"))
    scored = run(*score)
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["session"]["backend"] == "onnxruntime-cpu"
