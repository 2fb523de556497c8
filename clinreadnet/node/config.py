"""Configuration of a node: its title and port, the admitted senders and the destination."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.files import read_regular
from clinreadnet.limits import MIB
from clinreadnet.scoring.site_rules import NO_RULES, SiteRules

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("::1/128"),
)

_TITLE = re.compile(r"[ -\[\]-~]{1,16}")  # the default character repertoire without the backslash
_URL = re.compile(r"[!-~]+")
_AUTHORIZATION = re.compile(rb"[!-~]+ [ -~]+")
_PORTS = range(1, 2**16)


@dataclass(frozen=True)
class Destination:
    """An application entity (AE) to which reports are sent."""

    host: str
    port: int
    title: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}:{self.title}"


@dataclass(frozen=True)
class DicomWeb:
    """A DICOMweb service to which reports are sent by STOW-RS.

    Attributes:
        url: its base URL, without a slash at the end.
        authorization: value of the header ``Authorization``, or None.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.url

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "https"


@dataclass(frozen=True)
class Peer:
    """An admitted sender: an AE title, or None for any, and the networks of its addresses."""

    title: str | None
    networks: tuple[Network, ...] = LOOPBACK

    def admits(self, title: str, address: str) -> bool:
        """Return whether an association with this AE title and address is accepted."""
        return self.title in (None, title) and self.reaches(address)

    def reaches(self, address: str) -> bool:
        """Return whether a connection from this address is accepted."""
        try:
            place = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(place, ipaddress.IPv6Address) and place.ipv4_mapped is not None:
            place = place.ipv4_mapped
        return any(place in network for network in self.networks)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files with the node's certificate, its key, and the authority that signs its peers."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class NodeConfig:
    """Settings of a node.

    Attributes:
        title: AE title of the node.
        host: address on which the node listens.
        port: port on which the node listens; 0 selects a free port.
        spool: folder of the objects that are not yet scored or sent.
        destination: destination of the reports.
        senders: admitted senders; all others are refused.
        maps: whether to send a parametric map of each series too.
        map_resolution: resolution of the maps, see `clinreadnet.dicom.quality_map.write_maps`.
        figures: whether reports hold noise, size, dose and other figures of each slice.
        rules: rules of the site, which are applied to the scores.
        resample: whether to accept slices that are not 512x512.
        quiet: seconds without a new slice after which a series is complete.
        associations: largest number of simultaneous associations.
        object_bytes: size of the largest accepted object.
        spool_bytes: largest total size of the objects in the spool.
        spool_objects: largest number of objects in the spool.
        keep_days: days after which an unsent report is removed and the hashes of known slices are
            forgotten.
        tls: files for TLS, or None for plain connections.
        send_tls: whether to connect to the destination with TLS and the files of ``tls``. A
            DICOMweb service with https is otherwise checked with the system's authorities.
        metrics_port: port of ``/healthz`` and ``/metrics`` on 127.0.0.1, or None for neither.
    """

    title: str
    host: str
    port: int
    spool: Path
    destination: Destination | DicomWeb
    senders: tuple[Peer, ...] = (Peer(None),)
    maps: bool = False
    map_resolution: str = "patch"
    figures: bool = False
    rules: SiteRules = NO_RULES
    resample: bool = False
    quiet: float = 30.0
    associations: int = 16
    object_bytes: int = 512 * MIB
    spool_bytes: int = 20 * 1024 * MIB
    spool_objects: int = 100_000
    keep_days: float = 30.0
    tls: TlsFiles | None = None
    send_tls: bool = False
    metrics_port: int | None = None


def check_title(name: str, title: str) -> str:
    """Return an AE title without leading and trailing spaces.

    Args:
        name: name of the parameter, for the error.
        title: 1 to 16 ASCII characters without a backslash.

    Raises:
        InputError: ``title`` is not an AE title.
    """
    stripped = title.strip(" ")
    if not _TITLE.fullmatch(stripped):
        raise InputError(
            f"{name}={title!r}: not an AE title; give 1 to 16 ASCII characters without a backslash"
        )
    return stripped


