"""Metrics of the store and of Redis.

Their facts are read at most every five seconds, however many scrapes there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import gevent
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.checks.service_facts import MAX_WEBHOOKS, RedisFacts, StoreFacts
from app.config.version import VERSION
from app.errors import TransientError
from app.logs import FaultLog
from app.store.failures import FAILED_STATES
from app.store.models import DeliveryState
from app.store.sink_status import SinkStatus
from app.store.work_totals import WorkTotal
from app.web.failover_inbox import as_unavailable
from app.web.shared_round import SharedRound

# The states in which a worker leaves a delivery.
_FINAL_STATES = tuple(state.value for state in (DeliveryState.SETTLED, *FAILED_STATES))
_DEADLINE_S = 2.0
_SHARED_FOR_S = 5.0

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class _Round:
    """The facts of a round; None if they could not be read in time."""

    store: StoreFacts | None
    redis: RedisFacts | None


class ServiceCollector(Collector):
    """Yields the metrics of the whole service, equal on each of its machines.

    read_store, read_redis: with connections of their own, because anyone may request /metrics.
    """

    def __init__(self, read_store: Callable[[], StoreFacts], read_redis: Callable[[], RedisFacts]) -> None:
        self._read_store = _Reader(read_store, "store")
        self._read_redis = _Reader(read_redis, "redis")
        self._facts = SharedRound(self._read_facts, shared_for_s=_SHARED_FOR_S)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; those of an unavailable server are missing."""
        facts = self._facts.read()
        yield GaugeMetricFamily(
            "rapidbridge_store_up", "1 if the database was read.", facts.store is not None
        )
        yield GaugeMetricFamily("rapidbridge_redis_up", "1 if Redis was read.", facts.redis is not None)
        yield GaugeMetricFamily(
            "rapidbridge_scrape_errors",
            "Servers (the database, Redis) that could not be read for this scrape.",
            [facts.store, facts.redis].count(None),
        )
        info = GaugeMetricFamily(
            "rapidbridge_build_info", "1, with the release of the web process.", labels=["version"]
        )
        info.add_metric([VERSION], 1)
        yield info
        if facts.store is not None:
            yield from _collect_store(facts.store)
        if facts.redis is not None:
            yield from _collect_redis(facts.redis)

    def _read_facts(self) -> _Round:
        store, redis = gevent.spawn(self._read_store), gevent.spawn(self._read_redis)
        gevent.joinall([store, redis], timeout=_DEADLINE_S)
        facts = _Round(store.value, redis.value)
        gevent.killall([store, redis], block=False)
        return facts


class _Reader:
    """Reads facts of a server, and logs its faults."""

    def __init__(self, read: Callable[[], Facts], server: str) -> None:
        self._read = read
        self._fault = FaultLog("metrics.not_read", "metrics.read", server=server)

    def __call__(self) -> object:
        try:
            try:
                facts = self._read()
            except TransientError:
                # The first failure may come from a pooled connection that died while idle.
                facts = self._read()
        except Exception as error:  # noqa: BLE001  # the metrics of the requests are served without these
            self._fault.add(str(as_unavailable(error)))
            return None
        self._fault.end()
        return facts


def _collect_store(facts: StoreFacts) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "rapidbridge_pending_deliveries",
        "Pending deliveries; 10,001 if there are more.",
        facts.pending.as_number,
    )
    yield GaugeMetricFamily(
        "rapidbridge_oldest_pending_age_seconds",
        "Age of the oldest pending delivery that is not replayed; 0 if there is none.",
        facts.oldest_pending_age_s,
    )
    yield _build_gauges(
        "rapidbridge_failed_deliveries",
        "The newest 10,001 failed deliveries, by state.",
        "state",
        facts.failed.by_state,
    )
    yield GaugeMetricFamily(
        "rapidbridge_oldest_failed_age_seconds",
        "Time since the oldest failed delivery was received; 0 if there is none.",
        facts.oldest_failed_age_s,
    )
    yield GaugeMetricFamily(
        "rapidbridge_dead_records",
        "Dead records that were not discarded; 10,001 if there are more.",
        facts.dead_records.as_number,
    )
    yield GaugeMetricFamily(
        "rapidbridge_incomplete_runs",
        "Runs of the last day with gaps; 10,001 if there are more.",
        facts.incomplete_runs.runs.as_number,
    )
    yield GaugeMetricFamily(
        "rapidbridge_gap_records",
        "Records that a sink lacks, of the runs of the last day.",
        facts.incomplete_runs.gap_records,
    )
    yield _build_gauges(
        "rapidbridge_runs", "Runs of the last day, by status; at most 10,000.", "status", facts.runs
    )
    yield _build_gauges(
        "rapidbridge_accounts", "Integrated accounts by the state of their syncs.", "state", facts.accounts
    )
    yield from _collect_sinks(facts.sinks)
    yield GaugeMetricFamily("rapidbridge_workers", "Live worker processes.", len(facts.workers))
    yield GaugeMetricFamily(
        "rapidbridge_outdated_workers",
        "Live worker processes with another release, other routes or other sinks than the web process.",
        facts.outdated_workers,
    )
    yield _build_gauges(
        "rapidbridge_open_notifications",
        "Conditions with an open notification, by kind.",
        "kind",
        facts.open_notifications,
    )
    yield from _collect_events(facts)
    yield from _collect_totals(facts)


