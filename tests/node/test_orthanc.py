"""A real PACS: Orthanc forwards a series to the node and receives its report."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.dicom_files import STUDY, write_series
from support.listen_process import ListenProcess, free_port
from support.pacs import REPORT

ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
DCMTK = "/usr/bin:/usr/local/bin"
"""Where DCMTK is: pynetdicom puts programs of the same names into an environment."""

PATIENCE = 180.0
PAGE = Path(__file__).parents[2] / "docs" / "scanner.md"

pytestmark = pytest.mark.skipif(
    ORTHANC is None, reason="Orthanc is not installed (Debian's package `orthanc`)"
)


class Orthanc:
    """An Orthanc server in a folder that forwards each CT series to the node."""

    def __init__(self, folder: Path, node_port: int) -> None:
        folder.mkdir()
        self.http, self.dicom = free_port(), free_port()
        (folder / "forward.lua").write_text(from_page("lua"))
        configuration: dict[str, Any] = json.loads(from_page("json"))
        assert configuration["DicomModalities"]["clinreadnet"][2] == 11112
        configuration |= {
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "StableAge": 1,
            "DicomModalities": {"clinreadnet": ["CLINREADNET", "127.0.0.1", node_port]},
        }
        if not PLUGIN.exists():
            configuration["Plugins"] = []
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        assert ORTHANC is not None
        self.log = folder / "orthanc.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [ORTHANC, "orthanc.json"], stdout=log, stderr=log, cwd=folder
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return bool(self.get("/system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.http}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)

    def put(self, path: Path) -> None:
        url = f"http://127.0.0.1:{self.http}/instances"
        urllib.request.urlopen(urllib.request.Request(url, path.read_bytes()), timeout=30).close()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


def from_page(language: str) -> str:
    """Return the only code block of a language in docs/scanner.md."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return str(block)


def wait_for(holds: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


@pytest.fixture(params=["C-STORE", "STOW-RS"])
def node(
    bundle: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[ListenProcess, Orthanc]]:
    """Run a node that sends to Orthanc over DIMSE or STOW-RS."""
    if request.param == "STOW-RS" and not PLUGIN.exists():
        pytest.skip("Orthanc has no DICOMweb (Debian's package `orthanc-dicomweb`)")
    process = ListenProcess(bundle, tmp_path / "spool", "127.0.0.1:1:ORTHANC", "--quiet", "2")
    orthanc = Orthanc(tmp_path / "orthanc", process.port)
    place = process.command.index("--send-to") + 1
    process.command[place] = (
        f"127.0.0.1:{orthanc.dicom}:ORTHANC"
        if request.param == "C-STORE"
        else f"http://127.0.0.1:{orthanc.http}/dicom-web"
    )
    try:
        with process:
            yield process, orthanc
    finally:
        orthanc.stop()


def test_orthanc_forwards_a_series_and_gets_its_report(
    node: tuple[ListenProcess, Orthanc], tmp_path: Path
) -> None:
    process, orthanc = node
    for path in sorted(write_series(tmp_path / "series", 3).iterdir()):
        orthanc.put(path)
    wait_for(lambda: len(orthanc.get("/series")) == 2)
    (study,) = orthanc.get("/studies")
    names = orthanc.get(f"/studies/{study}")["Series"]
    series = [orthanc.get(f"/series/{name}") for name in names]
    (report,) = [item for item in series if item["MainDicomTags"]["Modality"] == "SR"]
    assert "research use only" in report["MainDicomTags"]["SeriesDescription"]
    if PLUGIN.exists():
        matches = orthanc.get(f"/dicom-web/studies/{STUDY}/series?Modality=SR")
        assert [match["00080060"]["Value"] for match in matches] == [["SR"]]
        (instance,) = orthanc.get(f"/dicom-web/studies/{STUDY}/instances?Modality=SR")
        assert instance["00080016"]["Value"] == [REPORT]
    if (findscu := shutil.which("findscu")) is not None:
        done = subprocess.run(
            [
                *(findscu, "-S", "-aec", "ORTHANC", "127.0.0.1", str(orthanc.dicom)),
                *("-k", "QueryRetrieveLevel=SERIES", "-k", f"StudyInstanceUID={STUDY}"),
                *("-k", "Modality=SR", "-k", "SeriesInstanceUID"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "SR" in done.stdout + done.stderr and "2.25." in done.stdout + done.stderr
    assert "3 slices scored" in process.text()
    wait_for(lambda: "report sent to" in process.text())
    assert "cannot be reached" not in process.text() and "refused" not in process.text()


def test_the_commands_of_the_page_send_a_series_and_find_its_report(
    node: tuple[ListenProcess, Orthanc], tmp_path: Path
) -> None:
    process, orthanc = node
    write_series(tmp_path / "sample", 2)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))

    def run(program: str) -> str:
        (line,) = re.findall(rf"^    (.*\b{program} .*)$", PAGE.read_text(), re.MULTILINE)
        line = line.replace("11112", str(process.port)).replace("4242", str(orthanc.dicom))
        done = subprocess.run(
            line,
            shell=True,
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run("echoscu")
    run("storescu")
    wait_for(lambda: "report sent to" in process.text())
    assert "Image quality, research use only" in run("findscu")


@pytest.mark.skipif(shutil.which("echoscu", path=DCMTK) is None, reason="dcmtk is not installed")
def test_dcmtk_echoes_and_stores(node: tuple[ListenProcess, Orthanc], tmp_path: Path) -> None:
    process, orthanc = node
    series = write_series(tmp_path / "series", 2)
    called = ["-aec", "CLINREADNET", "127.0.0.1", str(process.port)]
    for program, *arguments in (["echoscu", *called], ["storescu", "+sd", *called, str(series)]):
        command = [str(shutil.which(program, path=DCMTK)), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    wait_for(lambda: len(orthanc.get("/series")) == 1)
