"""Processing of one job's deliveries, from the inbox to their saved results."""

import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID, uuid4

import structlog

from app.clock import utc_now
from app.config.delivery_config import DeliveryConfig
from app.config.routes import Routes
from app.database.engine import Database
from app.errors import BodyPruned, EncryptionKeyMissing, JobTimeout, StoreUnavailable, UnreadableDelivery
from app.logs import locate_error
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.models import Delivery, DeliveryResult, DeliveryState, SinkOutcome
from app.store.pending import PendingDeliveries
from app.store.reasons import Reason, reason_category
from app.store.replays import Replays
from app.store.results import DeliveryResults
from app.truto.record_slices import MAX_SLICE_BYTES
from workers.delivery.attempt_history import describe_attempt
from workers.delivery.body_reader import BodyPrefetcher
from workers.delivery.delivery_router import DeliveryRouter, RoutedDelivery, continue_errors
from workers.delivery.delivery_write import DeliveryWrite
from workers.delivery.joined_writes import MAX_JOINED_BYTES
from workers.delivery.missing_keys import MissingKeys
from workers.delivery.newest_batches import NewestBatches
from workers.delivery.parser import describe_envelope
from workers.delivery.retry_policy import MAX_LOST_ATTEMPTS, decide_state, finish, retry
from workers.delivery.sink_writer import SinkWriter
from workers.delivery.slow_sinks import SlowSinks
from workers.delivery.spans import set_result, start_delivery_span
from workers.delivery.work_recorder import WorkRecorder

# Longer than a job's timeout. Only a worker lost with its supervisor keeps deliveries leased for so long.
_LEASE_S = 40.0
# A job starts no further delivery after this time, so that it ends well before its timeout.
_JOB_TIME_LIMIT_S = 10.0
# A large delivery continues in a later job, so that others need not wait for all of it.
_DELIVERY_TIME_LIMIT_S = 4.0
# The dead records and record errors of a job are saved in one transaction, at several thousand a second.
_MAX_ROWS = 5000

_T = TypeVar("_T")

log = structlog.get_logger()


def format_worker_name(pid: int, token: str) -> str:
    """Return the name under which a worker process of this machine leases deliveries.

    token: random, new at each start of a process. Containers may have one host name and the same process ids.
    """
    return f"{socket.gethostname()}:{token}:{pid}"


def make_worker_token() -> str:
    """Return the random part of a worker's name."""
    return uuid4().hex[:12]


