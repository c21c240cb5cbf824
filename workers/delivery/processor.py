"""One job's deliveries, from the inbox to settled."""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import structlog

from app.config.routes import Route, Routes
from app.database.engine import Database
from app.errors import BodyPruned, JobTimeout, StoreUnavailable
from app.logs import locate_error
from app.sinks.base import Sink
from app.store.inbox import Inbox
from app.store.models import Delivery, DeliveryResult, DeliveryState, SinkOutcome, SinkOutcomeState
from app.store.pending import PendingDeliveries
from app.store.reasons import Reason, reason_category
from app.store.results import DeliveryResults
from app.store.runs import Runs
from workers.delivery.body_reader import BodyPrefetcher
from workers.delivery.parser import ParsedDelivery, parse_delivery
from workers.delivery.retry_policy import (
    MAX_LOST_ATTEMPTS,
    decide_state,
    finish,
    reschedule,
    retry,
)
from workers.delivery.sink_writer import SinkWriter
from workers.delivery.stopped_runs import StoppedRuns

# A worker that vanishes with its machine leaves its deliveries to others after this long; more than the job's
# own timeout. One whose supervisor lives leaves them at once.
_LEASE_S = 40.0
# A job stops taking up deliveries after this long, so that it ends well before its timeout.
_JOB_TIME_LIMIT_S = 10.0

log = structlog.get_logger()


def format_worker_name(pid: int) -> str:
    """Return what a worker process of this machine is known by."""
    return f"{socket.gethostname()}:{pid}"


