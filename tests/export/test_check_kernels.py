"""`check-kernels`: an exported kernel passes, and a changed instruction of its PTX fails."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from support.fake_driver import FakeDriver
from support.kernel_folder import write_kernels
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import BackendUnavailable, CheckFailed, InputError
from clinreadnet.export.check_kernels import INDEX_NAME, LAUNCHES, check_folder
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.gpu import find_gpus

pytestmark = pytest.mark.compile


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kernels(tmp_path_factory.mktemp("kernels") / "kernels")


@pytest.fixture
def folder(kernels: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kernels, tmp_path / "kernels"))


def change(folder: Path, old: str, new: str, **entry: Any) -> None:
    """Replace the first ``old`` of the PTX file, and fields of its entry in the index."""
    (path,) = folder.glob("*.ptx")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    index = json.loads((folder / INDEX_NAME).read_text())
    index["kernels"][0] |= entry
    (folder / INDEX_NAME).write_text(json.dumps(index))


def test_an_exported_kernel_passes(folder: Path) -> None:
    (checked,) = check_folder(folder)
    assert checked.failure is None and len(checked.error_over_budget) == 3
    assert all(0 < over <= 1 for over in checked.error_over_budget.values())
    result = CliRunner().invoke(app, ["check-kernels", str(folder)])
    assert result.exit_code == 0
    assert result.stdout.startswith("sobel_stem.fp16.sm80.ptx: passed, error ")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        pytest.param("sqrt.", "rsqrt.", "error is", id="another-result"),
        pytest.param("st.global", "ld.global", "operands of another kind", id="malformed"),
        pytest.param("bar.sync", "//", "Race", id="a-race"),
    ],
)
def test_a_changed_instruction_is_noticed(folder: Path, old: str, new: str, reason: str) -> None:
    (path,) = folder.glob("*.ptx")
    change(folder, old, new, sha256=digest(path.read_text().replace(old, new, 1).encode()))
    (checked,) = check_folder(folder)
    assert checked.failure is not None and reason in checked.failure
    result = CliRunner().invoke(app, ["check-kernels", str(folder), "--json"])
    assert isinstance(result.exception, CheckFailed)
    assert json.loads(result.stdout)["kernels"][0]["failure"] == checked.failure


def test_a_file_that_is_not_the_listed_one_fails(folder: Path) -> None:
    change(folder, "//", "// ")
    (checked,) = check_folder(folder)
    assert checked.failure == "SHA-256 is not the one in kernels.json"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        pytest.param({"file": "../a.ptx"}, "is not the name of a file", id="elsewhere"),
        pytest.param({"file": "b.ptx"}, "b.ptx", id="missing"),
        pytest.param({"kind": "cubin"}, "no PTX file", id="no-ptx"),
        pytest.param({"name": "other"}, "cannot be launched", id="unknown-op"),
        pytest.param(
            {"grid": ["__import__('os').getpid()", "1", "1"]}, "not an expression", id="code"
        ),
    ],
)
def test_a_bad_index_is_refused(folder: Path, entry: dict[str, Any], message: str) -> None:
    change(folder, "", "", **entry)
    with pytest.raises(InputError, match=message):
        check_folder(folder)


def test_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kernels.json"):
        check_folder(tmp_path)


def test_another_folder_says_what_makes_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check-kernels", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert "kernels.json: missing; name a folder that `clinreadnet export-kernels --out` made" in (
        str(result.exception)
    )


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr("clinreadnet.runtime.gpu.load_driver", lambda: fake)
    monkeypatch.setattr("clinreadnet.export.gpu_launch.load_driver", lambda: fake)
    return fake


def test_the_files_run_on_a_gpu(folder: Path, driver: FakeDriver) -> None:
    (on_cpu,), (on_gpu,) = check_folder(folder), check_folder(folder, gpu=True)
    assert on_gpu.failure is None
    assert on_gpu.error_over_budget == on_cpu.error_over_budget  # the same machine
    assert len(driver.launches) == LAUNCHES * len(on_gpu.error_over_budget)
    assert not driver.memory and not driver.retained


def test_machine_code_runs_on_the_gpu_that_it_is_for(folder: Path, driver: FakeDriver) -> None:
    (path,) = folder.glob("*.ptx")
    cubin = b"\x7fELF\0machine code\0"
    index = json.loads((folder / INDEX_NAME).read_text())
    (entry,) = index["kernels"]
    for target in ("sm80", "sm90"):
        name = f"stem.{target}.cubin"
        (folder / name).write_bytes(cubin)
        index["kernels"].append(
            entry | {"file": name, "kind": "cubin", "target": target, "sha256": digest(cubin)}
        )
    (folder / INDEX_NAME).write_text(json.dumps(index))
    driver.machine_code = {cubin: path.read_text()}
    results = check_folder(folder, gpu=True)
    assert [(item.file, item.failure) for item in results] == [
        (path.name, None),
        ("stem.sm80.cubin", None),
    ]
    (only,) = check_folder(folder, gpu=True, only=["stem."])
    assert only.file == "stem.sm80.cubin"
    driver.capability = 86
    assert len(check_folder(folder, gpu=True)) == 2
    driver.capability = 90
    assert [item.file for item in check_folder(folder, gpu=True)] == [path.name, "stem.sm90.cubin"]
    driver.capability = 75
    with pytest.raises(InputError, match="no file that this GPU can load"):
        check_folder(folder, gpu=True)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        pytest.param(
            {"grid": ["B * ((H + 1) / 2) * (((W + 1) / 2 + 31) / 32 - 1)", "1", "1"]},
            "error is inf of its budget",
            id="a-block-too-few",
        ),
        pytest.param({"dynamic_shared_bytes": 0}, "CUDA", id="no-shared-memory"),
        pytest.param({"block": [64, 1, 1]}, "cuLaunchKernel: CUDA error 1", id="block"),
        pytest.param({"entry": "other"}, "cuModuleGetFunction: CUDA error 500", id="symbol"),
        pytest.param({"pointer_alignment": 8}, "CUDA error 716", id="alignment"),
    ],
)
def test_a_launch_that_differs_from_the_index_fails(
    folder: Path, driver: FakeDriver, entry: dict[str, Any], reason: str
) -> None:
    change(folder, "", "", **entry)
    (checked,) = check_folder(folder, gpu=True)
    assert checked.failure is not None and re.search(reason, checked.failure)
    assert not driver.memory and not driver.retained


def test_arguments_in_another_order_fail(folder: Path, driver: FakeDriver) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    arguments = index["kernels"][0]["arguments"]
    place = [item["name"] for item in arguments].index("H")
    assert arguments[place + 1]["name"] == "W"
    arguments[place : place + 2] = arguments[place + 1], arguments[place]
    change(folder, "", "", arguments=arguments)
    (checked,) = check_folder(folder, gpu=True)
    assert checked.failure is not None


def test_shared_memory_above_48_kib_is_opted_in(folder: Path, driver: FakeDriver) -> None:
    change(folder, "", "", dynamic_shared_bytes=64 * 1024)
    (checked,) = check_folder(folder, gpu=True)
    assert checked.failure is None and set(driver.launches) == {64 * 1024}


def test_launches_that_differ_fail(folder: Path, driver: FakeDriver) -> None:
    driver.flicker = True
    (checked,) = check_folder(folder, gpu=True)
    assert checked.failure == f"one-pixel: the outputs of {LAUNCHES} launches differ"


def test_after_a_fault_nothing_else_runs(folder: Path, driver: FakeDriver, tmp_path: Path) -> None:
    (path,) = folder.glob("*.ptx")
    index = json.loads((folder / INDEX_NAME).read_text())
    (entry,) = index["kernels"]
    shutil.copy(path, folder / "bad.ptx")
    index["kernels"].insert(0, entry | {"file": "bad.ptx", "dynamic_shared_bytes": 0})
    (folder / INDEX_NAME).write_text(json.dumps(index))
    rows = tmp_path / "rows.jsonl"
    result = CliRunner().invoke(
        app, ["check-kernels", str(folder), "--gpu", "--rows", str(rows), "--json"]
    )
    assert isinstance(result.exception, CheckFailed)
    first, second = json.loads(result.stdout)["kernels"]
    assert first["failure"] == "one-pixel: cuCtxSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS"
    assert second["failure"] == "not run: bad.ptx stopped the GPU for this process"
    assert [json.loads(line) for line in rows.read_text().splitlines()] == [first, second]


@pytest.mark.skipif(bool(find_gpus()), reason="this machine has a GPU")
def test_without_a_gpu_one_line_says_so(folder: Path) -> None:
    result = CliRunner().invoke(app, ["check-kernels", str(folder), "--gpu"])
    assert isinstance(result.exception, BackendUnavailable)
    assert str(result.exception) == (
        "no NVIDIA GPU that this process may use; without --gpu, PTX files run on the CPU"
    )