class DeliveryProcessor:
    """Writes pending deliveries to their sinks and saves the results.

    name: the worker that leases the deliveries, unique among all workers; "" makes one. keep_late: do not
    write records that were received after their run was stopped. to_open_run: attribute deliveries without a
    run to the only open run of their webhook. started_at: a time before the routes were read; None for now.

    work: the numbers of deliveries and records, to be flushed after each job.
    """

    def __init__(
        self,
        database: Database,
        routes: Routes,
        sinks: SinkRegistry,
        *,
        name: str = "",
        keep_late: bool = False,
        to_open_run: bool = False,
        started_at: datetime | None = None,
    ) -> None:
        self._name = name or format_worker_name(os.getpid(), make_worker_token())
        late_records = "keep" if keep_late else "deliver"
        self._config = DeliveryConfig.build(routes, late_records=late_records, to_open_run=to_open_run).digest
        self._job_deadline_s = 0.0
        self._started_at = started_at or utc_now()
        self._replays = Replays(database)
        self._results = DeliveryResults(database)
        self._inbox = Inbox(database)
        self._pending = PendingDeliveries(database)
        self._routes = routes
        self._router = DeliveryRouter(database, routes, keep_late=keep_late, to_open_run=to_open_run)
        self.work = WorkRecorder(database)
        self._slow_sinks = SlowSinks(database, worker=self._name, has_others=len(routes.sinks) > 1)
        self._writer = SinkWriter(sinks, self._config, database, self.work, slow_sinks=self._slow_sinks)
        self._missing_keys = MissingKeys(database)
        self._newest_batches = NewestBatches(database)
        self._unfinished: Sequence[UUID] = ()
        self._has_timed_out = False

    def deliver(self, ids: Sequence[UUID]) -> None:
        """Lease the pending deliveries among these ids and settle or reschedule each.

        Raises StoreUnavailable, or JobTimeout if the store does not answer. Then nothing was saved, and
        processing the deliveries again has the same result.
        """
        interrupted, self._unfinished = self._unfinished, [*self._unfinished, *ids]
        self._has_timed_out = False
        self._release(interrupted)
        self._process_deliveries(ids)
        self._unfinished = ()

    def release(self) -> None:
        """Release the deliveries of interrupted jobs; raises StoreUnavailable.

        Otherwise they wait until the lease ends, and the ended lease counts as a lost attempt.
        """
        self._release(self._unfinished)
        self._unfinished = ()

    def _release(self, ids: Sequence[UUID]) -> None:
        if ids:
            self._pending.release(ids, worker=self._name, now=utc_now())

    def _process_deliveries(self, ids: Sequence[UUID]) -> None:
        self._job_deadline_s = time.monotonic() + _JOB_TIME_LIMIT_S
        leased = self._pending.lease(ids, worker=self._name, now=utc_now(), lease_s=_LEASE_S)
        # Several large deliveries, and those of slow sinks, use up the time of a job.
        leased.sort(key=lambda delivery: delivery.body_bytes > MAX_SLICE_BYTES or self._is_slow(delivery))
        # Replayed deliveries begin with their second attempt; others have the reason of an earlier one.
        repeated = [delivery.id for delivery in leased if delivery.attempts > 1 or delivery.reason]
        earlier = self._results.find_outcomes(repeated)
        outdated = self._replays.find_outdated(
            repeated, config=self._config, started_at=self._started_at, now=utc_now()
        )
        bodies = BodyPrefetcher(self._inbox, leased)
        self._router.load_runs(leased)
        processed = list(self._process(leased, bodies, earlier, outdated))
        saved_ids = self._results.save([result for _, result in processed], now=utc_now(), worker=self._name)
        # Not attempts: large deliveries before them must not use up theirs.
        processed_ids = {delivery.id for delivery, _ in processed}
        self._release([delivery.id for delivery in leased if delivery.id not in processed_ids])
        if overtaken := [delivery.id for delivery in leased if delivery.id not in saved_ids]:
            # An erasure waits until no worker has the account's deliveries leased.
            self._pending.clear_lease(overtaken, worker=self._name)
        self._newest_batches.record_results(
            (delivery, result) for delivery, result in processed if delivery.id in saved_ids
        )
        self._writer.save_statistics()
        for delivery, result in processed:
            if delivery.id in saved_ids:
                self.work.record_result(result, earlier.get(delivery.id, {}))
                _log_result(delivery, result)
            else:
                log.info("delivery.overtaken", delivery=str(delivery.id), attempt=delivery.attempts)

    def _is_slow(self, delivery: Delivery) -> bool:
        """Whether a sink of the delivery is slow, as far as its route is known without its body."""
        slow = [name for name in self._routes.sinks if self._slow_sinks.is_slow(name)]
        route = self._routes.find_route(describe_envelope(delivery.envelope)) if slow else None
        return route is not None and not set(slow).isdisjoint(route.sinks)

    def _process(
        self,
        leased: Sequence[Delivery],
        bodies: BodyPrefetcher,
        earlier: Mapping[UUID, Mapping[str, SinkOutcome]],
        outdated: Collection[UUID],
    ) -> Iterator[tuple[Delivery, DeliveryResult]]:
        """Yield deliveries with their results until the time or the memory of the job is used up."""
        rows = 0
        for group in _group_deliveries(leased):
            if self._is_over():
                return
            attempts = [self._begin(delivery, bodies, earlier, outdated) for delivery in group]
            self._write_joined([write for attempt in attempts for write in attempt.writes])
            for attempt in attempts:
                if rows >= _MAX_ROWS:
                    return
                if isinstance(attempt.routed, RoutedDelivery) and not self._may_write(attempt):
                    continue
                result = self._finish(attempt)
                rows += len(result.dead_records) + len(result.record_errors)
                yield attempt.delivery, result

    def _is_over(self) -> bool:
        return self._has_timed_out or time.monotonic() >= self._job_deadline_s

    def _may_write(self, attempt: "_StartedDelivery") -> bool:
        # Records that are written only have to be counted. Without this, a slow sink would get them forever.
        is_written = any(write.joined for write in attempt.writes)
        return not self._has_timed_out and (is_written or not self._is_over())

    def _begin(
        self,
        delivery: Delivery,
        bodies: BodyPrefetcher,
        earlier: Mapping[UUID, Mapping[str, SinkOutcome]],
        outdated: Collection[UUID],
    ) -> "_StartedDelivery":
        """Read and route a delivery."""
        started_at = utc_now()
        routed = self._guard(delivery, lambda: self._route(delivery, bodies, outdated))
        writes: Sequence[DeliveryWrite] = ()
        if isinstance(routed, RoutedDelivery):
            writes = self._writer.prepare(
                routed.attributed.delivery, routed.parsed, routed.route, earlier.get(delivery.id, {})
            )
        return _StartedDelivery(delivery, started_at, routed, writes)

    def _route(
        self, delivery: Delivery, bodies: BodyPrefetcher, outdated: Collection[UUID]
    ) -> RoutedDelivery | DeliveryResult:
        if delivery.id in outdated:
            # By these routes it could be settled without being written to the sink it is replayed for.
            return DeliveryResult(retry(delivery, utc_now(), None, Reason.WORKER_OUTDATED))
        if delivery.lost_attempts >= MAX_LOST_ATTEMPTS:
            return DeliveryResult(finish(delivery, DeliveryState.DEAD, None, Reason.WORKER_LOST))
        return self._router.route(delivery, bodies.read_body(delivery))

    def _write_joined(self, writes: Sequence[DeliveryWrite]) -> None:
        try:
            self._writer.write_joined(writes)
        except JobTimeout:
            # No delivery's own fault: all are released, and the next job writes each alone.
            self._has_timed_out = True

    def _finish(self, attempt: "_StartedDelivery") -> DeliveryResult:
        """Write a routed delivery; return its result, with the attempt to keep."""
        delivery, routed = attempt.delivery, attempt.routed
        with start_delivery_span(delivery, began_at=attempt.started_at) as span:
            result = (
                self._guard(delivery, lambda: self._write_to_sinks(routed, attempt.writes))
                if isinstance(routed, RoutedDelivery)
                else routed
            )
            set_result(span, result)
        kept = describe_attempt(
            delivery, result, worker=self._name, started_at=attempt.started_at, finished_at=utc_now()
        )
        return replace(result, attempt=kept) if kept else result

    def _guard(self, delivery: Delivery, step: Callable[[], _T]) -> _T | DeliveryResult:
        """Return the result of a step, or that of a delivery that it fails; raises StoreUnavailable."""
        try:
            return step()
        except EncryptionKeyMissing as error:
            # The job's other deliveries may have another key.
            log.error("delivery.encryption_key_missing", delivery=str(delivery.id), error=str(error))
            return DeliveryResult(retry(delivery, utc_now(), None, Reason.ENCRYPTION_KEY_MISSING))
        except StoreUnavailable:
            raise
        except UnreadableDelivery as error:
            return DeliveryResult(finish(delivery, DeliveryState.QUARANTINED, 0, error.reason))
        except BodyPruned as error:
            return DeliveryResult(finish(delivery, DeliveryState.DEAD, None, error.reason))
        except JobTimeout:
            # The body takes too long to read: the job's other deliveries are rescheduled, without a retry.
            self._has_timed_out = True
            return DeliveryResult(retry(delivery, utc_now(), None, Reason.OUT_OF_TIME))
        except Exception as error:  # noqa: BLE001  # a bug must not fail the job's other deliveries
            # The message may quote a record: log only the place in the code.
            log.error(
                "delivery.failed",
                delivery=str(delivery.id),
                error=type(error).__name__,
                location=locate_error(error),
            )
            return DeliveryResult(retry(delivery, utc_now(), None, Reason.INTERNAL_ERROR))

    def _write_to_sinks(self, routed: RoutedDelivery, writes: Sequence[DeliveryWrite]) -> DeliveryResult:
        attributed, parsed = routed.attributed, routed.parsed
        delivery = attributed.delivery
        deadline_s = min(time.monotonic() + _DELIVERY_TIME_LIMIT_S, self._job_deadline_s)
        attempts = self._writer.write(writes, deadline_s=deadline_s)
        self._has_timed_out |= any(attempt.has_timed_out for attempt in attempts)
        if has_key := [attempt.has_key for attempt in attempts if attempt.has_key is not None]:
            self._missing_keys.record_delivery(delivery, parsed.resource, routed.route, has_key=any(has_key))
        outcomes = [attempt.outcome for attempt in attempts]
        # Every sink of a large delivery finds its unreadable records while it is written.
        dead = [] if attempts and parsed.is_large else [*parsed.read_first_unreadable()]
        dead += (record for attempt in attempts for record in attempt.dead_records)
        min_wait_s = max((attempt.retry_after_s for attempt in attempts), default=0.0)
        attribution = attributed.attribution
        if attribution and parsed.account_path:
            # The accounts of a large delivery are known when a sink has all of its records.
            account = next((attempt.account for attempt in attempts if attempt.account), attribution.account)
            attribution = replace(attribution, account=account)
        restarted = [attempt.outcome.sink for attempt in attempts if attempt.is_restarted]
        change = decide_state(
            delivery,
            utc_now(),
            parsed.record_count,
            outcomes,
            min_wait_s=min_wait_s,
            has_restarted=bool(restarted),
        )
        result = DeliveryResult(
            replace(
                change,
                replaced_characters=max(
                    [parsed.replaced_characters, *(attempt.replaced_characters for attempt in attempts)]
                ),
                attribution=attribution,
            ),
            run=parsed.run,
            outcomes=outcomes,
            dead_records=list({(record.sink, record.ordinal): record for record in dead}.values()),
            record_errors=parsed.record_errors,
            restarted_sinks=restarted,
        )
        return continue_errors(attributed, parsed, result)


