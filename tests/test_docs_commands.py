"""The commands of pages run in order and give the results that the page names."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.dicom_files import noise, write_ct
from support.tiny_bundle import write_bundle
from typer.testing import CliRunner

from clinreadnet.cli import app

DOCS = Path(__file__).parents[1] / "docs"


def write_site(path: Path, scores: Path) -> None:
    """Write grades of three readers that rise with the scores, in wide form, by SOP UID."""
    slices = json.loads(scores.read_text())["slices"]
    ranks = np.argsort(np.argsort([entry["score"] for entry in slices]))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sop_instance_uid", "patient", "A", "B", "C"])
        for number, (entry, rank) in enumerate(zip(slices, ranks.tolist(), strict=True)):
            grade = rank * 4 // (len(slices) - 1)
            own = [grade, min(grade + 1, 4), grade]
            writer.writerow([entry["sop_instance_uid"], f"P{number // 2}", *own])


def run_page(page: str) -> int:
    """Run the commands of a page in the current folder; return their number.

    The first JSON file of scores is what the readers grade.
    """
    lines = [line[4:] for line in (DOCS / page).read_text().splitlines() if line.startswith("    ")]
    lines = [line for line in lines if line.startswith(("clinreadnet ", "openssl "))]
    for line in lines:
        words = shlex.split(line, comments=True)
        target = None
        if ">" in words:
            *words, _, target = words
        if words[0] == "openssl":
            subprocess.run(words, check=True, capture_output=True)
            continue
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{line}: {result.output} {result.exception!r}"
        if target is not None:
            Path(target).write_text(result.stdout)
            if not Path("site.csv").exists():
                write_site(Path("site.csv"), Path(target))
    return len(lines)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a series, a month of series, and limits that they keep."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    pytest.importorskip("cryptography", reason="cryptography is not installed: the extra sign")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLINREADNET_BUNDLE", str(write_bundle(tmp_path / "bundle")))
    (tmp_path / "series").mkdir()
    for number in range(12):
        position = [0, 0, number]
        image = noise(number) * (1 + number / 12)
        write_ct(tmp_path / "series" / f"{number}.dcm", image, ImagePositionPatient=position)
    shutil.copytree(tmp_path / "series", tmp_path / "month")
    Path("limits.toml").write_text("[default]\nmost_noise_hu = 500.0\n")
    return tmp_path


def test_the_commands_of_readers_run_in_order(site: Path) -> None:
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"]
    subprocess.run(command, check=True)
    assert run_page("readers.md") == 6
    made = {path.name for path in site.iterdir()}
    assert {"readers.html", "site-map.json", "site-map.sig", "scores.csv"} <= made
    with Path("scores.csv").open(newline="") as file:
        assert all(row["site_score"] for row in csv.DictReader(file))


def test_the_commands_of_physicist_run_in_order(site: Path) -> None:
    assert run_page("physicist.md") == 14
    made = {path.name for path in site.iterdir()}
    assert {"scores.csv", "series.html", "readers.html", "2026-01.png"} <= made
    assert Path("report.pdf").read_bytes().startswith(b"%PDF")
    (group,) = json.loads(Path("2026-01-summary.json").read_text())["groups"]
    assert group["series"] == 1 and group["noise_hu"]["mean"] > 0
    check = "openssl pkeyutl -verify -rawin -pubin -inkey key.pub.pem -in 2026-01.json -sigfile"
    refused = subprocess.run([*check.split(), "2026-01-summary.sig"], capture_output=True)
    assert refused.returncode != 0  # the signature is that of another file
