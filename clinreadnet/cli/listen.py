"""`clinreadnet listen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli import options
from clinreadnet.cli.common import open_session
from clinreadnet.errors import InputError
from clinreadnet.limits import MIB
from clinreadnet.node.config import NodeConfig


def listen(
    *,
    spool: Annotated[
        Path,
        typer.Option(help="Folder for waiting objects; created if missing.", show_default=False),
    ],
    send_to: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT:AET|URL",
            help="Destination of the reports: an AE title, or the URL of a DICOMweb service.",
            show_default=False,
        ),
    ],
    bundle: options.Bundle = None,
    aet: Annotated[str, typer.Option(help="AE title of the node.")] = "CLINREADNET",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 11112,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all addresses of this machine.")
    ] = "127.0.0.1",
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AET[@NETWORK]",
            help="Accepted senders, such as CT1@10.0.0.7; repeatable, `*` for any title. Without "
            "an address, only this machine. Default: any title of this machine.",
        ),
    ] = None,
    map: Annotated[
        bool, typer.Option("--map", help="Also send a parametric map of each series.")
    ] = False,
    map_resolution: options.MapResolution = "patch",
    resample: options.Resample = False,
    figures: options.Figures = False,
    site: options.SiteFiles,
    quiet: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds without a new slice that complete a series."),
    ] = NodeConfig.quiet,
    associations: Annotated[
        int, typer.Option(min=1, max=256, help="Largest number of concurrent associations.")
    ] = NodeConfig.associations,
    object_mib: Annotated[
        int, typer.Option(min=1, max=2048, help="Largest accepted object in MiB.")
    ] = NodeConfig.object_bytes // MIB,
    spool_mib: Annotated[
        int, typer.Option(min=1, help="Limit of waiting MiB; beyond it, 0xA700 is returned.")
    ] = NodeConfig.spool_bytes // MIB,
    spool_objects: Annotated[
        int, typer.Option(min=1, help="Limit of waiting objects; beyond it, 0xA700 is returned.")
    ] = NodeConfig.spool_objects,
    keep_days: Annotated[
        float,
        typer.Option(min=0.01, help="Days to keep undelivered reports and known hashes."),
    ] = NodeConfig.keep_days,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate of the node (PEM); turns TLS on.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM, no password).")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Authority that signs the certificates of peers (PEM).")
    ] = None,
    send_tls: Annotated[
        bool, typer.Option("--send-tls", help="Also send with TLS, with the same files.")
    ] = False,
    send_authorization: Annotated[
        Path | None,
        typer.Option(
            help="File with the value of the header Authorization, such as `Bearer ...`, for a "
            "DICOMweb service."
        ),
    ] = None,
    metrics_port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port of /healthz and /metrics on loopback; 0 for none."
        ),
    ] = 0,
    session_options: options.SessionArguments,
    device: options.Device = 0,
) -> None:
    """Run a DICOM node that receives CT series and sends quality reports.

    Answers C-ECHO, and C-STORE of CT and Enhanced CT. A complete series is scored, and its
    structured report is sent to the destination until it is accepted. An object is on disk before
    its C-STORE is answered, so the same command continues after a crash. Without `--allow`, only
    this machine may send. SIGTERM ends the node. Research use only.

    Examples:
    - `clinreadnet listen --spool spool --send-to 127.0.0.1:4242:ORTHANC`
    - `clinreadnet listen --spool spool --send-to pacs:104:PACS --host 0.0.0.0 --allow CT1@10.0.0.7`
    - `clinreadnet listen --spool spool --send-to https://pacs.example.org/dicom-web`
    - `clinreadnet listen --spool spool --send-to 127.0.0.1:4242:ORTHANC --map --metrics-port 9112`
    - `clinreadnet listen --spool spool --send-to pacs:104:PACS --figures --limits limits.toml`
    - `clinreadnet listen --spool spool --send-to pacs:104:PACS --site-map site-map.json`
    """
    from clinreadnet.console import note
    from clinreadnet.dicom.quality_map import check_resolution
    from clinreadnet.node.config import (
        DicomWeb,
        TlsFiles,
        authorize,
        check_title,
        parse_destination,
        parse_senders,
    )
    from clinreadnet.node.log import quiet_libraries
    from clinreadnet.node.node import Node
    from clinreadnet.runtime.bundle.default import find_bundle
    from clinreadnet.spec import RESEARCH_USE

    given = (tls_cert, tls_key, tls_ca)
    tls = None
    if tls_cert is not None and tls_key is not None and tls_ca is not None:
        tls = TlsFiles(tls_cert, tls_key, tls_ca)
    elif given != (None, None, None) or send_tls:
        raise InputError("TLS needs `tls_cert`, `tls_key` and `tls_ca`; give all three")
    destination = parse_destination(send_to)
    if send_tls and isinstance(destination, DicomWeb) and not destination.secure:
        raise InputError(f"send_to={send_to!r}: `send_tls` needs a URL with https")
    if send_authorization is not None:
        destination = authorize(destination, send_authorization)
    rules = site.read(session_options.trusted_keys)
    rules.check(figures=figures)
    config = NodeConfig(
        title=check_title("aet", aet),
        host=host,
        port=port,
        spool=spool,
        destination=destination,
        senders=parse_senders(allow or ()),
        maps=map,
        map_resolution=check_resolution(map_resolution),
        resample=resample,
        figures=figures,
        rules=rules,
        quiet=quiet,
        associations=associations,
        object_bytes=object_mib * MIB,
        spool_bytes=spool_mib * MIB,
        spool_objects=spool_objects,
        keep_days=keep_days,
        tls=tls,
        send_tls=send_tls,
        metrics_port=metrics_port or None,
    )
    bundle = find_bundle(bundle)
    with (
        Node(config) as node,
        open_session(bundle, session_options, device=device) as session,
    ):
        quiet_libraries()
        try:
            node.start(session)
            where = f"{config.title} listens on {host}:{node.port}, sends to {config.destination}"
            monitor = f", /metrics on 127.0.0.1:{node.metrics_port}" if node.metrics_port else ""
            note(f"{where}{monitor}, {session.backend}. {RESEARCH_USE}")
            if rules.site_map is not None:
                note(rules.site_map.line)
            node.wait()
        finally:
            node.stop()  # before the session is closed