@dataclass(slots=True)
class _StartedDelivery:
    """One delivery of a job, read and routed. writes: one for each sink."""

    delivery: Delivery
    started_at: datetime
    routed: RoutedDelivery | DeliveryResult
    writes: Sequence[DeliveryWrite] = ()


def _group_deliveries(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    """Yield consecutive deliveries that are in memory at a time; a large one alone."""
    group: list[Delivery] = []
    group_bytes = 0
    for delivery in deliveries:
        if group and group_bytes + delivery.body_bytes > MAX_JOINED_BYTES:
            yield group
            group, group_bytes = [], 0
        group.append(delivery)
        group_bytes += delivery.body_bytes
    if group:
        yield group


def _log_result(delivery: Delivery, result: DeliveryResult) -> None:
    change = result.state_change
    event = "rescheduled" if change.state == DeliveryState.PENDING else change.state
    sink_errors = [f"{o.sink}: {o.message}" for o in result.outcomes if o.message]
    log.info(
        "delivery." + event,
        delivery=str(delivery.id),
        **({} if change.records is None else {"records": change.records}),
        attempt=delivery.attempts,
        **({"reason": change.reason, "category": reason_category(change.reason)} if change.reason else {}),
        **({"replaced_characters": change.replaced_characters} if change.replaced_characters else {}),
        **({"sinks": sink_errors} if sink_errors else {}),
    )
    if result.dead_records:
        reasons = sorted({dead.reason for dead in result.dead_records})
        log.warning("record.dead", delivery=str(delivery.id), count=len(result.dead_records), reasons=reasons)
