"""Metrics of the request path, kept by prometheus_client. Nothing here raises into a request."""

import logging
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.config.settings import set_metrics_folder
from app.logs import locate_error, log_limited
from app.store.arrivals import BOUNDS_MS
from app.store.response_counts import KNOWN_ANSWERS
from app.web.worker_slots import WorkerSlot

_GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64)


class RequestMetrics:
    """The requests of all processes of this gunicorn, or of this process if it has no slot.

    slot: of this process; its counters continue those of the last process in this slot.
    """

    def __init__(self, slot: WorkerSlot | None) -> None:
        registry = CollectorRegistry(auto_describe=False)
        if slot is not None:
            set_metrics_folder(slot.folder)
            values.ValueClass = values.MultiProcessValue(lambda: slot.number)  # type: ignore[no-untyped-call]  # its own
        self._requests = Counter(
            "rapidbridge_webhook_requests",
            "Requests to the webhook and to unknown paths, by the status and the cause of the answer.",
            ["status", "cause"],
            registry=registry,
        )
        self._durations = Histogram(
            "rapidbridge_webhook_duration_seconds",
            "Time from the head of a stored request to its answer: the acknowledgement time.",
            buckets=[bound / 1000 for bound in BOUNDS_MS],
            registry=registry,
        )
        self._body_bytes = Counter(
            "rapidbridge_webhook_body_bytes",
            "Bytes of the bodies of stored requests.",
            registry=registry,
        )
        self._group_sizes = Histogram(
            "rapidbridge_commit_group_size",
            "Deliveries in one commit.",
            buckets=_GROUP_SIZES,
            registry=registry,
        )
        # A series that begins at its first request would hide that request from `rate`.
        self._by_answer = {
            (status, str(cause)): self._requests.labels(status, cause) for status, cause in KNOWN_ANSWERS
        }
        self.collector: Collector = (
            registry if slot is None else MultiProcessCollector(None, path=str(slot.folder))  # type: ignore[no-untyped-call]  # its own
        )

    def count_response(self, status: str, cause: str) -> None:
        """Count an answer. status, cause: of a WebhookResponse, never of a client."""
        try:
            counter = self._by_answer.get((status, cause))
            if counter is None:
                counter = self._by_answer[status, cause] = self._requests.labels(status, cause)
            counter.inc()
        except Exception as error:  # noqa: BLE001  # a metric must not fail a delivery
            _log(error)

    def record_stored(self, duration_s: float, body_bytes: int) -> None:
        """Record a stored request."""
        try:
            self._durations.observe(duration_s)
            self._body_bytes.inc(body_bytes)
        except Exception as error:  # noqa: BLE001  # a metric must not fail a delivery
            _log(error)

    def record_commit(self, deliveries: Sequence[object]) -> None:
        """Record a commit of these deliveries."""
        try:
            self._group_sizes.observe(len(deliveries))
        except Exception as error:  # noqa: BLE001  # a metric must not fail a delivery
            _log(error)


def _log(error: Exception) -> None:
    log_limited("metrics.failed", level=logging.ERROR, fault=type(error).__name__, at=locate_error(error))
