"""The receiver: answers C-ECHO and stores CT images from C-STORE in the spool."""

from __future__ import annotations

import errno
import os
import sqlite3
import ssl
import time
from functools import partial
from typing import Any

import pydicom
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

from clinreadnet.data.dicom_container import CT_CLASSES
from clinreadnet.data.dicom_pixels import can_decode
from clinreadnet.errors import InputError
from clinreadnet.node.config import NodeConfig
from clinreadnet.node.intake import NO_ROOM, NOT_READABLE, OTHER_CONTENT, SUCCESS, Refused, inspect
from clinreadnet.node.log import HASH_DIGITS, log
from clinreadnet.node.metrics import Metrics
from clinreadnet.node.quota import Full
from clinreadnet.node.spool import OtherContent, Spool
from clinreadnet.node.upper_layer import NETWORK_SECONDS, BoundedServer, ObjectBuffer, ReceiveMemory

_PDU_BYTES = 2**17  # announced
_BUFFERS = 2  # of the largest object, over all associations
_COMMENT = 64  # characters of an ErrorComment
_FIRST = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)


class Receiver:
    """The server of a node."""

    def __init__(
        self, config: NodeConfig, spool: Spool, metrics: Metrics, context: ssl.SSLContext | None
    ) -> None:
        """Bind the port. Connections wait until `start`.

        Raises:
            InputError: the port cannot be bound.
        """
        self._config = config
        self._spool = spool
        self._metrics = metrics
        self._most = config.object_bytes
        self._memory = ReceiveMemory(_BUFFERS * self._most)
        entity = AE(ae_title=config.title)
        entity.require_called_aet = True
        entity.maximum_associations = config.associations
        entity.maximum_pdu_size = _PDU_BYTES
        entity.network_timeout = NETWORK_SECONDS
        entity.acse_timeout = NETWORK_SECONDS / 2
        entity.add_supported_context(Verification)
        for sop_class in sorted(CT_CLASSES):
            entity.add_supported_context(sop_class, transfer_syntaxes())
        try:
            self._server = BoundedServer(
                entity,
                (config.host, config.port),
                context,
                [(evt.EVT_REQUESTED, self._requested), (evt.EVT_C_STORE, self._store)],
                make_buffer=partial(ObjectBuffer, self._most, self._memory),
                admits=self._admits,
                most_connections=2 * config.associations,
                refused=self._refused,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"port={config.port}: another program listens there on {config.host}; stop it, "
                    "or choose another port"
                ) from None
            raise InputError(
                f"host={config.host}: port {config.port} cannot be opened there "
                f"({error.strerror}); choose an address of this machine and a port that this "
                "user may open"
            ) from None
        self.port: int = self._server.server_address[1]

    def serve(self) -> None:
        """Answer requests until `stop` is called."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End the associations and close the port; `serve` must be running."""
        self._server.shutdown()

    def close(self) -> None:
        """Close the port, if `serve` was never called."""
        self._server.server_close()

    @property
    def associations(self) -> int:
        """Number of active associations."""
        return len(self._server.active_associations)

    def _admits(self, address: str) -> bool:
        return any(sender.reaches(address) for sender in self._config.senders)

    def _requested(self, event: Any) -> None:
        assoc = event.assoc
        title = str(assoc.requestor.primitive.calling_ae_title).strip()
        address = assoc.requestor.address_info.address
        if not any(sender.admits(title, address) for sender in self._config.senders):
            # Not `AE.require_calling_aet`: a title is admitted from some addresses alone.
            self._refused("AE title")
            assoc.acse.send_reject(0x01, 0x01, 0x03)  # calling AE title not recognised
            assoc.kill()

    def _refused(self, reason: str) -> None:
        self._metrics.associations_refused.labels(reason.partition(":")[0]).inc()
        log(f"connection refused: {reason}", kind=f"connection refused: {reason}")

    def _store(self, event: Any) -> Any:
        start = time.perf_counter()
        try:
            status, reason = self._keep(event)
        except Refused as refused:
            status, reason = refused.status, str(refused)
        except (OSError, sqlite3.Error) as error:
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
            status, reason = NO_ROOM, f"the spool cannot be written ({why})"
        except Exception as error:  # no object may end the node
            status, reason = NOT_READABLE, f"damaged ({type(error).__name__})"
        self._metrics.stored.labels(f"{status:04X}").inc()
        self._metrics.store_seconds.observe(time.perf_counter() - start)
        if status == SUCCESS:
            return status
        log(f"object refused with {status:04X}: {reason}", kind=f"refused with {status:04X}")
        answer = pydicom.Dataset()
        answer.Status = status
        answer.ErrorComment = reason[:_COMMENT]
        return answer

    def _keep(self, event: Any) -> tuple[int, str]:
        request = event.request
        content = request.DataSet
        if content is None:
            raise Refused(NOT_READABLE, "no data set")
        if content.overflowed:
            raise Refused(NO_ROOM, f"larger than {self._most} bytes, or too many at one time")
        with content.getbuffer() as data:
            size = len(data)
            try:
                with self._spool.incoming(size) as path:
                    with path.open("xb") as file:
                        file.write(b"\0" * 128 + b"DICM")
                        write_file_meta_info(file, event.file_meta)
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    header = inspect(
                        path,
                        str(request.AffectedSOPClassUID),
                        str(request.AffectedSOPInstanceUID),
                        resample=self._config.resample,
                    )
                    new = self._spool.add(header, path, size)
            except Full:
                raise Refused(NO_ROOM, "the spool is full") from None
            except OtherContent:
                name = header.series[:HASH_DIGITS]
                raise Refused(
                    OTHER_CONTENT,
                    f"series {name}: SOPInstanceUID is known with other pixels, the first stays",
                ) from None
        if not new:
            self._spool.discard(path, size)
        return SUCCESS, ""


def transfer_syntaxes() -> list[str]:
    """Return the transfer syntaxes that can be decoded here, the simplest first."""
    syntaxes: list[str] = list(_FIRST)
    for syntax in AllTransferSyntaxes:
        if syntax in syntaxes:
            continue
        try:
            if can_decode(syntax):
                syntaxes.append(syntax)
        except NotImplementedError:
            continue
    return syntaxes
