"""`clinreadnet listen` as a process: signals, refused options, and the spool after a kill."""

from __future__ import annotations

import random
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.dicom_files import make_ct, noise
from support.listen_process import ListenProcess
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import InputError

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed: the extra node")

from support.pacs import Pacs, connect, referenced
from support.raw_peer import RawPeer

DESTINATION = "127.0.0.1:1:PACS"
PATIENCE = 180.0


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    pacs = Pacs()
    yield pacs
    pacs.stop()


def refused(bundle: Path, spool: Path, *options: str, send_to: str = DESTINATION) -> str:
    """Return the error line of a node that does not start."""
    given = ["--bundle", str(bundle), "--spool", str(spool), "--send-to", send_to, *options]
    error = CliRunner().invoke(app, ["listen", *given]).exception
    assert isinstance(error, InputError), error
    assert error.exit_code == 2
    return str(error)


def test_a_port_in_use_is_refused(bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(bundle, tmp_path / "spool", "--port", port)
        assert f"--port {port}: another program listens there on 127.0.0.1" in line
        assert not (tmp_path / "spool").exists()
        line = refused(bundle, tmp_path / "spool", "--metrics-port", port)
        assert f"--metrics-port {port}: cannot be opened" in line
        assert not (tmp_path / "spool").exists()


def test_an_address_of_another_machine_is_refused(bundle: Path, tmp_path: Path) -> None:
    line = refused(bundle, tmp_path / "spool", "--host", "192.0.2.1")
    assert "--host 192.0.2.1: port 11112 cannot be opened there" in line


def test_a_spool_of_another_version_is_refused(bundle: Path, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with closing(sqlite3.connect(spool / "spool.sqlite3")) as database:
        database.execute("PRAGMA user_version = 7")
    assert "a spool of version 7, and this release reads 1" in refused(bundle, spool)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tls-cert", "a.pem"], "TLS needs --tls-cert, --tls-key and --tls-ca"),
        (["--send-tls"], "TLS needs --tls-cert, --tls-key and --tls-ca"),
        (["--aet", "MUCH TOO LONG A TITLE"], "--aet 'MUCH TOO LONG A TITLE': not an AE title"),
        (["--allow", "CT1@nowhere"], "--allow 'CT1@nowhere': give AET, AET@ADDRESS"),
        (["--map", "--map-resolution", "fine"], "--map-resolution 'fine': give patch or slice"),
        (["--send-authorization", "a"], "--send-authorization needs the URL of a DICOMweb service"),
    ],
)
def test_wrong_options_are_refused(
    bundle: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in refused(bundle, tmp_path / "spool", *options)
    assert not (tmp_path / "spool").exists()


def test_a_wrong_destination_is_refused(bundle: Path, tmp_path: Path) -> None:
    line = refused(bundle, tmp_path / "spool", send_to="pacs")
    assert "--send-to 'pacs': give HOST:PORT:AET" in line


def test_a_certificate_that_expired_is_refused(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from support.certificates import Authority

    files = Authority(tmp_path).files("node", days=-3)
    line = refused(
        *(bundle, tmp_path / "spool", "--tls-cert", str(files.certificate)),
        *("--tls-key", str(files.key), "--tls-ca", str(files.authority)),
    )
    assert re.search(r"node.pem: the certificate expired on \d{4}-\d\d-\d\d; renew it", line)


def test_sigterm_ends_it_and_a_second_one_on_its_spool_is_refused(
    bundle: Path, tmp_path: Path
) -> None:
    with ListenProcess(bundle, tmp_path / "spool", DESTINATION) as node:
        line = refused(bundle, tmp_path / "spool", "--port", "11119")
        assert "another node uses this spool" in line
        with RawPeer(node.port) as peer:
            assert peer.associate() and peer.echo() == 0
            assert node.stop() in (143, -15)
    assert "Traceback" not in node.text()


def test_no_patient_is_in_the_log(bundle: Path, tmp_path: Path, pacs: Pacs) -> None:
    destination = f"127.0.0.1:{pacs.port}:PACS"
    good = make_ct(noise(), PatientName="Secret^Name", PatientID="S-4711")
    odd = make_ct(noise(1), PatientName="Secret^Name", PatientID="S-4711", Modality="Secret")
    with ListenProcess(bundle, tmp_path / "spool", destination, "--quiet", "1") as node:
        assoc = connect(node.port, title="SECRET")
        answers = [assoc.send_c_store(ds) for ds in (good, odd)]
        assoc.release()
        wait_for(lambda: pacs.received)
        node.stop()
    assert [answer.Status for answer in answers] == [0, 0xC000]
    log = node.text()
    assert "report sent" in log and "object refused with C000" in log
    for secret in ("Secret", "SECRET", "4711", good.SOPInstanceUID, good.SeriesInstanceUID):
        assert secret not in log and secret not in str(answers)


def wait_for(holds: object) -> None:
    assert callable(holds)
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


_DIES_SCORING = """
import os, signal, sys
from clinreadnet.node import work

score = work.score_slices

def crash(session, refs, **options):
    if refs[0].header["PatientID"].value == "4711":
        os.kill(os.getpid(), signal.{signal})
    return score(session, refs, **options)

work.score_slices = crash
from clinreadnet.cli import main
main()
"""


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("by", ["SIGSEGV", "SIGKILL"])
def test_a_series_that_ends_the_process_is_set_aside_and_the_next_is_scored(
    bundle: Path, tmp_path: Path, pacs: Pacs, by: str
) -> None:
    """A decoder crashes, and a service manager starts the node again each time."""
    spool = tmp_path / "spool"
    bad, good = (
        make_ct(noise(i), PatientID=patient, SeriesInstanceUID=f"1.2.3.{i}")
        for i, patient in enumerate(("4711", "1"))
    )
    node = ListenProcess(bundle, spool, f"127.0.0.1:{pacs.port}:PACS", "--quiet", "2")
    node.command[1:3] = ["-c", _DIES_SCORING.replace("{signal}", by)]
    statuses = []

    def done() -> bool:
        assert node.process is not None
        if (status := node.process.poll()) is not None:
            statuses.append(status)
            node.start(wait=False)
        return "set aside" in node.text() and bool(pacs.received)

    with node:
        assoc = connect(node.port)
        assert [assoc.send_c_store(ds).Status for ds in (bad, good)] == [0, 0]
        assoc.release()
        wait_for(done)
        assert statuses == [-signal.Signals[by]] * 2
        (report,) = pacs.received
        assert report.PatientID == "1"
        listed = CliRunner().invoke(app, ["spool", str(spool)]).stdout
        assert "1 object" in listed and "the process ended 2 times in a row" in listed
        assert node.stop() in (143, -15)


def test_killed_at_random_moments_it_scores_and_sends_each_series_once(
    bundle: Path, tmp_path: Path, pacs: Pacs
) -> None:
    series = [
        [
            make_ct(
                noise(20 * number + i, (64, 64)),
                SeriesInstanceUID=f"1.2.3.{number}",
                ImagePositionPatient=[0, 0, i],
                NumberOfSeriesRelatedInstances=6,
            )
            for i in range(6)
        ]
        for number in range(4)
    ]
    draw = random.Random(20)
    pacs.stop()
    node = ListenProcess(
        *(bundle, tmp_path / "spool", f"127.0.0.1:{pacs.port}:PACS", "--resample"),
        *("--quiet", "120"),
    )
    with node:
        waiting = [ds for own in series for ds in own]
        kills = [draw.uniform(0, 2) for _ in range(4)]
        next_kill = time.monotonic() + kills.pop()
        while waiting:
            assoc = connect(node.port)
            while waiting and assoc.is_established:
                answer = assoc.send_c_store(waiting[0])
                if answer.get("Status") == 0:
                    waiting.pop(0)
                if time.monotonic() > next_kill and kills:
                    node.kill()
                    node.start()
                    next_kill = time.monotonic() + kills.pop()
                    break
            if assoc.is_established:
                assoc.release()
        pacs.start()
        for _ in range(2):  # while it scores and sends
            time.sleep(draw.uniform(0, 1.5))
            node.kill()
            node.start()
        wait_for(lambda: len({ds.SOPInstanceUID for ds in pacs.received}) >= 4)
        time.sleep(2)
    reports = {ds.SOPInstanceUID: ds for ds in pacs.received}
    scored = sorted(sorted(referenced(ds)) for ds in reports.values())
    assert scored == sorted(sorted(str(ds.SOPInstanceUID) for ds in own) for own in series)
