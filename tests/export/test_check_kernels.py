"""`check-kernels`: an exported kernel passes, and a changed instruction of its PTX is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from support.kernel_folder import write_kernels
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export.check_kernels import INDEX_NAME, check_folder
from clinreadnet.runtime.bundle.files import digest

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