def parse_destination(text: str) -> Destination | DicomWeb:
    """Parse ``HOST:PORT:AET`` or the URL of a DICOMweb service.

    An IPv6 address is enclosed in brackets.

    Raises:
        InputError: ``text`` has another form.
    """
    if "://" in text:
        return _parse_service(text)
    host, _, rest = text.partition("]:") if text.startswith("[") else text.partition(":")
    port, _, title = rest.partition(":")
    host = host.removeprefix("[")
    if not host or not title or not port.isascii() or not port.isdigit():
        raise InputError(
            f"send_to={text!r}: give HOST:PORT:AET, such as 127.0.0.1:4242:ORTHANC, or the URL of "
            "a DICOMweb service"
        )
    if int(port) not in _PORTS:
        raise InputError(f"send_to={text!r}: a port is {_PORTS[0]} to {_PORTS[-1]}")
    return Destination(host, int(port), check_title("send_to", title))


def authorize(destination: Destination | DicomWeb, file: Path) -> DicomWeb:
    """Return a DICOMweb service with the credentials of a file.

    Args:
        destination: result of `parse_destination`.
        file: one line, the value of the header ``Authorization``: ``Bearer ...``, ``Basic ...``.

    Raises:
        InputError: the destination is not a DICOMweb service, the credentials would leave this
            machine without TLS, or the file holds something else.
    """
    if not isinstance(destination, DicomWeb):
        raise InputError("`send_authorization` needs the URL of a DICOMweb service as `send_to`")
    host = str(urlsplit(destination.url).hostname)
    if not (destination.secure or host == "localhost" or Peer(None).reaches(host)):
        raise InputError(
            f"send_to={destination.url!r}: `send_authorization` would be sent without TLS; give a "
            "URL with https"
        )
    line = read_regular(file, limits.KEYS).strip()
    if not _AUTHORIZATION.fullmatch(line):
        raise InputError(f"{file}: give one line, such as `Bearer ...` or `Basic ...`")
    return replace(destination, authorization=line.decode("ascii"))


def parse_senders(texts: Sequence[str]) -> tuple[Peer, ...]:
    """Parse ``AET``, ``AET@ADDRESS`` or ``AET@NETWORK``; the default address is loopback.

    Args:
        texts: the senders; if empty, every AE title on this machine is admitted and no other
            sender.

    Raises:
        InputError: an item has another form.
    """
    return tuple(map(_parse_sender, texts)) or (Peer(None),)


def _parse_service(text: str) -> DicomWeb:
    wrong = f"send_to={_without_login(text)!r}: "
    try:
        url = urlsplit(text)
        port = url.port  # raises if it is not one
    except ValueError:
        raise InputError(f"{wrong}not a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise InputError(f"{wrong}give a URL such as https://pacs.example.org/dicom-web")
    if "@" in url.netloc:
        raise InputError(f"{wrong}give the login in a file, with `send_authorization`")
    if url.query or url.fragment or not _URL.fullmatch(text):
        raise InputError(f"{wrong}give the service's base URL, ASCII without spaces, ? and #")
    return DicomWeb(text.rstrip("/"))


def _without_login(text: str) -> str:
    scheme, _, rest = text.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _parse_sender(text: str) -> Peer:
    title, at, place = text.rpartition("@") if "@" in text else (text, "", "")
    wanted = None if title == "*" else check_title("allow", title)
    if not at:
        return Peer(wanted)
    try:
        return Peer(wanted, (ipaddress.ip_network(place),))
    except ValueError:
        raise InputError(
            f"allow={text!r}: give AET, AET@ADDRESS or AET@NETWORK, such as CT1@10.0.0.0/24; the "
            "host bits of a network are zero"
        ) from None
