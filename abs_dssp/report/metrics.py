"""A Prometheus text endpoint for a running cluster."""

from collections.abc import Iterator
from typing import Any

from abs_dssp.report.status import Status

_STATES = ("computing", "waiting", "absent", "left", "expelled")


class MetricsServer:
    """Serves `/metrics` from a thread, until `close`."""

    def __init__(self, port: int, host: str = "127.0.0.1"):
        """Starts.

        Args:
          port: 0 takes a free one; see `port` for the real one.
          host: interface; loopback by default, for the numbers are not protected.

        Raises:
          ValueError: if the port cannot be had.
        """
        import prometheus_client
        from prometheus_client.core import CollectorRegistry

        self._status: Status | None = None
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = prometheus_client.start_http_server(
                port, host, registry
            )
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"cannot serve /metrics on {host}:{port} ({error}); choose another "
                "--metrics_port, or 0 for a free one."
            ) from None
        self.port: int = self._server.server_port

    def update(self, status: Status) -> None:
        """What is served from now on."""
        self._status = status

    def close(self) -> None:
        """Ends the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def describe(self) -> list[Any]:
        """Nothing is known before the first status."""
        return []

    def collect(self) -> Iterator[Any]:
        """What the library asks at every request."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        status = self._status
        if status is None:
            return
        counters: dict[str, tuple[str, float]] = {
            "pushes": ("Pushes received", status.pushes),
            "commits": ("Parameter updates made: the version", status.version),
            "received_bytes": ("Bytes of pushes", status.bytes_received),
            "sent_bytes": ("Bytes of pulls", status.bytes_sent),
            "recoveries": ("Recoveries from log and checkpoint", status.recoveries),
            "refused_messages": ("Messages dropped", status.messages_refused),
        }
        gauges: dict[str, tuple[str, float]] = {
            "seconds": ("Seconds since the start", status.seconds),
            "epoch": ("Samples processed / samples per epoch", status.epoch),
            "pushes_per_second": ("Throughput of late", status.pushes_per_second),
            "train_loss": ("Mean loss of the latest pushes", status.train_loss),
        }
        for name, (help_text, value) in counters.items():
            yield CounterMetricFamily(f"abs_dssp_{name}", help_text, value)
        for name, (help_text, value) in gauges.items():
            yield GaugeMetricFamily(f"abs_dssp_{name}", help_text, value)
        evaluation = GaugeMetricFamily(
            "abs_dssp_evaluation", "Latest evaluation", labels=["measure"]
        )
        for measure, value in status.measures.items():
            evaluation.add_metric([measure], value)
        yield evaluation
        per_worker = {
            "clock": "Pushes of this worker",
            "staleness": "Staleness of its last push, in versions",
            "mean_staleness": "Mean staleness of its pushes",
            "waiting_share": "Share of the run that it waited",
            "restarts": "Computations cancelled",
            "refused": "Pushes dropped because they were not finite",
        }
        for name, help_text in per_worker.items():
            family = GaugeMetricFamily(
                f"abs_dssp_worker_{name}", help_text, labels=["worker"]
            )
            for worker in status.workers:
                family.add_metric([str(worker.index)], getattr(worker, name))
            yield family
        states = GaugeMetricFamily(
            "abs_dssp_worker_state", "1 for its state", labels=["worker", "state"]
        )
        for worker in status.workers:
            for state in _STATES:
                states.add_metric([str(worker.index), state], worker.state == state)
        yield states
