"""`--device` of the commands with a session: the named GPU, or an error of one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bodies import body
from support.fake_machine import start
from support.fake_pycuda import DriverLibrary, FakeGpu
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session, gpu
from clinreadnet.runtime.inputs import check_device


def run(*arguments: str) -> str:
    """Return the line of the error, or an empty string."""
    result = CliRunner().invoke(app, arguments)
    if result.exception is None:
        return ""
    assert isinstance(result.exception, InputError), result.exception
    assert result.exception.exit_code == 2 and "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture
def slices(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", body(40)[None])
    return tmp_path / "a.npy"


def see(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    device = FakeGpu()
    device.devices = gpus
    monkeypatch.setattr(gpu, "load_driver", lambda: DriverLibrary(device))


@pytest.mark.parametrize("command", ["score", "verify", "listen"])
@pytest.mark.parametrize(
    ("gpus", "device", "line"),
    [
        (0, "1", "--device 1: no NVIDIA GPU is visible; leave it out"),
        (1, "7", "--device 7: one NVIDIA GPU is visible; it is 0"),
        (2, "7", "--device 7: 2 NVIDIA GPUs are visible; they are 0 to 1"),
        (2, "-1", "--device -1: 2 NVIDIA GPUs are visible; they are 0 to 1"),
    ],
    ids=["none", "one", "two", "negative"],
)
def test_a_gpu_that_is_not_there_is_one_line(
    tmp_path: Path,
    slices: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    gpus: int,
    device: str,
    line: str,
) -> None:
    see(monkeypatch, gpus)
    bundle = str(write_bundle(tmp_path / "b", verifiable=True))
    given = {
        "score": [str(slices), "--bundle", bundle],
        "verify": [bundle],
        "listen": ["--spool", str(tmp_path / "spool"), "--send-to", "127.0.0.1:1:PACS", "--bundle"]
        + [bundle],
    }[command]
    assert run(command, *given, "--device", device) == line


def test_a_processor_has_no_number(
    tmp_path: Path, slices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(monkeypatch, 2)
    bundle = str(write_bundle(tmp_path / "b"))
    given = [str(slices), "--bundle", bundle, "--backend", "onnxruntime-cpu"]
    line = run("score", *given, "--device", "1")
    assert line == "--device 1: onnxruntime-cpu runs on no GPU; leave it out"
    assert run("score", *given, "--device", "0") == ""


@pytest.mark.parametrize("device", [1.0, True, "1"])
def test_only_whole_numbers_are_devices(device: object) -> None:
    with pytest.raises(InputError, match=f"device={device!r}: not a whole number"):
        check_device(device)  # that is what is tested


def test_score_and_verify_use_the_named_gpu(
    tmp_path: Path, slices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "machine").mkdir()
    machine = start(monkeypatch, "tensorrt-11", tmp_path / "machine")
    machine.gpu.devices = 2
    used: list[object] = []
    real = FakeGpu.handle

    def remember(device: FakeGpu) -> int:
        used.append(device.device())
        return real(device)

    monkeypatch.setattr(FakeGpu, "handle", remember)
    bundle = machine.bundle(verifiable=True)
    given = [str(slices), "--bundle", str(bundle), "--backend", "tensorrt"]
    for device in ("1", "0"):
        used.clear()
        assert run("score", *given, "--device", device) == ""
        assert set(used) == {int(device)}
        used.clear()
        assert run("verify", str(bundle), "--device", device) == ""
        assert set(used) == {int(device)}
    with Session(bundle, "tensorrt", device=1) as session:
        assert session.describe()["device"] == 1
