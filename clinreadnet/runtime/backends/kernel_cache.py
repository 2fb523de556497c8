"""Keep the kernels that TensorRT-RTX compiles on a machine, so that later sessions load faster.

A cache is code, and is treated as such: it is read only from a folder and a file that nobody else
can write, and only if its SHA-256 is the one that it was written with. TensorRT-RTX then compares
it with the machine once more.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from clinreadnet.errors import InputError
from clinreadnet.files import read_regular, whole_file
from clinreadnet.limits import BUNDLE_FILE
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.verdict import Machine

CACHE_VARIABLE = "CLINREADNET_CACHE"
"""Environment variable that names the folder of the cache. Empty: kernels are not kept."""

_HASH_SIZE = hashlib.sha256().digest_size


def cache_file(engine_sha256: str, machine: Machine) -> Path | None:
    """Return the file of an engine's kernels on a machine; None if kernels are not kept.

    Args:
        engine_sha256: SHA-256 of the engine.
        machine: GPU, driver and TensorRT-RTX that the kernels are compiled for.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named == "":
        return None
    key = (engine_sha256, machine.gpu, machine.target, machine.driver, machine.version)
    folder = _user_cache() if named is None else Path(named)
    return folder / f"{digest(repr(key).encode())}.kernels"


def read_kernels(file: Path) -> bytes:
    """Return the kernels of a cache; empty if there is none.

    Raises:
        InputError: somebody else can write the file or its folder, or it is damaged.
    """
    if not file.exists():
        return b""
    for path in (file.parent, file):
        status = path.lstat()
        others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if os.name != "nt" and (others or status.st_uid != os.geteuid()):
            raise InputError(f"{path}: others can write it, so its kernels are not loaded")
    content = read_regular(file, BUNDLE_FILE)
    sha256, kernels = content[:_HASH_SIZE], content[_HASH_SIZE:]
    if hashlib.sha256(kernels).digest() != sha256:
        raise InputError(f"{file}: damaged, so its kernels are not loaded")
    return kernels


def write_kernels(file: Path, kernels: bytes) -> None:
    """Write a cache that only this user can read and write.

    Raises:
        InputError, OSError: it cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # a replaced file would keep its owner and its mode
    with whole_file(file) as temporary:
        temporary.write_bytes(hashlib.sha256(kernels).digest() + kernels)
        temporary.chmod(0o600)


def _user_cache() -> Path:
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "clinreadnet"
