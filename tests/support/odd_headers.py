"""Random headers that a PACS would accept, sent to a node: `python -m support.odd_headers`.

Each case is a series of its own: an intact data set with UIDs and pixels, some of whose other
attributes hold what no standard allows.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pynetdicom import _config

from clinreadnet.dicom.attributes import COPIED
from clinreadnet.node.config import Destination, NodeConfig
from clinreadnet.node.node import Node
from clinreadnet.runtime import Session
from support.dicom_files import make_ct, noise, write, write_enhanced_ct
from support.pacs import MAP, REPORT, Pacs, connect
from support.raw_elements import store
from support.tiny_bundle import write_bundle

SECRET = "GEHEIM"
"""In many of the odd texts; no line of a log may have it."""

ODD = (
    *(b"", b" ", b"\0", b"U", b"male", b"42", b"-1", b"nan", b"inf", b"1e400", b"1,5", b"0" * 17),
    *(b"19450000", b"1945", b"20230230", b"2001.03.12", b"12:30:15", b"240000", b"235960"),
    *(
        b"a\\b",
        b"\\",
        b"\\\\",
        b"=",
        b"^^^^^^",
        b"A=B=C=D",
        b"\x1b$B;3ED\x1b(B",
        b"\x1b$B",
        b"\x1b",
    ),
    *(b"GEHEIM\n", b"GEHEIM\x1b[31m", b"GEHEIM" * 20, b"GEHEIM\\GEHEIM", b"GEHEIM^"),
    *("GEHEIM Müller^Jörg".encode(), b"GEHEIM M\xfcller", b"\xff\xfeGEHEIM", b"\xe2\x80\xaeGEHEIM"),
    *(b"%s%n{0}", b"<x>&amp;", b"1\\2\\3", b"1\\2", b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\1\\0\\0"),
)
CHARACTER_SETS = (
    *(b"ISO_IR 100", b"ISO_IR 192", b"GB18030", b"\\ISO 2022 IR 87", b"\\ISO 2022 IR 149"),
    *(b"ISO-IR 192", b"ISO_IR 6", b"UTF-8", b"", b"Not Supplied", b"\\", b"\xff", b"ISO_IR 999"),
    *(b"ISO 2022 IR 13\\ISO 2022 IR 87", b"GEHEIM", b"ISO_IR 192\\ISO_IR 100", b"utf_16", b"hex"),
)
OTHER = (
    *("ProtocolName", "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "SeriesNumber"),
    *("InstanceNumber", "SliceLocation", "SliceThickness", "KVP", "Exposure", "AcquisitionDate"),
    *("AcquisitionDateTime", "SeriesDate", "ContentTime", "InstitutionName", "SeriesDescription"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"),
    *("AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "PatientComments"),
    *("OtherPatientIDs", "RequestingPhysician", "StationName", "Laterality", "ImageComments"),
)
_config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are

SEQUENCES = (
    *("ReferencedStudySequence", "RequestAttributesSequence", "ProcedureCodeSequence"),
    *("SharedFunctionalGroupsSequence", "PatientSpeciesCodeSequence"),
)
STORED = 0x0000


def odd_series(seed: int, number: int, folder: Path) -> list[Dataset]:
    """Return the slices of a case; the same seed and number give the same ones, but for UIDs."""
    draw = random.Random(f"{seed}/{number}")
    uid, study = generate_uid(), generate_uid()
    slices: list[Dataset]
    if draw.random() < 0.15:
        slices = [pydicom.dcmread(write_enhanced_ct(folder / "e.dcm", draw.randint(1, 3)))]
    else:
        spread = draw.choice((0.0, 2.5))
        slices = [
            make_ct(noise(number + i), ImagePositionPatient=[-180, -180, spread * i])
            for i in range(draw.randint(1, 3))
        ]
    common = _odd_values(draw)
    for ds in slices:
        ds.SeriesInstanceUID, ds.StudyInstanceUID = uid, study
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        store(ds, "PatientID", f"{SECRET}-{number}".encode())
        for name, value in (common if draw.random() < 0.8 else _odd_values(draw)).items():
            store(ds, name, value, draw.choice((None, None, None, "UN", "LT", "OB")))
        if draw.random() < 0.3:
            store(ds, "SpecificCharacterSet", draw.choice(CHARACTER_SETS))
        if draw.random() < 0.2:
            item = Dataset()
            store(item, "CodeMeaning", SECRET.encode())
            setattr(ds, draw.choice(SEQUENCES), Sequence([item] * draw.randint(0, 2)))
        for group in ds.get("PerFrameFunctionalGroupsSequence", ()):
            if draw.random() < 0.2:
                _spoil(draw, group)
    return slices


def _odd_values(draw: random.Random) -> dict[str, bytes]:
    names = [tag for tag in (*COPIED, *OTHER) if tag != "PatientID"]
    return {name: draw.choice(ODD) for name in draw.sample(names, draw.randint(1, 8))}


def _spoil(draw: random.Random, group: Dataset) -> None:
    """Remove the position of a frame, or make it invalid."""
    if draw.random() < 0.5 or "PlanePositionSequence" not in group:
        group.pop("PlanePositionSequence", None)
    else:
        store(group.PlanePositionSequence[0], "ImagePositionPatient", draw.choice(ODD))


def run(count: int, seed: int, folder: Path, session: Session) -> dict[str, Any]:
    """Send series to a node with a PACS; return the outcome."""
    pacs = Pacs()
    config = NodeConfig(
        title="CLINREADNET",
        host="127.0.0.1",
        port=0,
        spool=folder / "spool",
        destination=Destination("127.0.0.1", pacs.port, "PACS"),
        quiet=0.5,
        maps=True,
    )
    answers: Counter[str] = Counter()
    with Node(config) as node:
        node.start(session)
        assoc = connect(node.port)
        accepted = set()
        for number in range(count):
            for ds in odd_series(seed, number, folder):
                status = assoc.send_c_store(write(folder / "slice.dcm", ds)).Status
                answers[f"{status:04X}"] += 1
                if status == STORED:
                    accepted.add(str(ds.SeriesInstanceUID))
        assoc.release()
        while node.problem() is None and _waits(node):
            time.sleep(0.1)
        states = dict(
            node.spool.database.execute("SELECT state, count(*) FROM series GROUP BY state")
        )
        assoc = connect(node.port)
        alive = node.problem() is None and assoc.send_c_echo().Status == 0
        assoc.release()
    reports = pacs.of(REPORT)
    pacs.stop()
    return {
        "series": count,
        "answers": dict(answers),
        "accepted_series": len(accepted),
        "states": states,
        "reports": len(reports),
        "maps": len(pacs.of(MAP)),
        "reported_series": len(_reported(reports) & accepted),
        "invalid": _invalid(pacs.received, folder),
        "alive": alive,
    }


def _waits(node: Node) -> bool:
    counts = node.spool.counts()
    return bool(counts["receiving"] or counts["scoring"] or node.spool.waiting()[0])


def _reported(reports: list[Dataset]) -> set[str]:
    return {
        str(series.SeriesInstanceUID)
        for report in reports
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
    }


def _invalid(received: list[Dataset], folder: Path) -> list[str] | None:
    """Return the errors that dciodvfy finds; None where it is not installed."""
    if (dciodvfy := shutil.which("dciodvfy")) is None:
        return None
    errors: Counter[str] = Counter()
    for ds in received:
        pydicom.dcmwrite(folder / "one.dcm", ds, implicit_vr=False, little_endian=True)
        done = subprocess.run([dciodvfy, folder / "one.dcm"], capture_output=True, timeout=120)
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        errors.update(line for line in lines if line.startswith("Error"))
    return sorted(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = write_bundle(folder / "bundle")
        with Session(bundle, "onnxruntime-cpu", threads=1) as session:
            print(json.dumps(run(given.count, given.seed, folder, session), indent=2))


if __name__ == "__main__":
    main()
