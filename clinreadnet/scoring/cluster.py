"""Connect to a Ray cluster, or start Ray on this machine.

Ray waits forever for a port that accepts a connection and never answers. Another process therefore
tries first: this module, run as a program with the address.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from clinreadnet.console import status
from clinreadnet.errors import InputError, first_line
from clinreadnet.processor import processors

LOCAL = "local"
"""Address that starts Ray on this machine for one run."""

_SPEAKS_WITHIN, _ANSWER_WITHIN = 3.0, 10.0
"""Time limits in seconds: for the answer of a cluster's port, and for the other process."""

_NO_ANSWER = "no answer within {:g} s"

_HTTP2_BEGINS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The preface and empty settings (RFC 9113)."""

_OBJECT_STORE = 256 * 2**20  # bytes, for a local Ray; it holds only headers and scores


@contextmanager
def connected(address: str, workers: int | None) -> Iterator[None]:
    """Connect to Ray, or start it on this machine and shut it down at the end.

    Args:
        address: address of a cluster (``auto``, ``host:port``), or ``local``.
        workers: number of workers for which to size a local Ray; default one for each processor.

    Raises:
        InputError: no cluster answers at ``address``.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    # Ray's C++ processes write messages, about restarts for example, directly to standard error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        quiet |= {"num_cpus": max(workers or 0, processors())}
    try:
        where = "on this machine" if address == LOCAL else f"at {address}"
        # The status is drawn only once, because standard error is redirected.
        with (
            status(f"{'Starting' if address == LOCAL else 'Looking for'} Ray {where}"),
            _silent_standard_error(),
        ):
            if address != LOCAL:
                check_answer(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"address={address}: no Ray cluster there ({first_line(error)}); give "
            f"HOST:PORT of its head, auto, or {LOCAL}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def check_answer(address: str, within: float = _ANSWER_WITHIN) -> None:
    """Check from another process that a cluster answers.

    Args:
        address: address of the cluster.
        within: time limit in seconds, including the resolution of the name.

    Raises:
        ConnectionError: the cluster refuses the connection or does not answer in time.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=within,
        )
    except subprocess.TimeoutExpired:
        raise ConnectionError(_NO_ANSWER.format(within)) from None
    if done.returncode:
        raise ConnectionError(done.stdout.decode(errors="replace"))


def _connect(address: str) -> None:
    """Connect to a cluster if its port answers the first bytes of gRPC."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdigit() and not _speaks_http2(host, int(port)):
        raise ConnectionError(_NO_ANSWER.format(_SPEAKS_WITHIN))
    ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)


def _speaks_http2(host: str, port: int) -> bool:
    """Return whether a port answers the first bytes of gRPC, or is open where Ray uses TLS."""
    try:
        with socket.create_connection((host.strip("[]"), port), _SPEAKS_WITHIN) as peer:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return True
            peer.sendall(_HTTP2_BEGINS)
            return bool(peer.recv(1))
    except (OSError, OverflowError):
        return False


@contextmanager
def _silent_standard_error() -> Iterator[None]:
    """Discard standard error: Ray's C++ code prints its log level at every log level."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


if __name__ == "__main__":
    try:
        _connect(sys.argv[1])
    except Exception as error:
        print(error)
        sys.exit(1)
