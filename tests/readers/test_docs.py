"""The commands of docs/readers.md run in order, from a series to scores on the site's scale."""

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

PAGE = Path(__file__).parents[2] / "docs" / "readers.md"


def write_site(path: Path, scores: Path) -> None:
    """Grades of three readers that rise with the scores, in wide form, by SOP Instance UID."""
    slices = json.loads(scores.read_text())["slices"]
    ranks = np.argsort(np.argsort([one["score"] for one in slices]))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sop_instance_uid", "patient", "A", "B", "C"])
        for number, (one, rank) in enumerate(zip(slices, ranks.tolist(), strict=True)):
            grade = rank * 4 // (len(slices) - 1)
            own = [grade, min(grade + 1, 4), grade]
            writer.writerow([one["sop_instance_uid"], f"P{number // 2}", *own])


def test_the_commands_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"]
    subprocess.run(command, check=True)
    lines = [line[4:] for line in PAGE.read_text().splitlines() if line.startswith("    clinread")]
    assert len(lines) == 6
    for line in lines:
        line, _, target = line.partition(" > ")
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}: {result.output} {result.exception!r}"
        if target:
            Path(target).write_text(result.stdout)
            write_site(Path("site.csv"), Path(target))
    made = {path.name for path in tmp_path.iterdir()}
    assert {"readers.html", "site-map.json", "site-map.sig", "scores.csv"} <= made
    with Path("scores.csv").open(newline="") as file:
        assert all(one["site_score"] for one in csv.DictReader(file))
