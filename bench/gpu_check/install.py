"""Prepare a machine without a package index: install the checkout and local wheels."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.gpu_check.plan import PACK, ROOT, WHEELS

SITE = ROOT / ".gpu-check" / "site"
"""Folder for installed wheels, outside the machine's packages."""
_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")
_WHEEL = re.compile(r"[^-]+-[^-]+(-\d[^-]*)?-(?P<python>[^-]+)-(?P<abi>[^-]+)-[^-]+\.whl")


class CannotInstall(Exception):
    """An installation failed. The message gives the reason."""


def unusable(wheel: str, version: tuple[int, int] = sys.version_info[:2]) -> str | None:
    """Return why a wheel cannot be installed on a Python version, or None."""
    match = _WHEEL.fullmatch(wheel)
    if match is None:
        return f"{wheel}: is not the name of a wheel"
    major, minor = version
    for tag in match["python"].split("."):
        parsed = re.fullmatch(r"(py|cp)(\d)(\d*)", tag)
        if parsed is None or int(parsed[2]) != major:
            continue
        same = not parsed[3] or int(parsed[3]) == minor
        older = (
            parsed[3] and int(parsed[3]) < minor and (parsed[1] == "py" or match["abi"] == "abi3")
        )
        if same or older:
            return None
    return f"{wheel}: is for {match['python']}, this is Python {major}.{minor}; bring its own wheel"


def carried_wheels() -> Path | None:
    """Return the folder of carried wheels if a package that this Python needs is not installed.

    Needed are ``WHEELS`` and the packages of all wheels for this Python.
    """
    folder = PACK / "wheels"
    if not folder.is_dir():
        return None
    usable = [wheel.name for wheel in folder.glob("*.whl") if unusable(wheel.name) is None]
    needed = {*WHEELS, *(name.partition("-")[0].lower() for name in usable)}
    installed = {
        re.sub("[-_.]+", "_", d.name or "").lower() for d in importlib.metadata.distributions()
    }
    return None if needed <= installed else folder


def install_wheels(folder: Path) -> None:
    """Install every wheel of a folder into `SITE`.

    Raises:
        CannotInstall: the folder contains no wheel or one for another Python, or pip fails.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise CannotInstall(f"{folder}: holds no wheel; name the folder of the *.whl files")
    if problems := [why for wheel in wheels if (why := unusable(wheel.name))]:
        raise CannotInstall("; ".join(problems))
    _pip("--upgrade", "--target", str(SITE), *map(str, wheels))


def install_checkout() -> bool:
    """Install this checkout in editable mode; return False if it is installed.

    Raises:
        CannotInstall: pip fails.
    """
    # The folder `clinreadnet` can be imported without an installation, its kernels cannot.
    if importlib.util.find_spec("clinreadnet.kernels") is not None:
        return False
    # The CPU engine, which takes a minute to compile, is left out.
    without_compiler = {**os.environ, "CXX": "no-compiler"}
    _pip("--no-build-isolation", "--editable", str(ROOT), environment=without_compiler)
    return True


def restart(environment: dict[str, str], arguments: Sequence[str]) -> None:
    """Restart this command in a process that can import the installed packages."""
    command = [sys.executable, "-m", "bench.gpu_check", *arguments]
    os.execve(sys.executable, command, environment)


def _pip(*arguments: str, environment: Mapping[str, str] = os.environ) -> None:
    done = subprocess.run([*_PIP, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit status {done.returncode}"
        raise CannotInstall(f"pip cannot install {arguments[-1]}: {reason}")
