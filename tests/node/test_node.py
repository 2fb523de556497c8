"""The node as its peers see it: accepted and refused objects, and the status of each."""

from __future__ import annotations

import copy
import errno
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)
from support.dicom_files import CT, MR, comment, make_ct, noise, write_enhanced_ct
from support.header_reads import count_header_reads
from support.pacs import MAP, REPORT, Pacs, connect, referenced
from support.site_readers import site_map

from clinreadnet.errors import InputError
from clinreadnet.node.config import Destination, Peer, parse_senders
from clinreadnet.node.node import Node
from clinreadnet.node.receive import transfer_syntaxes
from clinreadnet.runtime import Session
from clinreadnet.scoring.protocol_limits import read_protocol_limits
from clinreadnet.scoring.site_rules import SiteRules

Start = Callable[..., Node]
Until = Callable[..., None]
Logged = Callable[[str], str]


def slices(count: int, *, first: int = 0, **tags: Any) -> list[Dataset]:
    return [
        make_ct(noise(i), ImagePositionPatient=[-180, -180, 2.5 * i], InstanceNumber=i + 1, **tags)
        for i in range(first, first + count)
    ]


def store(port: int, datasets: list[Dataset], **options: Any) -> list[Dataset]:
    """Send data sets and return the answers."""
    assoc = connect(port, **options)
    assert assoc.is_established
    answers = [assoc.send_c_store(ds) for ds in datasets]
    assoc.release()
    return answers


def statuses(answers: list[Dataset]) -> list[int]:
    return [answer.Status for answer in answers]


def test_it_answers_an_echo(start: Start) -> None:
    assoc = connect(start().port)
    assert assoc.send_c_echo().Status == 0
    assoc.release()


def test_a_series_comes_back_as_one_report_of_every_slice(
    start: Start, pacs: Pacs, until: Until, tmp_path: Path, logged: Logged
) -> None:
    node = start(quiet=2.0)
    sent = slices(4, PatientName="Secret^Name", PatientID="4711", CTDIvol=4.5)
    assert statuses(store(node.port, sent)) == [0] * 4
    until(lambda: pacs.received)
    until(lambda: not list((tmp_path / "spool" / "outgoing").iterdir()))
    (report,) = pacs.received
    assert report.SOPClassUID == REPORT
    assert sorted(referenced(report)) == sorted(ds.SOPInstanceUID for ds in sent)
    assert (report.PatientID, report.StudyInstanceUID) == ("4711", sent[0].StudyInstanceUID)
    assert "research" in str(report).lower()
    assert list((tmp_path / "spool" / "objects").iterdir()) == []
    assert list((tmp_path / "spool" / "work").iterdir()) == []
    log = logged("report sent to")
    assert "4 slices scored" in log
    assert not [s for s in ("Secret", "4711", sent[0].SeriesInstanceUID) if s in log]


@pytest.mark.parametrize("figures", [False, True])
def test_a_report_holds_figures_on_request(
    start: Start, pacs: Pacs, until: Until, figures: bool
) -> None:
    node = start(figures=figures)
    store(node.port, slices(1, NumberOfSeriesRelatedInstances=1))
    until(lambda: pacs.received)
    assert ("Global noise level" in str(pacs.received[0])) == figures


def test_a_limit_that_is_exceeded_is_logged_counted_and_marked(
    start: Start, pacs: Pacs, until: Until, logged: Logged, tmp_path: Path
) -> None:
    (tmp_path / "limits.toml").write_text("[protocol.Abdomen]\nleast_score = 4\n")
    node = start(
        rules=SiteRules(limits=read_protocol_limits(tmp_path / "limits.toml")), metrics_port=0
    )
    for protocol in ("Abdomen", "Head"):
        uid = f"1.2.{len(protocol)}"
        sent = slices(2, ProtocolName=protocol, SeriesInstanceUID=uid, PatientID="4711")
        for ds in sent:
            ds.NumberOfSeriesRelatedInstances = 2
        store(node.port, sent)
    until(lambda: len(pacs.received) == 2)
    log = logged("limit exceeded: lowest score")
    assert log.count("limit exceeded") == 1 and "is below 4.00" in log
    assert "4711" not in log and "1.2.7" not in log
    url = f"http://127.0.0.1:{node.metrics_port}/metrics"
    metrics = urllib.request.urlopen(url, timeout=10).read().decode()
    assert 'clinreadnet_limits_exceeded_total{limit="least_score"} 1.0' in metrics
    marks = {str(ds.SeriesInstanceUID): "A limit is exceeded" in str(ds) for ds in pacs.received}
    assert sorted(marks.values()) == [False, True]


