"""`clinreadnet score-archive`: two local workers, damaged slices, and workers that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray
from pyarrow import parquet
from support.dicom_files import bright, noise, write_ct, write_series
from support.drawn_regions import abdomen
from support.ray_here import use_ray_here
from support.site_readers import site_map
from support.tiny_bundle import THRESHOLD, reference, write_bundle
from support.whole import WHOLE
from typer.testing import CliRunner

from clinreadnet.cli import app, main
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.errors import CheckFailed, ClinReadNetError, InputError, LimitExceeded
from clinreadnet.runtime import Scores, Session
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.scoring import archive as score_ray
from clinreadnet.scoring import cluster
from clinreadnet.scoring.archive import ArchiveReport, NotWritten, score_archive
from clinreadnet.scoring.protocol_limits import read_protocol_limits
from clinreadnet.scoring.result import SliceScore, summarise_by_series
from clinreadnet.scoring.run import score_chunk, score_slices
from clinreadnet.scoring.site_rules import SiteRules


@pytest.fixture(scope="module", name="cluster")
def two_workers() -> Iterator[None]:
    """Start Ray with resources for two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "processors", lambda: 2)
        with cluster.connected(cluster.LOCAL, workers=2):
            yield


@pytest.fixture
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use Ray's workers in `make test-all`; otherwise score in this process."""
    if WHOLE:
        request.getfixturevalue("cluster")
    else:
        use_ray_here(monkeypatch.setattr)


def rows(path: Path) -> list[dict[str, Any]]:
    return parquet.read_table(path).to_pylist()


