"""The unit and the Dockerfile: existing options, and the checks of systemd."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from clinreadnet.cli import app

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT, DOCKERFILE = DEPLOY / "clinreadnet-listen.service", DEPLOY / "Dockerfile"
ANALYZE = shutil.which("systemd-analyze")
EXPOSURE = 2.0
"""Most that `systemd-analyze security` may count, out of 10."""

options = {
    option
    for param in get_command(app).commands["listen"].params  # type: ignore[attr-defined]
    for option in param.opts
}


@pytest.mark.parametrize("path", [UNIT, DOCKERFILE, DEPLOY / "listen.env"], ids=lambda p: p.name)
def test_every_option_exists(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines)
    entry = text[text.find("ENTRYPOINT") :] if path == DOCKERFILE else text
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", entry))
    assert used and used <= options


def test_the_two_agree_on_the_monitors_port() -> None:
    ports = {re.search(r"metrics-port\W+(\d+)", p.read_text())[1] for p in (UNIT, DOCKERFILE)}  # type: ignore[index]
    assert ports == {"9112"} and ":9112/healthz" in DOCKERFILE.read_text()


def test_the_container_does_not_run_as_root() -> None:
    steps = [line.split()[0] for line in DOCKERFILE.read_text().splitlines() if line[:1].isupper()]
    assert steps.index("USER") < steps.index("ENTRYPOINT")
    assert "research use only" in DOCKERFILE.read_text().lower()


def test_the_image_is_built_from_what_installs_the_package_and_nothing_else() -> None:
    root = DEPLOY.parent
    lines = (root / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[1] == "*" and all((root / name).exists() for name in kept)
    assert {"pyproject.toml", "setup.py", "constraints.txt", "clinreadnet", "kernels"} <= kept
    assert not kept & {".git", ".venv", "bundle", "tests"}


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit with a program and an environment of this machine."""
    text = UNIT.read_text().replace("/opt/clinreadnet/bin/clinreadnet listen", "/bin/true")
    path = tmp_path / UNIT.name
    path.write_text(text.replace("/etc/clinreadnet/listen.env", str(DEPLOY / "listen.env")))
    return path


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_reads_the_unit_without_a_complaint(unit: Path) -> None:
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    own = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, own) == (0, []), done.stderr


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_counts_little_exposure(unit: Path) -> None:
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--json=short", str(unit)],
        capture_output=True,
        text=True,
    )
    if not done.stdout.startswith("["):
        pytest.skip(f"this systemd-analyze cannot do it offline: {done.stderr.strip()}")
    threshold = f"--threshold={int(EXPOSURE * 10)}"
    total = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", threshold, str(unit)],
        capture_output=True,
        text=True,
    )
    assert total.returncode == 0, total.stdout[-300:]
