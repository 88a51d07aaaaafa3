"""A Prometheus text endpoint for a running cluster, and its health."""

import contextlib
import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any

from abs_dssp import extras
from abs_dssp.cluster.measures import HISTOGRAMS, Histogram
from abs_dssp.cluster.status import STATES, Status

_QUIET = 5.0  # seconds after which a client that says nothing is dropped
_STUCK = 60.0  # seconds without a sign of the serving thread
_COUNTERS = {  # field of the status, and what it is
    "pushes": ("pushes", "Pushes received"),
    "commits": ("version", "Parameter updates made: the version"),
    "received_bytes": ("bytes_received", "Bytes of pushes"),
    "sent_bytes": ("bytes_sent", "Bytes of pulls"),
    "recoveries": ("recoveries", "Recoveries from log and checkpoint"),
    "refused_messages": ("messages_refused", "Messages dropped"),
}
_GAUGES = {  # fields of the status
    "seconds": "Seconds since the start",
    "epoch": "Samples processed / samples per epoch",
    "pushes_per_second": "Throughput of late",
    "train_loss": "Mean loss of the latest pushes",
}
_OF_WORKERS = {  # fields of a worker's status
    "clock": "Pushes of this worker",
    "staleness": "Staleness of its last push, in versions",
    "mean_staleness": "Mean staleness of its pushes",
    "waiting_share": "Share of the run that it waited",
    "restarts": "Computations cancelled",
    "refused": "Pushes dropped because they were not finite",
}


class MetricsServer:
    """Serves `/metrics`, `/healthz` and `/readyz` from a thread, until `close`."""

    def __init__(self, port: int, host: str = "127.0.0.1"):
        """Starts.

        Args:
          port: 0 takes a free one; see `port` for the real one.
          host: interface; loopback by default, for the numbers are not protected.

        Raises:
          ValueError: if the port cannot be had.
          MissingExtraError: if prometheus-client is not installed.
        """
        with extras.needed("/metrics"):
            from prometheus_client.core import CollectorRegistry

        self._status: Status | None = None
        self._moved = 0.0  # when the run's own clock was last seen to have moved
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server = _serving(port, host, registry, self)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"cannot serve /metrics on {host}:{port} ({error}); choose another "
                "--metrics_port, or 0 for a free one."
            ) from None
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True
        )
        self._thread.start()

    def update(self, status: Status) -> None:
        """What is served from now on."""
        if self._status is None or status.seconds != self._status.seconds:
            self._moved = time.monotonic()
        self._status = status

    def unready(self) -> str:
        """Why nobody can push yet, as during a recovery; empty if workers can."""
        return "" if self._status is not None else "does not serve yet"

    def unhealthy(self) -> str:
        """Why this process should be started again; empty if it should not.

        A run that waits for its first workers is well, and so is one that recovers.
        """
        status, still = self._status, time.monotonic() - self._moved
        if status is None or not status.seconds or still < _STUCK:
            return ""
        return f"the serving thread has done nothing for {still:.0f} s"

    def close(self) -> None:
        """Ends the threads, those of clients included."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def describe(self) -> list[Any]:
        """Nothing is known before the first status."""
        return []

    def collect(self) -> Iterator[Any]:
        """What the library asks at every request."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        status = self._status
        if status is None:
            return
        for name, (field, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"abs_dssp_{name}", text, getattr(status, field))
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"abs_dssp_{name}", text, getattr(status, name))

        for name, histogram in status.histograms.items():
            yield HistogramMetricFamily(
                f"abs_dssp_{name}",
                HISTOGRAMS[name],
                buckets=_buckets(histogram),
                sum_value=histogram.total,
            )
        spent = CounterMetricFamily(
            "abs_dssp_spent_seconds",
            "Seconds of serving, idle ones included; of idling; and beside it",
            labels=["on"],
        )
        for part, seconds in status.spent.items():
            spent.add_metric([part], seconds)
        yield spent

        def family(name, text, *labels):
            return GaugeMetricFamily(f"abs_dssp_{name}", text, labels=labels)

        evaluation = family("evaluation", "Latest evaluation", "measure")
        for measure, value in status.measures.items():
            evaluation.add_metric([measure], value)
        yield evaluation
        for name, text in _OF_WORKERS.items():
            each = family(f"worker_{name}", text, "worker")
            for worker in status.workers:
                each.add_metric([str(worker.index)], getattr(worker, name))
            yield each
        states = family("worker_state", "1 for its state", "worker", "state")
        for worker in status.workers:
            for state in STATES:
                states.add_metric([str(worker.index), state], worker.state == state)
        yield states


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """How many values are at most each bound."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, histogram.counts.cumsum().tolist(), strict=True))


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self, *arguments: Any):
        self._open: set[socket.socket] = set()  # changed by several threads, atomically
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Joins the clients' threads, also those that wait for a client."""
        for request in tuple(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event."""


def _serving(port: int, host: str, registry: Any, health: MetricsServer) -> _Server:
    """A bound server of three pages."""
    from prometheus_client import exposition

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _QUIET
        server_version, sys_version = "abs_dssp", ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in ("/healthz", "/readyz"):
                why = health.unhealthy() if path == "/healthz" else health.unready()
                self._answer(f"{why or 'ok'}\n".encode(), "text/plain", not why)
            elif path == "/metrics":
                accepted = self.headers.get("Accept", "")
                encode, form = exposition.choose_encoder(accepted)
                self._answer(encode(registry), form)
            else:
                here = "Only /metrics, /healthz and /readyz are here"
                self.send_error(http.HTTPStatus.NOT_FOUND, here)

        def _answer(self, page: bytes, form: str, well: bool = True) -> None:
            status = http.HTTPStatus
            self.send_response(status.OK if well else status.SERVICE_UNAVAILABLE)
            self.send_header("Content-Type", form)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are no news."""

    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]

    class Server(_Server):
        address_family = family

    # The look-up takes the port modulo 2**16; binding refuses what is not a port.
    return Server((address[0], port, *address[2:]), Handler)