def test_killed_workers_lose_nothing(
    cluster: None, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice kills its first worker. Another slice kills every worker and is not scored.

    The readers are closures, which Ray sends to its workers by value.
    """
    deaths = tmp_path / "deaths"
    pids = tmp_path / "pids"
    for folder in (deaths, pids):
        folder.mkdir()

    def reader(index: int) -> Any:
        def read() -> NDArray[np.float32]:
            (pids / str(os.getpid())).touch()
            time.sleep(0.02)  # long enough for the other worker to get a share
            if index == 5 and not (deaths / "5").exists() or index == 17:
                (deaths / f"{index}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return np.random.default_rng(index).normal(40, 300, (512, 512)).astype(np.float32)

        return read

    refs = [SliceRef(tmp_path / f"{i}.npy", None, float(i), "s", reader(i)) for i in range(24)]
    monkeypatch.setattr(score_ray, "find_slices", lambda paths, **options: refs)
    monkeypatch.setattr(score_ray, "CHUNK", 4)
    progress: list[tuple[int, int]] = []
    report = score_archive(
        [tmp_path],
        bundle,
        tmp_path / "scores.parquet",
        workers=2,
        advance=lambda done, total: progress.append((done, total)),
    )
    assert sorted(path.name for path in deaths.iterdir()) == ["17", "5"]
    assert len(list(pids.iterdir())) >= 3  # two workers, and one more for each that died
    table = rows(tmp_path / "scores.parquet")
    assert [Path(row["path"]).name for row in table] == [f"{i}.npy" for i in range(24)]
    assert [i for i, row in enumerate(table) if row["error"] is not None] == [17]
    assert table[17]["score"] is None and "it kills its worker process" in table[17]["error"]
    good = [ref for i, ref in enumerate(refs) if i != 17]
    alone = score_slices(Session(bundle, threads=1), good)
    assert [row["score"] for row in table if row["error"] is None] == [
        s.score for s in alone.slices
    ]
    assert (report.slices, report.not_scored, report.by_series) == (24, 1, {"s": alone.series})
    assert len(progress) == 6 and max(progress) == (24, 24)


def test_novel_slices_are_marked_and_left_out_of_the_summary(
    workers: None, bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.stack([noise(0), bright(1), noise(2)]))
    report = score_archive([tmp_path / "a.npy"], bundle, tmp_path / "a.parquet", workers=1)
    table = rows(tmp_path / "a.parquet")
    assert [row["in_domain"] for row in table] == [True, False, True]
    assert table[1]["novelty"] > THRESHOLD and table[1]["score"] is not None
    (summary,) = report.by_series.values()
    assert (summary.n, summary.novel, report.not_scored) == (3, 1, 0)


def test_a_site_map_adds_a_column(workers: None, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([noise(0), noise(2)]))
    own = site_map(weights_sha256=load_manifest(bundle).model.weights_sha256)
    out = tmp_path / "a.parquet"
    report = score_archive([tmp_path / "a.npy"], bundle, out, workers=1, rules=SiteRules(own))
    table = rows(out)
    expected = own.apply([row["score"] for row in table])
    assert [row["site_score"] for row in table] == pytest.approx(expected, rel=1e-5)
    assert {row["site_map"] for row in table} == {own.name}
    metadata = parquet.read_schema(out).metadata
    assert json.loads(metadata[b"site_map"])["weights_sha256"] == own.weights_sha256
    assert report.to_dict()["site_map"]["readers"] == 5
    assert report.to_dict()["series"]["site_mean"] == pytest.approx(expected.mean(), rel=1e-5)


def test_limits_add_a_column_lines_and_a_status(
    workers: None, bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.stack([noise(0), noise(2)]))
    (tmp_path / "limits.toml").write_text("[default]\nleast_score = 3.99\nmost_novel_share = 0.9\n")
    wanted = read_protocol_limits(tmp_path / "limits.toml")
    out = tmp_path / "a.parquet"
    given = ([tmp_path / "a.npy", tmp_path / "b"], bundle, out)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.dcm").write_bytes(bytes(128) + b"DICM damaged")
    report = score_archive(*given, workers=1, rules=SiteRules(limits=wanted))
    table = rows(out)
    least = min(row["score"] for row in table[:2])
    reason = f"lowest score {least:.2f} is below 3.99"
    assert [row["limits"] for row in table] == [reason, reason, None]
    assert report.limits is not None
    assert report.notes == report.limits.lines
    assert report.notes[0].endswith(f"a.npy: {reason}: all 2 slices")
    assert report.to_dict()["limits"]["breaches"][0]["limit"] == "least_score"
    with pytest.raises(LimitExceeded, match="1 of 1 series exceeds a limit: lowest score"):
        report.limits.check()
    (tmp_path / "limits.toml").write_text("[default]\nmost_noise_hu = 15\n")
    noisy = read_protocol_limits(tmp_path / "limits.toml")
    with pytest.raises(InputError, match="limits noise_hu, which only `figures` measures"):
        score_archive(*given, workers=1, rules=SiteRules(limits=noisy))
    (tmp_path / "limits.toml").write_text("[default]\nleast_score = 0.001\n")
    harmless = read_protocol_limits(tmp_path / "limits.toml")
    report = score_archive(*given, workers=1, rules=SiteRules(limits=harmless))
    assert [row["limits"] for row in rows(out)] == ["", "", None]
    assert report.notes == [f"No limit of {tmp_path / 'limits.toml'} is exceeded"]


def test_figures_are_columns_on_request(workers: None, bundle: Path, tmp_path: Path) -> None:
    hu = np.stack([abdomen() + np.random.default_rng(i).normal(0, 12, (512, 512)) for i in (0, 1)])
    np.save(tmp_path / "a.npy", hu.astype(np.float32))
    (tmp_path / "torn.dcm").write_bytes(b"\0" * 128 + b"DICM")
    score_archive([tmp_path], bundle, tmp_path / "a.parquet", workers=1, figures=True)
    table = rows(tmp_path / "a.parquet")
    assert list(table[0]) == [*score_ray.SCHEMA.names, *score_ray.FIGURES.names]
    assert [row["noise_hu"] for row in table[:2]] == pytest.approx([12, 12], rel=0.05)
    assert "water_diameter_cm: the size of a pixel is not known" in table[0]["missing"]
    assert table[2]["error"] and table[2]["noise_hu"] is None and table[2]["remark"] is None


def test_a_slice_without_a_body_at_the_end_has_a_reason_and_is_no_failure(
    workers: None, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    for i, image in enumerate((noise(), noise(1), noise(2) - 1040)):
        write_ct(tmp_path / "s" / f"{i}.dcm", image, ImagePositionPatient=[0, 0, i])
    notes: list[str] = []
    out = tmp_path / "a.parquet"
    report = score_archive([tmp_path / "s"], bundle, out, workers=1, note=notes.append)
    assert (report.slices, report.not_scored) == (3, 0)
    assert [row["error"] is None for row in rows(out)] == [True, True, False]
    assert len(notes) == 1 and "without a body at the ends of a series" in notes[0]


def test_a_bundle_without_threshold_says_that_no_slice_is_judged(
    workers: None, tmp_path: Path
) -> None:
    unjudged = write_bundle(tmp_path / "unjudged", threshold=None)
    np.save(tmp_path / "a.npy", noise())
    notes: list[str] = []
    out = tmp_path / "a.parquet"
    score_archive([tmp_path / "a.npy"], unjudged, out, workers=1, note=notes.append)
    assert len(notes) == 1 and "slices cannot be classified as in domain" in notes[0]
    (row,) = rows(out)
    assert row["in_domain"] is None and row["novelty"] is not None and row["low"] is not None


def test_a_bundle_that_does_not_load_is_the_sessions_own_error(
    cluster: None, tmp_path: Path
) -> None:
    bundle = write_bundle(tmp_path / "bundle", score_offset=0.5)
    np.save(tmp_path / "a.npy", noise())
    with pytest.raises(CheckFailed, match="self-test failed on onnxruntime"):
        score_archive([tmp_path / "a.npy"], bundle, tmp_path / "a.parquet", workers=1)
    assert not (tmp_path / "a.parquet").exists()


def test_more_workers_than_the_cluster_has_room_for_are_refused(
    cluster: None, bundle: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", noise())
    with pytest.raises(InputError, match="workers=3: the cluster has 2 CPUs; ask for fewer"):
        score_archive([tmp_path / "a.npy"], bundle, tmp_path / "a.parquet", workers=3)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(28, "No space left on device"), 2, "scores.parquet: No space left on device"),
        (ValueError("Secret^Name"), 1, "scores.parquet: not written (ValueError in scoring/"),
    ],
    ids=["disk", "library"],
)
def test_scores_that_cannot_be_written_are_printed(
    workers: None,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    words: str,
) -> None:
    def broken(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(score_ray.parquet, "write_table", broken)
    write_series(tmp_path / "archive", 2)
    monkeypatch.chdir(tmp_path)
    given = ["archive", "--bundle", str(bundle), "--out", "scores.parquet", "--workers", "1"]
    done = CliRunner().invoke(app, ["score-archive", *given])
    assert isinstance(done.exception, NotWritten) and done.exception.exit_code == status
    assert str(done.exception).startswith(words) and "Secret" not in str(done.exception)
    assert done.stdout.startswith("means:\n2 slices: mean ")
    assert os.listdir() == ["archive"]


def test_an_archive_gets_the_scores_of_one_process(bundle: Path, tmp_path: Path) -> None:
    """The command starts its own Ray. Damaged slices become rows, and the status is 1."""
    archive = tmp_path / "archive"
    archive.mkdir()
    write_series(archive / "series", 6)
    stack = noise(0, (40, 512, 512))
    np.save(archive / "stack.npy", stack)
    broken = noise(3, (3, 512, 512)).astype(np.float32)
    broken[1, 0, 0] = np.nan
    np.save(archive / "broken.npy", broken)
    write_ct(archive / "dose.dcm", SeriesInstanceUID="1.2.8", CTDIvol=4.5, ProtocolName="Low")
    truncated = write_ct(archive / "truncated.dcm", SeriesInstanceUID="1.2.9")
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    (archive / "LICENSE.txt").write_text("free")

    command = [sys.executable, "-m", "clinreadnet.cli", "score-archive", "archive"]
    command += ["--workers", "2", "--bundle", str(bundle), "--out", "scores.parquet", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    notes = done.stderr.splitlines()
    assert len(notes) == 3 and "LICENSE.txt" in notes[0] and "truncated" in notes[1]
    assert notes[2] == (
        "clinreadnet: scores.parquet: 2 of 51 slices were not scored; its column `error` says why"
    )
    result = json.loads(done.stdout)
    assert (result["slices"], result["not_scored"], result["series"]) == (51, 2, None)

    table = rows(tmp_path / "scores.parquet")
    wrong = [row for row in table if row["error"] is not None]
    assert [(Path(row["path"]).name, row["frame"]) for row in wrong] == [
        ("broken.npy", 1),
        ("truncated.dcm", None),
    ]
    scored = ("score", "grade", "low", "high", "novelty", "in_domain")
    assert all(row[name] is None for row in wrong for name in scored)
    assert "NaN or infinity" in wrong[0]["error"] and "truncated" in wrong[1]["error"]

    refs = find_slices([archive], refused=lambda path, error: None)
    good = [ref for ref in refs if ref.name != f"{archive / 'broken.npy'}[1]"]
    alone = score_slices(Session(bundle, threads=1), good)
    columns = ("path", "frame", "position", "score", "grade", "novelty", "in_domain")
    right = [row for row in table if row["error"] is None]
    assert [row["low"] for row in right] == pytest.approx([0.2] * len(good))
    assert [row["high"] for row in right] == pytest.approx([3.8] * len(good))
    assert [tuple(row[c] for c in columns) for row in right] == [
        tuple(getattr(s, c) for c in columns) for s in alone.slices
    ]
    assert [row["series"] for row in right] == [r.series for r in good]
    assert len(result["by_series"]) == 4
    for summary in result["by_series"]:
        own = [row["score"] for row in right if row["series"] == summary["series"]]
        assert (summary["n"], summary["mean"]) == (len(own), pytest.approx(np.mean(own)))
    doses = {(row["ctdi_vol_mgy"], row["protocol"]) for row in right if row["series"] == "1.2.8"}
    assert doses == {(4.5, "Low")} and {row["kvp"] for row in table} == {None}
    facts = parquet.read_schema(tmp_path / "scores.parquet").metadata
    assert facts[b"research_use"].startswith(b"Research use only")
    assert json.loads(facts[b"session"])["backend"] == "onnxruntime-cpu"


def test_each_series_is_printed_with_its_mean(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slices(series: str, *scores: float) -> list[SliceScore]:
        return [
            SliceScore("a", None, None, score, "good", 1, 2, None, None, series) for score in scores
        ]

    means = summarise_by_series([*slices("1.2.3", 1, 2), *slices("1.2.4", 4)])
    many = {f"1.2.{number}": means["1.2.3"] for number in range(60)}
    for by_series, patterns in (
        (means, [r"1: 1\.2\.3 .* 2 .* 1\.50 .* 1\.00 .* 2\.00", r"2: 1\.2\.4 .* 1 .* 4\.00"]),
        ({"1.2.3": means["1.2.3"]}, ["2 slices: mean 1.50"]),
        (many, ["and 10 more series; --json gives all"]),
    ):
        report = ArchiveReport(tmp_path / "out", 3, 0, by_series, None)
        monkeypatch.setattr(score_ray, "score_archive", lambda *a, r=report, **k: r)
        arguments = ["score-archive", "a", "--bundle", str(bundle), "--out", "out.parquet"]
        printed = CliRunner().invoke(app, arguments)
        assert printed.exit_code == 0, printed.output
        assert len(re.findall(r"^.\s+\d+: 1\.2", printed.output, re.M)) == (
            min(len(by_series), 50) if len(by_series) > 1 else 0
        )
        assert all(re.search(words, printed.output) for words in patterns)


def test_a_slice_that_fails_stops_no_other_of_its_chunk() -> None:
    class Picky:
        """A session that fails on any batch with a dark slice."""

        def score(self, hu: NDArray[np.float32], pixel_mm: Any, **options: Any) -> Any:
            if hu.mean(axis=(1, 2)).min() < -200:
                raise ClinReadNetError("too dark")
            outputs = {n: value.astype(np.float32) for n, value in reference(hu).items()}
            return Scores(**outputs, threshold=THRESHOLD)

    images = [noise(i).astype(np.float32) for i in range(3)]
    images[1] -= 300
    refs = [SliceRef(Path(f"{i}"), None, None, "s", image.copy) for i, image in enumerate(images)]
    outcomes = score_chunk(Picky(), refs)
    errors = {i: str(o) for i, o in enumerate(outcomes) if isinstance(o, InputError)}
    assert errors == {1: "1: too dark"}
    kept = [o.score for o in outcomes if isinstance(o, SliceScore)]
    np.testing.assert_allclose(kept, reference(np.stack(images))["score"][[0, 2]], rtol=1e-6)


def test_an_address_without_ray_is_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        assert options["address"] == "10.0.0.1:6379" and "include_dashboard" not in options
        raise ConnectionError("Could not find any running Ray instance.\nMore lines.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(cluster, "check_answer", lambda address: None)
    np.save(tmp_path / "a.npy", noise())
    with pytest.raises(InputError, match=r"no Ray cluster there \(Could not find.*instance\.\)"):
        score_archive([tmp_path], bundle, tmp_path / "a.parquet", address="10.0.0.1:6379")
    assert os.listdir(tmp_path) == ["a.npy"]


@pytest.fixture(params=["refuses", "silent", "swallows-packets", "no-such-name"])
def dead_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return an address without a cluster: a listener with a full queue drops every packet."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        host, port = listener.getsockname()
        if request.param in ("silent", "swallows-packets"):
            listener.listen(0)
        if request.param == "swallows-packets":
            for _ in range(4):
                link = stack.enter_context(socket.socket())
                link.setblocking(False)
                link.connect_ex((host, port))
        yield f"{'no-such-host.invalid' if request.param == 'no-such-name' else host}:{port}"


@pytest.mark.sample(every=2)
def test_an_address_that_does_not_answer_is_one_line_within_20_seconds(
    bundle: Path, tmp_path: Path, dead_address: str
) -> None:
    write_ct(tmp_path / "a.dcm")
    command = [sys.executable, "-m", "clinreadnet.cli", "score-archive", "a.dcm"]
    command += ["--address", dead_address, "--bundle", str(bundle), "--out", "scores.parquet"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - start < 20
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "no Ray cluster there" in line and "give HOST:PORT of its head, auto, or local" in line
    assert os.listdir(tmp_path) == ["a.dcm"]


def test_a_cluster_that_never_answers_is_given_up() -> None:
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no answer within 0\.2 s"):
        cluster.check_answer("auto", within=0.2)
    assert time.monotonic() - start < 10


def test_more_workers_than_processors_are_refused_before_anything_is_read(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    monkeypatch.setattr(score_ray, "processors", lambda: 4)
    with pytest.raises(InputError, match="workers=5: this machine has 4 processors; ask for fewer"):
        score_archive([tmp_path / "none"], bundle, tmp_path / "a.parquet", workers=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["score-archive"], "Missing option '--out'"),
        (["score-archive", "--out", "a.parquet", "--csv", "a.csv"], "No such option: --csv"),
        (["score", "--out", "a.parquet"], "No such option: --out"),
        (["score", "--workers", "2"], "No such option: --workers"),
    ],
    ids=["no-out", "csv", "out-of-score", "workers-of-score"],
)
def test_options_of_the_other_command_are_refused(
    bundle: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    command, *rest = options
    done = CliRunner().invoke(app, [command, str(tmp_path), "--bundle", str(bundle), *rest])
    assert done.exit_code == 2 and message in done.output


def test_an_archive_without_a_readable_slice_says_why(bundle: Path, tmp_path: Path) -> None:
    truncated = write_ct(tmp_path / "a.dcm")
    truncated.write_bytes(truncated.read_bytes()[:100_000])
    notes: list[str] = []
    with pytest.raises(InputError, match="no slices can be read; the lines above say why"):
        score_archive([tmp_path], bundle, tmp_path / "s.parquet", note=notes.append)
    (line,) = notes
    assert "a.dcm: truncated" in line


def test_a_file_that_cannot_be_written_is_refused(bundle: Path, tmp_path: Path) -> None:
    options = ["--bundle", str(bundle), "--out", "nowhere/a.parquet"]
    done = CliRunner().invoke(app, ["score-archive", str(tmp_path), *options])
    assert isinstance(done.exception, InputError)
    assert "nowhere: no such folder" in str(done.exception)


@pytest.mark.parametrize("package", ["ray", "pyarrow"])
def test_a_missing_package_names_its_extra(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.delitem(sys.modules, "clinreadnet.scoring.archive")
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ["score-archive", "x", "--bundle", str(bundle), "--out", "a.parquet"]
    monkeypatch.setattr(sys, "argv", ["clinreadnet", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert 'pip install "clinreadnet[ray]"' in capsys.readouterr().err
