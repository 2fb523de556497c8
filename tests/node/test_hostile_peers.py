"""Peers that send invalid or endless data, or nothing: the node keeps running."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.dicom_files import CT
from support.hostile_peer import BASE, INSTANCE, KINDS, play_all
from support.raw_peer import ABORT, DATA, VERIFICATION, RawPeer, command, pdu, pdv

from clinreadnet.node import upper_layer
from clinreadnet.node.node import Node
from clinreadnet.node.upper_layer import ObjectBuffer, ReceiveMemory

Start = Callable[..., Node]


def test_every_kind_of_nonsense_is_refused(start: Start, tmp_path: Path) -> None:
    node = start(quiet=3600)
    outcomes = play_all(node.port, 8 * len(KINDS))
    assert not [f"{kind}: {n}" for kind, counts in outcomes.items() if (n := counts["accepted"])]
    for kind in list(KINDS)[:-2]:
        assert all(len(outcome) == 4 for outcome in outcomes[kind]), outcomes  # a status
    assert list((tmp_path / "spool" / "objects").iterdir()) == []
    assert node.problem() is None


def test_a_pdu_of_four_gigabytes_is_aborted_before_it_comes(start: Start) -> None:
    with RawPeer(start().port) as peer:
        assert peer.associate()
        peer.send(pdu(DATA, b"", length=0xFFFFFFFF))
        received = peer.read()
        assert received is not None and received[0] == ABORT


def test_a_request_without_what_it_needs_is_aborted(start: Start) -> None:
    with RawPeer(start().port, timeout=30) as peer:
        assert peer.associate()
        peer.send(pdu(DATA, pdv(3, 3, command(0x0001, CT))))  # no SOP instance, no data set
        received = peer.read()
        assert received is not None and received[0] == ABORT


def test_a_peer_that_does_not_wait_for_answers_is_aborted(start: Start) -> None:
    node = start()
    with RawPeer(node.port) as peer:
        assert peer.associate()
        peer.send(pdu(DATA, pdv(1, 3, command(0x0030, VERIFICATION))) * 100)
        kinds = []
        while (received := peer.read()) is not None:
            kinds.append(received[0])
        assert kinds[-1:] in ([ABORT], []) or len(kinds) < 100
    assert node.problem() is None


def test_a_peer_that_stops_in_a_pdu_is_hung_up_on(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upper_layer, "NETWORK_SECONDS", 1.0)
    with RawPeer(start().port) as peer:
        peer.send(b"\x01\x00\x00\x00\x01\x00half")
        assert peer.read() is None


def test_connections_that_say_nothing_do_not_keep_others_out(start: Start) -> None:
    node = start(associations=2)
    silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(2)]
    with RawPeer(node.port) as peer:
        peer.associate()  # accepted or rejected, but answered
    for connection in silent:
        connection.close()


def test_connections_that_ended_take_no_place(start: Start) -> None:
    node = start(associations=2)
    for _ in range(6):
        with RawPeer(node.port) as peer:
            peer.send(b"GET / HTTP/1.1\r\n\r\n")
            peer.end()
            peer.read()
    end = time.monotonic() + 20  # less than the half minute that a request may take
    while True:
        with RawPeer(node.port) as peer:
            if peer.associate():
                break
        assert time.monotonic() < end, "the places are still taken"
        time.sleep(0.2)


def test_a_buffer_keeps_nothing_beyond_its_limit_and_gives_the_memory_back() -> None:
    memory = ReceiveMemory(100)
    buffer = ObjectBuffer(80, memory)
    buffer.write(b"0" * 60)
    assert not memory.take(50)
    buffer.write(b"0" * 30)
    assert buffer.overflowed and buffer.getvalue() == b""
    assert memory.take(100)
    memory.give(100)
    other = ObjectBuffer(80, memory)
    other.write(b"0" * 80)
    del other  # the association ended
    assert memory.take(100)


def test_an_object_that_is_not_the_one_of_its_request_is_refused(start: Start) -> None:
    with RawPeer(start().port) as peer:
        assert peer.associate()
        assert peer.store("1.2.3", BASE) == 0xA900
        assert peer.store(INSTANCE, BASE) == 0


def test_objects_at_one_time_share_the_memory(start: Start, tmp_path: Path) -> None:
    node = start(object_bytes=len(BASE) - 1000)
    with RawPeer(node.port) as peer:
        assert peer.associate()
        assert peer.store("1.2.3", BASE) == 0xA700
        assert peer.echo() == 0
