"""The node's monitor: ``/healthz`` and Prometheus' ``/metrics``, on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily

from clinreadnet.errors import InputError

_LOOPBACK = "127.0.0.1"
_STORE_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SCORE_BUCKETS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """Counters of one node; they start at zero with the process."""

    def __init__(self) -> None:
        """Create the counters in a registry of their own."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"clinreadnet_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"clinreadnet_{name}", what, buckets=buckets, registry=self.registry)

        self.stored = counter("objects_received", "C-STORE requests by status", "status")
        self.associations_refused = counter("connections_refused", "By reason", "reason")
        self.series = counter("series", "Series by outcome", "outcome")
        self.slices = counter("slices_scored", "Slices that were scored")
        self.left_out = counter("slices_left_out", "By reason", "reason")
        self.limits_exceeded = counter(
            "limits_exceeded", "Limits of the site that series exceed, by limit", "limit"
        )
        self.sent = counter("objects_sent", "Objects by outcome", "outcome")
        self.store_seconds = histogram(
            "store_seconds", "Time to answer a C-STORE request", _STORE_BUCKETS
        )
        self.score_seconds = histogram("score_seconds", "Time to score a series", _SCORE_BUCKETS)

    def watch(self, state: Callable[[], dict[str, float]]) -> None:
        """Publish values that are read at each request, as ``clinreadnet_spool_<name>``."""
        self.registry.register(_State(state))


class _State:
    def __init__(self, state: Callable[[], dict[str, float]]) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in self._state().items():
            yield GaugeMetricFamily(f"clinreadnet_spool_{name}", "What waits", value=value)


class Monitor:
    """The HTTP server of a node."""

    def __init__(self, port: int, metrics: Metrics, problem: Callable[[], str | None]) -> None:
        """Bind the port on loopback.

        Args:
            port: port to bind; 0 selects a free port.
            metrics: metrics to serve.
            problem: function that returns the problem of the node, or None if it is healthy.

        Raises:
            InputError: the port cannot be bound.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                if self.path == "/healthz":
                    wrong = problem()
                    self._answer(200 if wrong is None else 503, "text/plain", wrong or "ok")
                elif self.path == "/metrics":
                    text = generate_latest(metrics.registry).decode()
                    self._answer(200, CONTENT_TYPE_LATEST, text)
                else:
                    self._answer(404, "text/plain", "ask for /healthz or /metrics")

            def _answer(self, status: int, kind: str, text: str) -> None:
                content = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((_LOOPBACK, port), Handler)
        except OSError as error:
            raise InputError(
                f"metrics_port={port}: cannot be opened on {_LOOPBACK} ({error.strerror}); choose "
                "another port"
            ) from None
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
