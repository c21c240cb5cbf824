"""Running of loads: read the deliveries of one, write them together to its sink, and save the results."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog

from app.clock import utc_now
from app.config.routes import Route, Routes
from app.database.engine import Database
from app.errors import (
    BodyPruned,
    JobTimeout,
    SinkRefused,
    SinkTimeout,
    SinkUnavailable,
    StoreUnavailable,
    UnreadableDelivery,
    WorkerStopping,
)
from app.logs import locate_error
from app.redis.queue import LOAD_FUNCTION, LOAD_TIMEOUTS_S
from app.sinks.base import LoadWriter
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.load_results import LoadedDelivery, LoadResults
from app.store.loads import Load, Loads
from app.store.models import (
    DeadRecord,
    Delivery,
    DeliveryResult,
    DeliveryState,
    SinkOutcome,
    SinkOutcomeState,
)
from app.store.reasons import Reason
from app.store.replays import Replays
from app.store.sink_states import WHOLE_SINK
from workers.delivery.attribution import Attributor, attribute_records
from workers.delivery.body_reader import BodyPrefetcher
from workers.delivery.breaker import SinkBreaker
from workers.delivery.delivery_write import DeliveryWrite
from workers.delivery.misfit_counter import MisfitCounter
from workers.delivery.missing_keys import MissingKeys
from workers.delivery.parser import ParsedDelivery, parse_delivery, read_payload_as_record
from workers.delivery.retry_policy import MAX_LOST_ATTEMPTS, finish
from workers.delivery.work_recorder import WorkRecorder

# After the job's timeout: no other worker begins the load before this one was interrupted.
_LEASE_MARGIN_S = 10.0
# Until the planner looks at the state of the sink again.
_RETRY_INTERVAL = timedelta(seconds=5)
# In memory until they are saved: their text is large.
_MAX_DEAD_RECORDS = 1000

log = structlog.get_logger()


@dataclass(slots=True)
class _Attempt:
    """The results of one attempt at a load, in memory. dead_records: those that are not saved yet."""

    load: Load
    loaded: dict[UUID, LoadedDelivery] = field(default_factory=dict)
    dead_records: list[DeadRecord] = field(default_factory=list)
    resources: dict[UUID, str] = field(default_factory=dict)
    misfits: Counter[tuple[str, str]] = field(default_factory=Counter)


class _RoutedDelivery(NamedTuple):
    """A delivery with its account, and its route."""

    delivery: Delivery
    parsed: ParsedDelivery
    route: Route


class LoadRunner:
    """Writes loads to their sinks.

    worker: the name that leases them. config: the digest of the routes and sinks; "" for any. to_open_run,
    started_at: as in DeliveryProcessor.
    """

    def __init__(
        self,
        database: Database,
        routes: Routes,
        sinks: SinkRegistry,
        work: WorkRecorder,
        *,
        worker: str,
        config: str = "",
        to_open_run: bool = False,
        started_at: datetime | None = None,
    ) -> None:
        self._worker = worker
        self._routes = routes
        self._sinks = sinks
        self._work = work
        self._config = config
        self._started_at = started_at or utc_now()
        self._replays = Replays(database)
        self._loads = Loads(database)
        self._results = LoadResults(database)
        self._inbox = Inbox(database)
        self._attributor = Attributor(database, routes, to_open_run=to_open_run)
        self._breaker = SinkBreaker(database)
        self._misfits = MisfitCounter(database)
        self._missing_keys = MissingKeys(database)
        self._unfinished: Load | None = None

    def run(self, load_id: UUID, *, timeout_s: float = LOAD_TIMEOUTS_S[LOAD_FUNCTION]) -> None:
        """Lease a load, write it and settle its deliveries; or defer it. timeout_s: of the job.

        Raises StoreUnavailable, JobTimeout if the store does not answer, or WorkerStopping. Then the load is
        repeated.
        """
        self.release()
        lease_s = timeout_s + _LEASE_MARGIN_S
        load = self._loads.lease(load_id, worker=self._worker, now=utc_now(), lease_s=lease_s)
        if load is None:
            return
        self._unfinished = load
        # A worker with other routes does not know the sink, or writes it otherwise.
        if not self._sinks.has_loads(load.sink) or self._breaker.find_hold(load.sink, WHOLE_SINK):
            self._loads.defer(load, worker=self._worker, until=utc_now() + _RETRY_INTERVAL)
        elif load.lost_attempts >= MAX_LOST_ATTEMPTS - 1 and load.deliveries > 1:
            # One of the deliveries may kill its workers: halves find it.
            self._shrink(load)
        else:
            self._run_leased(load)
        self._unfinished = None

    def release(self) -> None:
        """Release the load of an interrupted job, so that its attempt does not count as lost.

        Raises StoreUnavailable.
        """
        if self._unfinished:
            self._loads.defer(self._unfinished, worker=self._worker, until=utc_now())
            self._unfinished = None

    def _run_leased(self, load: Load) -> None:
        began_s = time.monotonic()
        try:
            with _translate_bugs(load):
                attempt = self._write(load)
        except WorkerStopping:
            raise
        except JobTimeout as error:
            log.warning("load.timed_out", load=str(load.id), sink=load.sink, deliveries=load.deliveries)
            if load.deliveries > 1:
                self._shrink(load)
            else:
                self._fail(load, error, time.monotonic() - began_s)
        except SinkUnavailable as error:
            self._fail(load, error, time.monotonic() - began_s)
        else:
            self._work.record_write(load.sink, time.monotonic() - began_s)
            if attempt:
                self._finish(attempt, time.monotonic() - began_s)

    def _shrink(self, load: Load) -> None:
        ids = [delivery.id for delivery in self._loads.list_deliveries(load)]
        log.warning("load.shrunk", load=str(load.id), sink=load.sink, deliveries=len(ids))
        later_half = ids[(len(ids) + 1) // 2 :]
        self._loads.shrink(load, later_half, worker=self._worker, now=utc_now())

    def _fail(self, load: Load, error: SinkUnavailable | JobTimeout, took_s: float) -> None:
        self._work.record_write(load.sink, took_s)
        reason, _ = self._breaker.record_failure(
            load.sink, WHOLE_SINK, error, delivery_id=load.id, took_s=took_s
        )
        log.warning("load.failed", load=str(load.id), sink=load.sink, reason=reason, error=str(error))
        if isinstance(error, SinkTimeout) and load.deliveries > 1:
            self._shrink(load)
            return
        self._loads.defer(load, worker=self._worker, until=utc_now() + _RETRY_INTERVAL)

    def _write(self, load: Load) -> _Attempt | None:
        """Write a load; return None if other workers have to write it."""
        attempt = _Attempt(load)
        deliveries = sorted(self._loads.list_deliveries(load), key=_sort_by_partition)
        if self._is_outdated(deliveries):
            self._loads.defer(load, worker=self._worker, until=utc_now() + _RETRY_INTERVAL)
            return None
        if load.attempts > 1:
            self._results.delete_dead_records(load, [delivery.id for delivery in deliveries])
        if load.lost_attempts >= MAX_LOST_ATTEMPTS:
            for delivery in deliveries:
                self._add_outcome(attempt, delivery, SinkOutcomeState.DEAD, Reason.WORKER_LOST)
            deliveries = []
        self._attributor.load_runs(deliveries)
        bodies = BodyPrefetcher(self._inbox, deliveries)
        writer = self._sinks.open_load_sink(load.sink).begin_load(load.id)
        try:
            for delivery in deliveries:
                self._add_delivery(attempt, delivery, bodies, writer)
            self._save_dead_records(attempt)
            if not self._loads.prepare(load, writer.prepare(), worker=self._worker):
                return None
            writer.commit(earlier=load.prepared)
        finally:
            writer.close()
        self._breaker.record_success(load.sink, WHOLE_SINK)
        return attempt

    def _is_outdated(self, deliveries: Sequence[Delivery]) -> bool:
        """Whether replayed deliveries are to be written by other routes than those of this worker."""
        replayed = [delivery.id for delivery in deliveries if delivery.is_replay]
        return bool(
            self._replays.find_outdated(
                replayed, config=self._config, started_at=self._started_at, now=utc_now()
            )
        )

    def _add_delivery(
        self, attempt: _Attempt, delivery: Delivery, bodies: BodyPrefetcher, writer: LoadWriter
    ) -> None:
        try:
            routed = self._route(delivery, bodies.read_body(delivery), attempt.load.sink)
        except BodyPruned as error:
            self._add_outcome(attempt, delivery, SinkOutcomeState.DEAD, error.reason)
            return
        except (UnreadableDelivery, ValueError, KeyError):
            # A worker finds the damage again, and decides.
            routed = None
        if routed is None:
            # The routes have changed: workers decide again.
            self._add_outcome(attempt, delivery, SinkOutcomeState.FAILING, Reason.SINK_RESUMED)
            return
        self._add_records(attempt, routed, writer)
        if len(attempt.dead_records) >= _MAX_DEAD_RECORDS:
            self._save_dead_records(attempt)

    def _route(self, delivery: Delivery, body: bytes, sink: str) -> _RoutedDelivery | None:
        """Return a delivery as a worker routes it; None if its route has another sink now."""
        attributed = self._attributor.attribute(delivery, body)
        parsed = parse_delivery(attributed.delivery, body)
        route = self._routes.find_route(parsed.describe_event(attributed.delivery.envelope))
        if route is None or sink not in route.sinks or parsed.reason:
            return None
        parsed = read_payload_as_record(parsed)
        if parsed.record_count and route.account != "":
            attributed, parsed = attribute_records(attributed, parsed, route.account)
            if not (attributed.delivery.envelope.integrated_account_id or parsed.account_path):
                return None
        return _RoutedDelivery(attributed.delivery, parsed, route)

    def _add_records(self, attempt: _Attempt, routed: _RoutedDelivery, writer: LoadWriter) -> None:
        delivery, parsed, route = routed
        write = DeliveryWrite(delivery, parsed, route, attempt.load.sink)
        try:
            for parsed_slice in write.read_rest():
                records = write.route_records(parsed_slice)
                batches = [b for b in write.build_batches(parsed_slice, records) if b.records]
                results = [writer.add(batch, route) for batch in batches]
                write.add_slice(parsed_slice, records, results)
                for result in results:
                    for column, number in result.misfits.items():
                        attempt.misfits[parsed.resource, column] += number
        except (SinkUnavailable, StoreUnavailable, JobTimeout):
            raise
        except Exception as error:  # noqa: BLE001  # a bug must not fail the load's other deliveries
            written = write.fail_internally(error)
            written = replace(written, outcome=replace(written.outcome, state=SinkOutcomeState.DEAD))
        else:
            written = write.finish()
        if written.has_key is not None:
            self._missing_keys.record_delivery(delivery, parsed.resource, route, has_key=written.has_key)
        attempt.dead_records += written.dead_records
        attempt.resources[delivery.id] = delivery.envelope.resource
        outcome = replace(written.outcome, progress="")
        attempt.loaded[delivery.id] = LoadedDelivery(delivery, outcome, written.replaced_characters)

    @staticmethod
    def _add_outcome(attempt: _Attempt, delivery: Delivery, state: SinkOutcomeState, reason: str) -> None:
        outcome = replace(_build_outcome(delivery, attempt.load.sink), state=state, reason=reason)
        attempt.loaded[delivery.id] = LoadedDelivery(delivery, outcome)

    def _save_dead_records(self, attempt: _Attempt) -> None:
        records, attempt.dead_records = attempt.dead_records, []
        if records:
            by_place = {(record.delivery_id, record.sink, record.ordinal): record for record in records}
            self._results.save_dead_records(list(by_place.values()), attempt.resources)

    def _finish(self, attempt: _Attempt, took_s: float) -> None:
        load, loaded = attempt.load, attempt.loaded
        settled = self._results.finish(load, list(loaded.values()), worker=self._worker, now=utc_now())
        if settled is None:
            log.info("load.overtaken", load=str(load.id), sink=load.sink)
            return
        for (resource, column), number in attempt.misfits.items():
            self._misfits.count(load.sink, resource, {column: number})
        self._misfits.save()
        self._breaker.save_writes()
        outcomes = [one.outcome for one in loaded.values()]
        log.info(
            "load.finished",
            load=str(load.id),
            sink=load.sink,
            deliveries=len(outcomes),
            written=sum(outcome.written for outcome in outcomes),
            dead=sum(outcome.dead for outcome in outcomes),
            attempt=load.attempts,
            took_s=round(took_s, 3),
        )
        for one in loaded.values():
            state = settled.get(one.delivery.id, DeliveryState.PENDING)
            change = finish(one.delivery, state, None, one.outcome.reason)
            self._work.record_result(DeliveryResult(change, outcomes=[one.outcome]), {})
            if state != DeliveryState.PENDING:
                log.info(f"delivery.{state}", delivery=str(one.delivery.id), load=str(load.id))


@contextmanager
def _translate_bugs(load: Load) -> Iterator[None]:
    """Raise SinkRefused for an error of this project's code: the load waits for a person, and is repeated."""
    try:
        yield
    except (SinkUnavailable, StoreUnavailable, JobTimeout):
        raise
    except Exception as error:
        # The message may quote a record: log only the place in the code.
        failure = f"{type(error).__name__} at {locate_error(error)}"
        log.error("sink.failed", sink=load.sink, load=str(load.id), error=failure)
        raise SinkRefused(Reason.INTERNAL_ERROR, f"the receiver failed: {failure}") from error


def _build_outcome(delivery: Delivery, sink: str) -> SinkOutcome:
    return SinkOutcome(delivery.id, sink, SinkOutcomeState.FAILING, 0, 0, Reason.IN_LOAD, "", utc_now())


def _sort_by_partition(delivery: Delivery) -> tuple[str, ...]:
    """Return the order in which a load reads its deliveries, so that few files are open at once."""
    envelope = delivery.envelope
    received = delivery.received_at.isoformat(timespec="microseconds")
    return (envelope.resource, envelope.integrated_account_id, received, str(delivery.id))
