"""Random invalid data sets and PDUs, and the reaction of a node to each.

A case is made from its kind and its number, so that it can be made again.
"""

from __future__ import annotations

import random
import struct
import time
from collections import Counter
from collections.abc import Callable

from pydicom.dataset import Dataset

from support.dicom_files import CT, make_ct, noise
from support.raw_peer import (
    ABORT,
    ACCEPT,
    ASSOCIATE,
    DATA,
    REJECT,
    RELEASE,
    RawPeer,
    associate_request,
    command,
    pdu,
    pdv,
)

DEPTH = 10_000
INSTANCE = "1.2.826.0.1.3680043.8.498.77"
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"OD")
_NEEDED = ("SOPClassUID", "StudyInstanceUID", "Rows", "Columns", "BitsAllocated", "RescaleSlope")


def encoded(dataset: Dataset) -> bytes:
    """Return a data set in Explicit VR Little Endian, without meta information."""
    from pynetdicom.dsutils import encode

    content = encode(dataset, False, True)
    assert content is not None
    return content


def _base() -> tuple[bytes, int]:
    """Return a valid data set, and the length of the elements before its pixels."""
    dataset = make_ct(noise(1), SOPInstanceUID=INSTANCE)
    content = encoded(dataset)
    return content, content.index(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW")


BASE, HEADER = _base()


def _element(group: int, number: int, vr: bytes, length: int, value: bytes) -> bytes:
    head = struct.pack("<HH", group, number) + vr
    if vr in _LONG:
        return head + struct.pack("<HL", 0, length) + value
    return head + struct.pack("<H", length & 0xFFFF) + value


def _place(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    assert tag is not None
    return BASE.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF))


def truncated(draw: random.Random) -> bytes:
    return BASE[: draw.choice([draw.randrange(HEADER), draw.randrange(HEADER, len(BASE))])]


def wrong_vr(draw: random.Random) -> bytes:
    """Return an element with a VR whose length has another form."""
    place = _place(draw.choice(_NEEDED))
    vr = draw.choice([*_LONG, bytes(draw.randrange(256) for _ in range(2))])
    return BASE[: place + 4] + vr + BASE[place + 6 :]


def nested(draw: random.Random) -> bytes:
    """Return `DEPTH` nested sequences, before the rest or cut off."""
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    tag = draw.choice([(0x0008, 0x1115), (0x5200, 0x9229), (0x5200, 0x9230)])
    opening = _element(*tag, b"SQ", 0xFFFFFFFF, b"") + item
    closing = struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    whole = draw.random() < 0.5
    middle = opening * DEPTH + (closing * DEPTH if whole else b"")
    return BASE[:HEADER] + middle + BASE[HEADER:] if tag[0] == 0x5200 else middle + BASE


def too_long(draw: random.Random) -> bytes:
    """Return an element with a length of about 4 GiB."""
    length = draw.choice([0xFFFFFFFE, 0xFFFFFFF0, 0x80000000, 0xF0000000])
    if draw.random() < 0.5:
        return BASE[:HEADER] + _element(0x7FE0, 0x0010, b"OW", length, b"\0" * 100)
    place = _place(draw.choice(_NEEDED))
    wrong = _element(0x0008, 0x0001, draw.choice(_LONG), length, b"")
    return BASE[:place] + wrong + BASE[place:HEADER]


def no_dicom(draw: random.Random) -> bytes:
    return bytes(draw.randrange(256) for _ in range(draw.choice([1, 7, 8, 100, 5000])))


def missing(draw: random.Random) -> bytes:
    keyword = draw.choice([*_NEEDED, "SOPInstanceUID", "PixelData"])
    if keyword == "PixelData":
        return BASE[:HEADER]
    place = _place(keyword)
    (length,) = struct.unpack_from("<H", BASE, place + 6)
    return BASE[:place] + BASE[place + 8 + length :]


DATA_SETS: dict[str, Callable[[random.Random], bytes]] = {
    "truncated": truncated,
    "wrong VR": wrong_vr,
    "nested to 10,000": nested,
    "4 GiB lengths": too_long,
    "not DICOM": no_dicom,
    "element missing": missing,
}