class DeliveryProcessor:
    """Delivers what the inbox holds to the sinks of its routes, and settles it; one job at a time.

    open_sink: returns the open sink of this name; raises SinkUnavailable or SinkRefused.
    name: whose the deliveries are meanwhile; by default this process's. keep_late: do not write records that
    came after their run had been stopped.
    """

    def __init__(
        self,
        store: Database,
        routes: Routes,
        open_sink: Callable[[str], Sink],
        *,
        name: str = "",
        keep_late: bool = False,
    ) -> None:
        self._name = name or format_worker_name(os.getpid())
        self._results = DeliveryResults(store)
        self._inbox = Inbox(store)
        self._pending = PendingDeliveries(store)
        self._stopped_runs = StoppedRuns(Runs(store)) if keep_late else None
        self._routes = routes
        self._writer = SinkWriter(open_sink)
        self._unsettled: Sequence[UUID] = ()

    def deliver(self, ids: Sequence[UUID]) -> None:
        """Take up those of the deliveries that are pending and free, and settle each or make it due again.

        Raises StoreUnavailable, or OutOfTime where the store does not answer; then nothing was settled, and
        all will be done again to the same end.
        """
        unfinished, self._unsettled = self._unsettled, [*self._unsettled, *ids]
        self._writer.has_timed_out = False
        self._release(unfinished)
        self._process_deliveries(ids)
        self._unsettled = ()

    def release(self) -> None:
        """Leave to others what interrupted jobs were for; raises StoreUnavailable.

        Without it they would wait until the lease ends, which takes the worker for lost, or the wake-up is.
        """
        self._release(self._unsettled)
        self._unsettled = ()

    def _release(self, ids: Sequence[UUID]) -> None:
        if ids:
            self._pending.release(ids, worker=self._name, now=datetime.now(UTC))

    def _process_deliveries(self, ids: Sequence[UUID]) -> None:
        started = time.monotonic()
        leased = self._pending.lease(ids, worker=self._name, now=datetime.now(UTC), lease_s=_LEASE_S)
        finished = self._results.find_finished([d.id for d in leased if d.attempts > 1])
        bodies = BodyPrefetcher(self._inbox, leased)
        if self._stopped_runs:
            self._stopped_runs.load_stops(leased)
        results = []
        for delivery in leased:
            if not self._writer.has_timed_out and time.monotonic() - started < _JOB_TIME_LIMIT_S:
                results.append(self._deliver_one(delivery, bodies, finished.get(delivery.id, {})))
            else:
                results.append(DeliveryResult(reschedule(delivery, datetime.now(UTC), 0.0)))
        settled_ids = self._results.save(results, now=datetime.now(UTC))
        if overtaken := [delivery.id for delivery in leased if delivery.id not in settled_ids]:
            # Whoever erases an account waits until nobody can write of it any more.
            self._pending.clear_lease(overtaken, worker=self._name)
        for delivery, result in zip(leased, results, strict=True):
            if delivery.id in settled_ids:
                _log_result(delivery, result)
            else:
                log.info("delivery.overtaken", delivery=str(delivery.id), attempt=delivery.attempts)

    def _deliver_one(
        self, delivery: Delivery, bodies: BodyPrefetcher, finished: Mapping[str, SinkOutcome]
    ) -> DeliveryResult:
        if delivery.lost_attempts >= MAX_LOST_ATTEMPTS:
            return DeliveryResult(finish(delivery, DeliveryState.DEAD, 0, Reason.WORKER_LOST))
        try:
            parsed = parse_delivery(delivery, bodies.read_body(delivery), now=datetime.now(UTC))
            return self._route_delivery(delivery, parsed, finished)
        except StoreUnavailable:
            raise
        except BodyPruned as error:
            return DeliveryResult(finish(delivery, DeliveryState.DEAD, 0, error.reason))
        except JobTimeout:
            # Its body takes too long to read: the job's other deliveries are not to suffer for it.
            self._writer.has_timed_out = True
            return DeliveryResult(retry(delivery, datetime.now(UTC), 0, Reason.OUT_OF_TIME))
        except Exception as error:  # noqa: BLE001
            # A fault of ours must not take the job's other deliveries along.
            # Its message may quote a record: only its place in the code is told.
            log.error(
                "delivery.failed",
                delivery=str(delivery.id),
                fault=type(error).__name__,
                at=locate_error(error),
            )
            return DeliveryResult(retry(delivery, datetime.now(UTC), 0, Reason.INTERNAL_ERROR))

    def _route_delivery(
        self, delivery: Delivery, parsed: ParsedDelivery, finished: Mapping[str, SinkOutcome]
    ) -> DeliveryResult:
        route = self._routes.find_route(
            event=delivery.envelope.event,
            resource=parsed.resource,
            method=parsed.method,
            account=delivery.envelope.integrated_account_id,
            has_records=parsed.has_records,
        )
        result = DeliveryResult(
            finish(delivery, DeliveryState.SETTLED, parsed.record_count),
            run=parsed.run,
            dead_records=parsed.unreadable,
            record_errors=parsed.record_errors,
        )
        if self._stopped_runs and parsed.run:
            self._stopped_runs.add_run(parsed.run)
        if parsed.reason:
            return replace(result, state_change=finish(delivery, DeliveryState.QUARANTINED, 0, parsed.reason))
        if self._stopped_runs and parsed.has_records and self._stopped_runs.is_late(delivery):
            return replace(
                result,
                state_change=finish(delivery, DeliveryState.LATE, parsed.record_count, Reason.AFTER_STOP),
            )
        if route is None and parsed.has_records:
            return replace(
                result,
                state_change=finish(delivery, DeliveryState.UNROUTED, parsed.record_count, Reason.NO_ROUTE),
            )
        if route is None:
            return replace(result, state_change=finish(delivery, DeliveryState.SETTLED, 0))
        return self._write_to_sinks(delivery, parsed, route, finished, result)

    def _write_to_sinks(
        self,
        delivery: Delivery,
        parsed: ParsedDelivery,
        route: Route,
        finished: Mapping[str, SinkOutcome],
        result: DeliveryResult,
    ) -> DeliveryResult:
        attempts = self._writer.write(delivery, parsed, route, finished)
        outcomes = [attempt.outcome for attempt in attempts]
        min_wait_s = max((attempt.retry_after_s for attempt in attempts), default=0.0)
        change = decide_state(
            delivery, datetime.now(UTC), parsed.record_count, outcomes, min_wait_s=min_wait_s
        )
        return replace(
            result,
            state_change=replace(change, replaced_characters=parsed.replaced_characters),
            outcomes=outcomes,
            dead_records=[*parsed.unreadable, *(dead for a in attempts for dead in a.dead_records)],
        )


def _log_result(delivery: Delivery, result: DeliveryResult) -> None:
    change = result.state_change
    outcome = "postponed" if change.state == DeliveryState.PENDING else change.state
    sink_errors = [f"{o.sink}: {o.message}" for o in result.outcomes if o.state != SinkOutcomeState.DONE]
    log.info(
        "delivery." + outcome,
        delivery=str(delivery.id),
        records=change.records,
        attempt=delivery.attempts,
        **({"reason": change.reason, "cause": reason_category(change.reason)} if change.reason else {}),
        **({"replaced": change.replaced_characters} if change.replaced_characters else {}),
        **({"sinks": sink_errors} if sink_errors else {}),
    )
    if result.dead_records:
        reasons = sorted({dead.reason for dead in result.dead_records})
        log.warning("record.dead", delivery=str(delivery.id), count=len(result.dead_records), reasons=reasons)
