"""A PACS for tests of the node, which stores what it receives, and a scanner that sends."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from support.dicom_files import CT, ENHANCED_CT

REPORT = "1.2.840.10008.5.1.4.1.1.88.34"
MAP = "1.2.840.10008.5.1.4.1.1.30"
LITTLE_ENDIAN = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


class Pacs:
    """Stores reports and maps in memory.

    Attributes:
        title: AE title.
        port: port, the same after `stop` and `start`.
        received: all data sets, with those that were refused.
        status: function that returns the status of the answer to a data set.
    """

    def __init__(
        self,
        classes: Iterable[str] = (REPORT, MAP),
        context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.title = "PACS"
        self.port = port
        self.received: list[Dataset] = []
        self.status: Callable[[Dataset], int] = lambda dataset: 0
        self._context = context
        self._entity = AE(self.title)
        for sop_class in classes:
            self._entity.add_supported_context(sop_class, LITTLE_ENDIAN)
        self._server: Any = None
        self.start()

    def start(self) -> None:
        self._server = self._entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            ssl_context=self._context,
            evt_handlers=[(evt.EVT_C_STORE, self._store)],
        )
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _store(self, event: Any) -> int:
        dataset = event.dataset
        self.received.append(dataset)
        return self.status(dataset)

    def of(self, sop_class: str) -> list[Dataset]:
        return [ds for ds in self.received if ds.SOPClassUID == sop_class]


def connect(
    port: int,
    *,
    title: str = "CT1",
    called: str = "CLINREADNET",
    classes: Iterable[str] = (CT, ENHANCED_CT),
    syntaxes: Iterable[str] = LITTLE_ENDIAN,
    context: ssl.SSLContext | None = None,
) -> Association:
    """Request an association; the caller checks whether it is established."""
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 120
    for sop_class in classes:
        entity.add_requested_context(sop_class, list(syntaxes))
    entity.add_requested_context(Verification)
    return entity.associate(
        "127.0.0.1",
        port,
        ae_title=called,
        tls_args=None if context is None else (context, "localhost"),
    )


def referenced(report: Dataset) -> list[str]:
    """Return the SOP instance UIDs of the scored slices of a report."""
    uids: list[str] = []

    def walk(items: Iterable[Dataset]) -> None:
        for item in items:
            for reference in item.get("ReferencedSOPSequence", ()):
                uids.append(str(reference.ReferencedSOPInstanceUID))
            if item.get("ValueType") != "NUM":  # which refers to places in slices
                walk(item.get("ContentSequence", ()))

    walk(report.ContentSequence)
    return uids