def before_association(draw: random.Random) -> bytes:
    """Return bytes that a peer sends instead of a request for an association."""
    good = associate_request()
    return draw.choice(
        [
            pdu(draw.choice([0, 8, 9, 0x47, 255]), b"\0" * 10),
            pdu(ASSOCIATE, good[6:], length=0xFFFFFFFF),
            pdu(ASSOCIATE, good[6 : draw.randrange(7, len(good))]),
            good[: draw.randrange(1, len(good))],
            pdu(draw.choice([ACCEPT, REJECT, DATA, RELEASE]), bytes(draw.randrange(4, 40))),
            _flipped(good, draw),
            b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        ]
    )


def in_association(draw: random.Random) -> bytes:
    """Return bytes that a peer sends instead of a good request in an association."""
    request = command(0x0001, CT, instance=INSTANCE)
    return draw.choice(
        [
            pdu(DATA, pdv(3, 3, request), length=0xFFFFFFFF),
            pdu(draw.choice([0, 8, 200]), b"\0" * 10),
            pdu(DATA, struct.pack(">LBB", 0xFFFFFFF0, 3, 3) + request),
            pdu(DATA, struct.pack(">LBB", 1, 3, 3) + request),
            pdu(DATA, pdv(99, 3, request) + pdv(99, 2, BASE[:1000])),
            pdu(DATA, pdv(3, 3, bytes(draw.randrange(256) for _ in range(200)))),
            pdu(DATA, pdv(3, 3, command(draw.choice([0x0020, 0x0140, 0x7777]), CT))),
            pdu(DATA, pdv(3, 3, request[: draw.randrange(1, len(request))])),
            pdu(DATA, pdv(3, 1, b"\0" * 50_000)) * 3,
            pdu(DATA, pdv(3, 2, BASE[:1000])) * 2,
            pdu(DATA, pdv(3, 3, _nested_command())),
            associate_request(),
            pdu(DATA, b"\0" * draw.randrange(1, 6)),
        ]
    )


def _nested_command() -> bytes:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return (struct.pack("<HHL", 0x0008, 0x1115, 0xFFFFFFFF) + item) * 3000


def _flipped(content: bytes, draw: random.Random) -> bytes:
    """Return a request with another protocol, called title or context item."""
    changed = bytearray(content)
    changed[draw.choice([7, 10, 74, draw.randrange(10, 26)])] ^= draw.randrange(1, 128)
    return bytes(changed)


PDUS = {"instead of an association": before_association, "inside an association": in_association}
KINDS = (*DATA_SETS, *PDUS)
"""The kinds of cases, in the order in which they are drawn."""


def play(port: int, kind: str, number: int) -> str:
    """Send a case and return what happened.

    Returns:
        ``C000`` or another status, ``accepted``, ``rejected``, ``aborted`` or ``closed``.

    Raises:
        TimeoutError: there was no answer.
    """
    draw = random.Random(f"{kind}/{number}")
    with RawPeer(port) as peer:
        if kind in DATA_SETS:
            assert peer.associate()
            status = peer.store(INSTANCE, DATA_SETS[kind](draw))
            if status == 0:
                return "accepted"
            return "aborted" if status is None else f"{status:04X}"
        if kind == "inside an association":
            assert peer.associate()
        try:
            peer.send(PDUS[kind](draw))
            peer.end()
        except ConnectionError:
            return "closed"
        answer = peer.read()
        if answer is None:
            return "closed"
        words = {ACCEPT: "accepted", REJECT: "rejected", ABORT: "aborted", DATA: "accepted"}
        return words.get(answer[0], f"PDU {answer[0]}")


def play_all(port: int, cases: int) -> dict[str, Counter[str]]:
    """Play cases of every kind in turn; after each the node must answer an echo.

    Args:
        port: port of the node.
        cases: number of cases, over all kinds.

    Returns:
        Number of each outcome, by kind.
    """
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for number in range(cases):
        kind = KINDS[number % len(KINDS)]
        outcomes[kind][play(port, kind, number)] += 1
        assert _echoes(port), f"no echo after {kind}/{number}"
    return outcomes


def _echoes(port: int) -> bool:
    """Return whether the node answers an echo. An ended association frees its place late."""
    for _ in range(50):
        with RawPeer(port) as peer:
            if peer.associate():
                answered = peer.echo() == 0
                peer.release()
                return answered
        time.sleep(0.2)
    return False