def _collect_sinks(sinks: Sequence[SinkStatus]) -> Iterator[Metric]:
    yield _build_gauges(
        "rapidbridge_sink_paused",
        "1 if a person has paused the sink.",
        "sink",
        {sink.sink: sink.paused_at is not None for sink in sinks},
    )
    yield _build_gauges(
        "rapidbridge_sink_paused_timestamp_seconds",
        "When the sink was paused, in seconds since 1970.",
        "sink",
        {sink.sink: sink.paused_at.timestamp() for sink in sinks if sink.paused_at},
    )
    yield _build_gauges(
        "rapidbridge_sink_failing",
        "1 if the sink, or one of its tables, fails.",
        "sink",
        {sink.sink: sink.failing_since is not None for sink in sinks},
    )
    yield _build_gauges(
        "rapidbridge_sink_waiting_deliveries",
        "Deliveries that the sink has not accepted yet: held ones up to 10,000, retried ones up to 1,000; "
        "1 more if there are more.",
        "sink",
        {sink.sink: sink.waiting.as_number for sink in sinks},
    )
    yield _build_gauges(
        "rapidbridge_sink_last_write_timestamp_seconds",
        "When the sink was last written, in seconds since 1970; exact to a few seconds.",
        "sink",
        {sink.sink: sink.last_write_at.timestamp() for sink in sinks if sink.last_write_at},
    )


def _collect_events(facts: StoreFacts) -> Iterator[Metric]:
    if not (events := facts.webhook_events):
        return
    yield GaugeMetricFamily(
        "rapidbridge_last_event_timestamp_seconds",
        "When the newest event was received, in seconds since 1970.",
        max(event.last_event_at.timestamp() for event in events),
    )
    if len(events) <= MAX_WEBHOOKS:
        yield _build_gauges(
            "rapidbridge_webhook_last_event_timestamp_seconds",
            "When the newest event of a webhook was received, in seconds since 1970.",
            "webhook_id",
            {event.webhook_id: event.last_event_at.timestamp() for event in events},
        )


def _collect_totals(facts: StoreFacts) -> Iterator[Metric]:
    for total, (name, text, label, unit) in _TOTALS.items():
        family = CounterMetricFamily(name, text, labels=[label])
        # A series that begins with its first number would hide that number from `rate`.
        is_of_deliveries = total == WorkTotal.DELIVERIES
        numbers = dict.fromkeys(_FINAL_STATES if is_of_deliveries else [sink.sink for sink in facts.sinks], 0)
        numbers |= {value: number for (name_, value), number in facts.work_totals.items() if name_ == total}
        for value, number in numbers.items():
            family.add_metric([value], number * unit)
        yield family


def _collect_redis(facts: RedisFacts) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "rapidbridge_spooled_deliveries", "Deliveries in Redis that wait for the database.", facts.spooled
    )
    yield GaugeMetricFamily(
        "rapidbridge_unreadable_spool_entries", "Entries of the spool that were set aside.", facts.unreadable
    )
    yield GaugeMetricFamily("rapidbridge_queued_jobs", "Jobs in the queue of the workers.", facts.queued_jobs)


def _build_gauges(name: str, text: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


# The name of the metric, its help, its label, and the factor of its unit.
_TOTALS = {
    WorkTotal.DELIVERIES: (
        "rapidbridge_deliveries_settled",
        "Deliveries that the workers finished, by state; since the store exists.",
        "state",
        1,
    ),
    WorkTotal.RECORDS_WRITTEN: (
        "rapidbridge_records_written",
        "Records written to a sink; since the store exists.",
        "sink",
        1,
    ),
    WorkTotal.RECORDS_DEAD: (
        "rapidbridge_records_dead",
        "Records that a sink rejected or that were unreadable; since the store exists.",
        "sink",
        1,
    ),
    WorkTotal.SINK_WRITES: (
        "rapidbridge_sink_writes",
        "Writes to a sink; since the store exists.",
        "sink",
        1,
    ),
    WorkTotal.SINK_WRITE_MS: (
        "rapidbridge_sink_write_seconds",
        "Time spent on writes to a sink; since the store exists.",
        "sink",
        0.001,
    ),
    WorkTotal.MISFITS: (
        "rapidbridge_misfit_values",
        "Values that became NULL because they did not fit a typed column; since the store exists.",
        "sink",
        1,
    ),
}
