"""Options of the node as text."""

from __future__ import annotations

import pytest

from clinreadnet.errors import InputError
from clinreadnet.node.config import Destination, check_title, parse_destination, parse_senders


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:4242:ORTHANC", Destination("127.0.0.1", 4242, "ORTHANC")),
        ("pacs.example.org:104:MAIN PACS", Destination("pacs.example.org", 104, "MAIN PACS")),
        ("[::1]:104:PACS", Destination("::1", 104, "PACS")),
    ],
)
def test_a_destination_is_read_and_written(text: str, expected: Destination) -> None:
    assert parse_destination(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "PACS", "host:104", "host:104:", "host:port:PACS", ":104:PACS", "host:70000:PACS"]
    + ["host:0:PACS", "host:104:A_TITLE_OF_17_CHAR", "host:104:A\\B", "host:١:PACS"],
)
def test_a_wrong_destination_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="^send_to="):
        parse_destination(text)


@pytest.mark.parametrize("title", ["", "   ", "A" * 17, "A\\B", "Ä", "A\n"])
def test_a_wrong_title_is_refused(title: str) -> None:
    with pytest.raises(InputError, match="^aet="):
        check_title("aet", title)


@pytest.mark.parametrize(
    ("texts", "admitted", "refused"),
    [
        ([], [("ANY", "127.0.0.1"), ("ANY", "::1")], [("ANY", "10.0.0.1")]),
        (["CT1"], [("CT1", "127.0.0.1")], [("CT2", "127.0.0.1"), ("CT1", "10.0.0.1")]),
        (["CT1@10.0.0.7"], [("CT1", "10.0.0.7")], [("CT1", "10.0.0.8"), ("CT1", "127.0.0.1")]),
        (["*@10.0.0.0/8"], [("ANY", "10.9.9.9")], [("ANY", "11.0.0.1"), ("ANY", "nonsense")]),
        (["A@10.0.0.1", "B"], [("A", "10.0.0.1"), ("B", "::1")], [("B", "10.0.0.1")]),
        (["CT1@10.0.0.7"], [("CT1", "::ffff:10.0.0.7")], [("CT1", "::ffff:10.0.0.8")]),
    ],
)
def test_who_may_send(
    texts: list[str], admitted: list[tuple[str, str]], refused: list[tuple[str, str]]
) -> None:
    senders = parse_senders(texts)
    for title, address in admitted:
        assert any(sender.admits(title, address) for sender in senders), (title, address)
    for title, address in refused:
        assert not any(sender.admits(title, address) for sender in senders), (title, address)


@pytest.mark.parametrize("text", ["@10.0.0.1", "CT1@", "CT1@host", "CT1@10.0.0.1/8", "Ä@10.0.0.1"])
def test_a_wrong_sender_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="^allow="):
        parse_senders([text])