def test_a_site_map_adds_its_scores_to_report_and_log(
    start: Start, pacs: Pacs, session: Session, until: Until, logged: Logged, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the site map was fitted for weights"):
        start(rules=SiteRules(site_map()), spool=tmp_path / "other")
    own = site_map(weights_sha256=session.manifest.model.weights_sha256)
    node = start(rules=SiteRules(own))
    sent = slices(2, NumberOfSeriesRelatedInstances=2, PatientID="4711")
    store(node.port, sent)
    until(lambda: pacs.received)
    log = logged("to send")
    assert "; mean site score " in log and f"({own.name})" in log and "4711" not in log
    report = str(pacs.received[0])
    assert "mapped from the score" in report and "Predicted image quality" in report
    assert own.line in comment(pacs.received[0])


def test_a_spool_holds_no_header_beside_the_waiting_objects(
    start: Start, pacs: Pacs, until: Until, tmp_path: Path
) -> None:
    sent = slices(2, PatientName="Secret^Name", PatientID="4711")
    node = start()
    store(node.port, sent)
    until(lambda: pacs.received)
    until(lambda: not list((tmp_path / "spool" / "outgoing").iterdir()))
    node.stop()
    content = b"".join(p.read_bytes() for p in (tmp_path / "spool").rglob("*") if p.is_file())
    for value in ("Secret", "4711", sent[0].SOPInstanceUID, sent[0].SeriesInstanceUID):
        assert value.encode() not in content


def test_a_series_with_its_count_is_not_waited_for(start: Start, pacs: Pacs, until: Until) -> None:
    node = start(quiet=3600)
    store(node.port, slices(3, NumberOfSeriesRelatedInstances=3))
    until(lambda: pacs.received)
    assert len(referenced(pacs.received[0])) == 3


def test_a_header_is_read_once_when_it_comes_in_and_once_when_it_is_scored(
    start: Start, pacs: Pacs, until: Until, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(maps=True)
    reads = count_header_reads(monkeypatch)
    store(node.port, slices(3, NumberOfSeriesRelatedInstances=3))
    until(lambda: len(pacs.received) == 2)
    until(lambda: not list((tmp_path / "spool" / "outgoing").iterdir()))
    assert [ds.SOPClassUID for ds in pacs.received] == [REPORT, MAP]
    assert reads == {"header": 6}


def test_enhanced_ct_is_scored_frame_by_frame_and_mapped(
    start: Start, pacs: Pacs, until: Until, tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(write_enhanced_ct(tmp_path / "enhanced.dcm", 3))
    store(start(maps=True).port, [dataset])
    until(lambda: len(pacs.received) == 2)
    assert referenced(pacs.of(REPORT)[0]) == [dataset.SOPInstanceUID] * 3
    assert pacs.of(MAP)[0].NumberOfFrames == 3


def test_a_map_has_the_resolution_that_is_asked_for(start: Start, pacs: Pacs, until: Until) -> None:
    store(start(maps=True, map_resolution="slice").port, slices(2))
    until(lambda: pacs.of(MAP))
    (quality_map,) = pacs.of(MAP)
    assert (quality_map.Rows, quality_map.Columns, quality_map.NumberOfFrames) == (512, 512, 2)


def test_a_series_that_is_sent_again_is_accepted_and_not_scored_again(
    start: Start, pacs: Pacs, until: Until
) -> None:
    node = start(quiet=0.5)
    sent = slices(2)
    store(node.port, sent)
    until(lambda: pacs.received)
    assert statuses(store(node.port, sent)) == [0, 0]
    later = slices(2, first=2, SeriesInstanceUID="1.2.3.4")
    store(node.port, later)
    until(lambda: len(pacs.received) == 2)
    assert sorted(referenced(pacs.received[1])) == sorted(ds.SOPInstanceUID for ds in later)


def test_slices_that_come_late_make_a_report_of_their_own(
    start: Start, pacs: Pacs, until: Until
) -> None:
    node = start(quiet=0.5)
    store(node.port, slices(2))
    until(lambda: pacs.received)
    late = slices(1, first=2)
    store(node.port, late)
    until(lambda: len(pacs.received) == 2)
    assert referenced(pacs.received[1]) == [late[0].SOPInstanceUID]


def test_one_series_uid_in_two_patients_makes_two_reports(
    start: Start, pacs: Pacs, until: Until
) -> None:
    store(start().port, [*slices(1, PatientID="a"), *slices(1, first=1, PatientID="b")])
    until(lambda: len(pacs.received) == 2)
    assert {ds.PatientID for ds in pacs.received} == {"a", "b"}


def test_other_pixels_under_a_known_uid_are_refused_and_the_first_stay(
    start: Start, pacs: Pacs, until: Until, logged: Logged
) -> None:
    first, second = slices(2), slices(2, first=5)
    for ds, other in zip(first, second, strict=True):
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    node = start()
    answers = store(node.port, first + second)
    assert statuses(answers) == [0, 0, 0xC002, 0xC002]
    assert "known with other pixels" in answers[2].ErrorComment
    until(lambda: pacs.received)
    assert len(referenced(pacs.received[0])) == 2
    log = logged("report sent to")
    refused = [line for line in log.splitlines() if "refused with C002" in line]
    assert len(refused) == 2 and "the first stays" in refused[0]


@pytest.mark.parametrize("again", [RLELossless, ExplicitVRBigEndian])
def test_the_same_pixels_in_another_lossless_coding_are_the_same_instance(
    start: Start, pacs: Pacs, until: Until, again: str
) -> None:
    """A PACS may store an instance in another transfer syntax than the scanner sent."""
    node = start()
    (sent,) = slices(1, BitsStored=13, HighBit=12)
    other = copy.deepcopy(sent)
    if again == RLELossless:
        other.compress(RLELossless, generate_instance_uid=False)
    else:
        other.PixelData = np.frombuffer(sent.PixelData, "<i2").astype(">i2").tobytes()
        other.file_meta.TransferSyntaxUID = UID(again)
    assert statuses(store(node.port, [sent])) == [0]
    assert statuses(store(node.port, [other], syntaxes=[again])) == [0]
    until(lambda: pacs.received)
    assert referenced(pacs.received[0]) == [sent.SOPInstanceUID]


def test_a_map_of_other_units_is_refused(start: Start) -> None:
    (answer,) = store(start().port, slices(1, RescaleType="MGML"))
    assert answer.Status == 0xA900
    assert answer.ErrorComment.startswith("not a CT slice: rescale type MGML")


def test_only_what_can_be_decoded_is_offered() -> None:
    """Pillow decodes only JPEG Extended of 8 bits, which is not used for CT."""
    offered = transfer_syntaxes()
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        plugins = set(pydicom.pixels.get_decoder(syntax).available_plugins)
        assert (syntax in offered) == bool(plugins - {"pillow"})
    assert {ExplicitVRLittleEndian, RLELossless} <= set(offered)


def test_a_slice_without_uids_is_refused(start: Start, until: Until) -> None:
    (without,) = slices(1)
    del without.StudyInstanceUID
    (answer,) = store(start().port, [without])
    assert answer.Status == 0xC001
    assert answer.ErrorComment.startswith("no StudyInstanceUID")


def test_an_mr_series_is_refused_at_the_association_and_by_its_header(start: Start) -> None:
    node = start()
    assoc = connect(node.port, classes=[MR, CT])
    assert [cx.abstract_syntax for cx in assoc.rejected_contexts] == [MR]
    (disguised,) = slices(1, Modality="MR")
    answer = assoc.send_c_store(disguised)
    assert (answer.Status, answer.ErrorComment) == (0xA900, answer.ErrorComment)
    assert answer.ErrorComment.startswith("not a CT slice")
    assoc.release()


def test_a_localiser_is_refused(start: Start) -> None:
    (localiser,) = slices(1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (answer,) = store(start().port, [localiser])
    assert answer.Status == 0xA900 and "localiser" in answer.ErrorComment


def mixed() -> list[Dataset]:
    small = make_ct(noise(9, (256, 256)), ImagePositionPatient=[-180, -180, 50])
    return [*slices(2), small]


def test_a_slice_of_another_size_is_refused_and_the_others_are_scored(
    start: Start, pacs: Pacs, until: Until
) -> None:
    answers = store(start().port, mixed())
    assert statuses(answers) == [0, 0, 0xC000]
    assert "256x256 pixels" in answers[2].ErrorComment
    until(lambda: pacs.received)
    assert len(referenced(pacs.received[0])) == 2


def test_with_resample_mixed_sizes_get_a_report_without_a_map(
    start: Start, pacs: Pacs, until: Until, logged: Logged
) -> None:
    assert statuses(store(start(resample=True, maps=True).port, mixed())) == [0, 0, 0]
    until(lambda: pacs.received)
    assert len(referenced(pacs.received[0])) == 3 and pacs.of(MAP) == []
    logged("only a report, without a map")


def test_damaged_pixels_are_left_out_of_the_report(start: Start, pacs: Pacs, until: Until) -> None:
    good = slices(2)
    mask = make_ct(np.zeros((512, 512), np.int16), ImagePositionPatient=[-180, -180, 90])
    assert statuses(store(start().port, [*good, mask])) == [0, 0, 0]
    until(lambda: pacs.received)
    assert sorted(referenced(pacs.received[0])) == sorted(ds.SOPInstanceUID for ds in good)


@pytest.mark.parametrize("padding", [None, -2000], ids=["whole-field", "padded-circle"])
def test_slices_without_a_body_at_the_ends_are_left_out_of_the_report(
    start: Start, pacs: Pacs, until: Until, logged: Logged, padding: int | None
) -> None:
    air = np.random.default_rng(1).normal(-1000, 15, (512, 512)).astype(np.int16)
    holder = air.copy()
    holder[100:400, 200:203] = holder[100:400, 300:303] = -200
    images = [holder, air, noise(), noise(1), air]
    tags = {} if padding is None else {"intercept": 0, "PixelPaddingValue": padding}
    if padding is not None:
        y, x = np.ogrid[-255.5:256, -255.5:256]
        for image in images:
            image[x * x + y * y > 256**2] = padding
    sent = [
        make_ct(image, ImagePositionPatient=[-180, -180, 5 * i], InstanceNumber=i + 1, **tags)
        for i, image in enumerate(images)
    ]
    node = start(metrics_port=0)
    assert statuses(store(node.port, sent)) == [0] * 5
    log = logged("report sent to")
    (report,) = pacs.received
    assert sorted(referenced(report)) == sorted(ds.SOPInstanceUID for ds in sent[2:4])
    assert comment(report).endswith("Left out at the ends of the series: 3 slices without a body.")
    assert "left out at its ends: 3 slices without a body" in log and "2 slices scored" in log
    url = f"http://127.0.0.1:{node.metrics_port}/metrics"
    metrics = urllib.request.urlopen(url, timeout=10).read().decode()
    assert 'clinreadnet_slices_left_out_total{reason="no body"} 3.0' in metrics
    assert 'reason="damaged"} 0.0' in metrics and "clinreadnet_slices_scored_total 2.0" in metrics


def test_a_series_without_a_scorable_slice_is_given_up_with_a_reason(
    start: Start, pacs: Pacs, until: Until, tmp_path: Path, logged: Logged
) -> None:
    mask = make_ct(np.zeros((512, 512), np.int16))
    node = start()
    store(node.port, [mask])
    until(lambda: not list((tmp_path / "spool" / "objects").iterdir()))
    logged("not scored, and its 1 object is removed")
    assert pacs.received == []
    assert statuses(store(node.port, [mask])) == [0]  # a failed series may be sent again


def test_a_full_spool_answers_out_of_resources(
    start: Start, pacs: Pacs, until: Until, tmp_path: Path
) -> None:
    node = start(spool_objects=2, quiet=3.0)
    sent = slices(3)
    answers = store(node.port, sent)
    assert statuses(answers) == [0, 0, 0xA700]
    assert answers[2].ErrorComment == "the spool is full"
    until(lambda: pacs.received)
    until(lambda: not list((tmp_path / "spool" / "outgoing").iterdir()))
    assert statuses(store(node.port, sent[2:])) == [0]
    until(lambda: len(pacs.received) == 2)
    uids = [uid for report in pacs.received for uid in referenced(report)]
    assert sorted(uids) == sorted(ds.SOPInstanceUID for ds in sent)


@pytest.mark.parametrize(
    "options", [{"spool_bytes": 500_000}, {"object_bytes": 500_000}], ids=["spool", "object"]
)
def test_too_many_bytes_answer_out_of_resources(start: Start, options: dict[str, int]) -> None:
    assert statuses(store(start(**options).port, slices(1))) == [0xA700]


def test_a_disk_that_fills_up_while_it_writes_answers_out_of_resources(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clinreadnet.node.receive.os.fsync", full)
        (answer,) = store(node.port, slices(1))
    assert answer.Status == 0xA700 and "No space left" in answer.ErrorComment
    assert list((tmp_path / "spool" / "objects").iterdir()) == []
    assert statuses(store(node.port, slices(1))) == [0]


def test_the_pacs_is_down_and_comes_back(
    start: Start, pacs: Pacs, until: Until, tmp_path: Path, logged: Logged
) -> None:
    pacs.stop()
    store(start().port, slices(2))
    until(lambda: len(list((tmp_path / "spool" / "outgoing").iterdir())) == 1)
    logged("cannot be reached (Connection refused): 1 object waits in the spool")
    pacs.start()
    until(lambda: pacs.received)
    until(lambda: not list((tmp_path / "spool" / "outgoing").iterdir()))
    assert len(pacs.received) == 1


def test_a_report_that_the_pacs_refuses_waits_and_is_sent_again(
    start: Start, pacs: Pacs, until: Until, logged: Logged
) -> None:
    pacs.status = lambda dataset: 0xA700 if len(pacs.received) == 1 else 0
    store(start().port, slices(2))
    until(lambda: len(pacs.received) == 2)
    assert len({ds.SOPInstanceUID for ds in pacs.received}) == 1
    logged("PACS refused the report (status A700); next attempt")


def test_an_ae_that_is_not_allowed_is_rejected(start: Start, logged: Logged) -> None:
    node = start(senders=parse_senders(["CT1"]))
    assert connect(node.port, title="OTHER").is_rejected
    assert connect(node.port, called="WRONG").is_rejected
    assoc = connect(node.port, title="CT1")
    assert assoc.is_established
    assoc.release()
    logged("connection refused: AE title")


def test_a_peer_of_another_address_is_hung_up_on(start: Start, logged: Logged) -> None:
    senders = (Peer(None, parse_senders(["A@10.0.0.0/8"])[0].networks),)
    assert not connect(start(senders=senders).port).is_established
    logged("connection refused: address")


def test_more_associations_than_allowed_are_rejected(start: Start) -> None:
    node = start(associations=2)
    associations = [connect(node.port) for _ in range(3)]
    assert [association.is_established for association in associations] == [True, True, False]
    assert associations[2].is_rejected
    for association in associations[:2]:
        association.release()


def test_a_monitor_sees_what_happened(start: Start, pacs: Pacs, until: Until) -> None:
    node = start(metrics_port=0)
    store(node.port, mixed())
    until(lambda: pacs.received)

    def read(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_port}{path}") as answer:
            return str(answer.read().decode())

    assert read("/healthz") == "ok"
    until(lambda: 'clinreadnet_objects_sent_total{outcome="sent"} 1.0' in read("/metrics"))
    expected = {
        'clinreadnet_objects_received_total{status="0000"} 2.0',
        'clinreadnet_objects_received_total{status="C000"} 1.0',
        'clinreadnet_series_total{outcome="scored"} 1.0',
        "clinreadnet_slices_scored_total 2.0",
        "clinreadnet_spool_outgoing 0.0",
        "clinreadnet_store_seconds_count 3.0",
    }
    until(lambda: expected <= set(read("/metrics").splitlines()))
    with pytest.raises(urllib.error.HTTPError, match="404"):
        read("/other")


def test_a_destination_without_a_host_keeps_the_report(
    start: Start, tmp_path: Path, logged: Logged
) -> None:
    store(start(destination=Destination("no-such-host.invalid", 104, "PACS")).port, slices(1))
    logged("cannot be reached")
    assert len(list((tmp_path / "spool" / "outgoing").iterdir())) == 1
