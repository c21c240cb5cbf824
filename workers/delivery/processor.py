"""Processing of one job's deliveries, from the inbox to their saved results."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import structlog

from app.clock import utc_now
from app.config.delivery_config import DeliveryConfig
from app.config.routes import Route, RoutedEvent, Routes
from app.database.engine import Database
from app.errors import BodyPruned, JobTimeout, StoreUnavailable, UnreadableDelivery
from app.logs import locate_error
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.models import Delivery, DeliveryResult, DeliveryState, SinkOutcome
from app.store.pending import PendingDeliveries
from app.store.reasons import Reason, reason_category
from app.store.replays import Replays
from app.store.results import DeliveryResults
from app.store.runs import Runs
from app.truto.events import RECORD_ERROR_EVENT
from app.truto.record_slices import MAX_SLICE_BYTES
from workers.delivery.attempt_history import describe_attempt
from workers.delivery.attribution import AttributedDelivery, Attributor, attribute_records
from workers.delivery.body_reader import BodyPrefetcher
from workers.delivery.missing_keys import MissingKeys
from workers.delivery.newest_batches import NewestBatches
from workers.delivery.parser import ParsedDelivery, parse_delivery, read_payload_as_record
from workers.delivery.retry_policy import (
    MAX_LOST_ATTEMPTS,
    decide_state,
    finish,
    reschedule,
    resume,
    retry,
)
from workers.delivery.sink_writer import SinkWriter
from workers.delivery.spans import set_result, start_delivery_span
from workers.delivery.stopped_runs import StoppedRuns
from workers.delivery.work_recorder import WorkRecorder

# Longer than a job's timeout. Only a worker lost with its supervisor keeps deliveries leased for so long.
_LEASE_S = 40.0
# A job starts no further delivery after this time, so that it ends well before its timeout.
_JOB_TIME_LIMIT_S = 10.0
# A large delivery continues in a later job, so that others need not wait for all of it.
_DELIVERY_TIME_LIMIT_S = 4.0
# The dead records and record errors of a job are saved in one transaction, at several thousand a second.
_MAX_ROWS = 5000
# Truto sends lifecycle events by a queue of their own: the event that names the account may come later.
_MAX_LIFECYCLE_DELAY = timedelta(minutes=5)
_LIFECYCLE_POLL_S = 10.0

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
        self._stopped_runs = StoppedRuns(Runs(database)) if keep_late else None
        self._attributor = Attributor(database, routes, to_open_run=to_open_run)
        self._routes = routes
        self.work = WorkRecorder(database)
        self._writer = SinkWriter(sinks, self._config, database, self.work)
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
        # Large deliveries come last: several of them use up the time of a job.
        leased.sort(key=lambda delivery: delivery.body_bytes > MAX_SLICE_BYTES)
        # Replayed deliveries begin with their second attempt; others have the reason of an earlier one.
        repeated = [delivery.id for delivery in leased if delivery.attempts > 1 or delivery.reason]
        earlier = self._results.find_outcomes(repeated)
        outdated = self._replays.find_outdated(
            repeated, config=self._config, started_at=self._started_at, now=utc_now()
        )
        bodies = BodyPrefetcher(self._inbox, leased)
        self._attributor.load_runs(leased)
        if self._stopped_runs:
            self._stopped_runs.load_stops(leased)
        results: list[DeliveryResult] = []
        processed: list[Delivery] = []
        for delivery in leased:
            is_over = self._has_timed_out or time.monotonic() >= self._job_deadline_s
            if is_over or sum(map(_count_rows, results)) >= _MAX_ROWS:
                break
            processed.append(delivery)
            started_at = utc_now()
            if delivery.id in outdated:
                # By these routes it could be settled without being written to the sink it is replayed for.
                result = DeliveryResult(retry(delivery, started_at, None, Reason.WORKER_OUTDATED))
            else:
                with start_delivery_span(delivery) as span:
                    result = self._process_delivery(delivery, bodies, earlier.get(delivery.id, {}))
                    set_result(span, result)
            attempt = describe_attempt(
                delivery, result, worker=self._name, started_at=started_at, finished_at=utc_now()
            )
            results.append(replace(result, attempt=attempt) if attempt else result)
        saved_ids = self._results.save(results, now=utc_now(), worker=self._name)
        # Not attempts: large deliveries before them must not use up theirs.
        self._release([delivery.id for delivery in leased[len(processed) :]])
        if overtaken := [delivery.id for delivery in leased if delivery.id not in saved_ids]:
            # An erasure waits until no worker has the account's deliveries leased.
            self._pending.clear_lease(overtaken, worker=self._name)
        saved = [
            (delivery, result)
            for delivery, result in zip(processed, results, strict=True)
            if delivery.id in saved_ids
        ]
        self._newest_batches.record_results(saved)
        self._writer.save_statistics()
        for delivery, result in zip(processed, results, strict=True):
            if delivery.id in saved_ids:
                self.work.record_result(result, earlier.get(delivery.id, {}))
                _log_result(delivery, result)
            else:
                log.info("delivery.overtaken", delivery=str(delivery.id), attempt=delivery.attempts)

    def _process_delivery(
        self, delivery: Delivery, bodies: BodyPrefetcher, earlier: Mapping[str, SinkOutcome]
    ) -> DeliveryResult:
        if delivery.lost_attempts >= MAX_LOST_ATTEMPTS:
            return DeliveryResult(finish(delivery, DeliveryState.DEAD, None, Reason.WORKER_LOST))
        try:
            body = bodies.read_body(delivery)
            attributed = self._attributor.attribute(delivery, body)
            parsed = parse_delivery(attributed.delivery, body, first_error=self._find_next_error(delivery))
            result = self._route_delivery(attributed, parsed, earlier)
            if parsed.has_more_errors:
                change = replace(resume(delivery, utc_now(), 0), attribution=attributed.attribution)
                result = replace(result, state_change=change)
            return result
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

    def _find_next_error(self, delivery: Delivery) -> int:
        """Return the ordinal of the first record error that an earlier job has not stored."""
        is_continued = delivery.envelope.event == RECORD_ERROR_EVENT and delivery.reason == Reason.IN_PROGRESS
        return self._results.count_record_errors(delivery.id) if is_continued else 0

    def _route_delivery(
        self, attributed: AttributedDelivery, parsed: ParsedDelivery, earlier: Mapping[str, SinkOutcome]
    ) -> DeliveryResult:
        delivery = attributed.delivery
        if parsed.run:
            self._attributor.add_run(parsed.run)
            if self._stopped_runs:
                self._stopped_runs.add_run(parsed.run)
        if parsed.reason:
            return _end(attributed, parsed, DeliveryState.QUARANTINED, parsed.reason)
        if self._stopped_runs and parsed.has_records and self._stopped_runs.is_late(delivery):
            return _end(attributed, parsed, DeliveryState.LATE, Reason.AFTER_STOP)
        envelope = delivery.envelope
        route = self._routes.find_route(
            RoutedEvent(
                event=envelope.event,
                resource=parsed.resource,
                method=parsed.method,
                account=envelope.integrated_account_id,
                environment=envelope.environment_id,
                webhook=envelope.webhook_id,
                has_records=parsed.has_records,
            )
        )
        if route is None and parsed.has_records:
            return _end(attributed, parsed, DeliveryState.UNROUTED, Reason.NO_ROUTE)
        if route is None:
            return _end(attributed, parsed, DeliveryState.SETTLED)
        parsed = read_payload_as_record(parsed)
        if route.sinks and parsed.record_count and route.account != "":
            attributed, parsed = attribute_records(attributed, parsed, route.account)
            if not (attributed.delivery.envelope.integrated_account_id or parsed.account_path):
                return self._keep_without_account(attributed, parsed)
        return self._write_to_sinks(attributed, parsed, route, earlier)

    def _keep_without_account(self, attributed: AttributedDelivery, parsed: ParsedDelivery) -> DeliveryResult:
        now, delivery = utc_now(), attributed.delivery
        quarantined = _end(attributed, parsed, DeliveryState.QUARANTINED, Reason.NO_ACCOUNT)
        if not attributed.may_follow or now - delivery.received_at > _MAX_LIFECYCLE_DELAY:
            return quarantined
        waiting = replace(
            reschedule(delivery, now, _LIFECYCLE_POLL_S),
            records=parsed.record_count,
            reason=Reason.NO_ACCOUNT,
        )
        return replace(quarantined, state_change=waiting)

    def _write_to_sinks(
        self,
        attributed: AttributedDelivery,
        parsed: ParsedDelivery,
        route: Route,
        earlier: Mapping[str, SinkOutcome],
    ) -> DeliveryResult:
        delivery = attributed.delivery
        deadline_s = min(time.monotonic() + _DELIVERY_TIME_LIMIT_S, self._job_deadline_s)
        attempts = self._writer.write(delivery, parsed, route, earlier, deadline_s=deadline_s)
        self._has_timed_out = any(attempt.has_timed_out for attempt in attempts)
        if has_key := [attempt.has_key for attempt in attempts if attempt.has_key is not None]:
            self._missing_keys.record_delivery(delivery, parsed.resource, route, has_key=any(has_key))
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
        return DeliveryResult(
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


def _end(
    attributed: AttributedDelivery, parsed: ParsedDelivery, state: DeliveryState, reason: str = ""
) -> DeliveryResult:
    """Return the result of a delivery that no sink receives."""
    change = finish(attributed.delivery, state, parsed.record_count, reason)
    return DeliveryResult(
        replace(change, attribution=attributed.attribution),
        run=parsed.run,
        dead_records=parsed.read_first_unreadable(),
        record_errors=parsed.record_errors,
    )


def _count_rows(result: DeliveryResult) -> int:
    return len(result.dead_records) + len(result.record_errors)


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
