"""The bundle in the package, and the choice of a bundle if none is named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.dicom_files import write_series
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import InputError, Untrusted
from clinreadnet.library import LIBRARY
from clinreadnet.precision import CHECKPOINT_PRECISIONS
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle import default
from clinreadnet.runtime.bundle.default import SHIPPED, default_bundle, find_bundle
from clinreadnet.runtime.bundle.files import digest, load_manifest
from clinreadnet.runtime.bundle.golden import read_golden

needs_engine = pytest.mark.skipif(not LIBRARY.exists(), reason="the CPU engine was not compiled")
MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLINREADNET_BUNDLE", raising=False)


def test_the_shipped_bundle_is_verified_small_and_of_the_shipped_weights() -> None:
    manifest = load_manifest(SHIPPED)
    checkpoint = SHIPPED / "small.safetensors"
    assert manifest.verified and manifest.model.preset == "small"
    assert manifest.model.weights_sha256 == digest(checkpoint.read_bytes())
    assert [(a.file, a.kind) for a in manifest.artifacts] == [(checkpoint.name, "checkpoint")] * 2
    assert [a.precision for a in manifest.artifacts] == list(CHECKPOINT_PRECISIONS)
    assert manifest.golden.size <= 3 * MEBIBYTE
    assert len(read_golden(SHIPPED, manifest.golden)["hu"]) == manifest.golden.slices
    files = [path for path in SHIPPED.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20 * MEBIBYTE


@pytest.mark.whole
@needs_engine
def test_verify_passes_it_without_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxruntime', 'openvino', 'scipy']))\n"
        f"sys.argv = ['clinreadnet', 'verify', {str(SHIPPED)!r}]\n"
        "from clinreadnet.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_engine
def test_a_session_without_a_bundle_scores() -> None:
    with Session() as session:
        golden = read_golden(SHIPPED, session.manifest.golden, first=1)
        scores = session.score(golden["hu"], pixel_mm=0.7)
        assert session.describe()["bundle"] == str(SHIPPED)
        assert session.describe()["backend"] == "native"
    np.testing.assert_allclose(scores.score, golden["score"], atol=1e-4)


@needs_engine
def test_score_needs_no_bundle(tmp_path: Path) -> None:
    write_series(tmp_path / "series", 2)
    result = CliRunner().invoke(app, ["score", "series"])
    assert result.exit_code == 0, result.output
    weights = load_manifest(SHIPPED).model.weights_sha256[:12]
    assert f"Scored by native in fp32 with weights small {weights}" in result.output


def test_a_trusted_key_asks_for_a_signed_copy_of_the_packages_bundle(tmp_path: Path) -> None:
    with pytest.raises(Untrusted, match="in the package is not signed; copy it, sign the copy"):
        Session(trusted_keys=[tmp_path / "vendor.pub.pem"])


def test_a_named_bundle_and_one_in_the_current_folder_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle").mkdir()
    assert default_bundle() == SHIPPED, "an empty folder is no bundle"
    (tmp_path / "here").mkdir()
    write_bundle(tmp_path / "here" / "bundle")
    monkeypatch.chdir(tmp_path / "here")
    assert default_bundle() == Path("bundle")
    monkeypatch.setenv("CLINREADNET_BUNDLE", str(tmp_path / "other"))
    assert default_bundle() == tmp_path / "other"
    with pytest.raises(InputError, match=r"other: no such bundle; .*CLINREADNET_BUNDLE"):
        find_bundle(None)
    with pytest.raises(InputError, match="run `clinreadnet export --out 'my bundle'`, or name one"):
        find_bundle("my bundle")
    assert find_bundle("bundle") == Path("bundle")
    with pytest.raises(InputError, match="manifest.json: is a file; name the folder of the bundle"):
        find_bundle("bundle/manifest.json")


def test_of_two_bundles_that_could_be_meant_the_session_says_which_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "bundle")
    other = write_bundle(tmp_path / "other")
    with Session(backends="onnxruntime-cpu") as session:
        assert session.describe()["bundle"] == "bundle"
    monkeypatch.setenv("CLINREADNET_BUNDLE", str(other))
    with Session(backends="onnxruntime-cpu") as session:
        assert session.describe()["bundle"] == str(other)
    with Session("bundle", "onnxruntime-cpu") as session:
        assert session.describe()["bundle"] == "bundle"


def test_a_broken_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "SHIPPED", tmp_path)
    write_series(tmp_path / "series", 1)
    result = CliRunner().invoke(app, ["score", "series"])
    assert isinstance(result.exception, InputError)
    assert "this installation lacks its bundle; install clinreadnet again" in str(result.exception)


@needs_engine
@pytest.mark.parametrize("file", ["small.safetensors", "golden.npz"])
def test_a_changed_file_is_refused(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(SHIPPED, tmp_path / "weights"))
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    monkeypatch.setattr(default, "SHIPPED", copy)
    with pytest.raises((InputError, Untrusted), match=f"{file}.*SHA-256 differs"):
        Session()
