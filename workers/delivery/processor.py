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
from app.database.engine import Store
from app.errors import BodyPruned, OutOfTime, StoreUnavailable
from app.logs import place_of
from app.sinks.base import Sink
from app.store.facts import Outcome, Settlement
from app.store.inbox import Inbox
from app.store.models import Delivery
from app.store.pending import Worklist
from app.store.results import Ledger
from app.store.runs import RunBook
from workers.delivery.body_reader import Bodies
from workers.delivery.parser import Content, read_content
from workers.delivery.retry_policy import MOST_LOST_ATTEMPTS, cause_of, conclude, judge, postpone, retry
from workers.delivery.sink_writer import Writer
from workers.delivery.stopped_runs import Stops

# A worker that vanishes with its machine leaves its deliveries to others after this long; more than the job's
# own timeout. One whose supervisor lives leaves them at once.
_LEASE_S = 40.0
# A job stops taking up deliveries after this long, so that it ends well before its timeout.
_BUDGET_S = 10.0

log = structlog.get_logger()


def worker_name(pid: int) -> str:
    """Return what a worker process of this machine is known by."""
    return f"{socket.gethostname()}:{pid}"


class Deliverer:
    """Delivers what the inbox holds to the sinks of its routes, and settles it; one job at a time.

    open_sink: returns the open sink of this name; raises SinkUnavailable or SinkRefused.
    name: whose the deliveries are meanwhile; by default this process's. keep_late: do not write records that
    came after their run had been stopped.
    """

    def __init__(
        self,
        store: Store,
        routes: Routes,
        open_sink: Callable[[str], Sink],
        *,
        name: str = "",
        keep_late: bool = False,
    ) -> None:
        self._name = name or worker_name(os.getpid())
        self._ledger = Ledger(store)
        self._inbox = Inbox(store)
        self._worklist = Worklist(store)
        self._stops = Stops(RunBook(store)) if keep_late else None
        self._routes = routes
        self._writer = Writer(open_sink)
        self._unsettled: Sequence[UUID] = ()

    def deliver(self, ids: Sequence[UUID]) -> None:
        """Take up those of the deliveries that are pending and free, and settle each or make it due again.

        Raises StoreUnavailable, or OutOfTime where the store does not answer; then nothing was settled, and
        all will be done again to the same end.
        """
        left, self._unsettled = self._unsettled, [*self._unsettled, *ids]
        self._writer.is_out_of_time = False
        self._let_go(left)
        self._take_up(ids)
        self._unsettled = ()

    def let_go(self) -> None:
        """Leave to others what interrupted jobs were for; raises StoreUnavailable.

        Without it they would wait until the lease ends, which takes the worker for lost, or the wake-up is.
        """
        self._let_go(self._unsettled)
        self._unsettled = ()

    def _let_go(self, ids: Sequence[UUID]) -> None:
        if ids:
            self._worklist.let_go(ids, holder=self._name, now=datetime.now(UTC))

    def _take_up(self, ids: Sequence[UUID]) -> None:
        started = time.monotonic()
        claimed = self._worklist.claim(ids, holder=self._name, now=datetime.now(UTC), lease_s=_LEASE_S)
        finished = self._ledger.finished_sinks([d.id for d in claimed if d.attempts > 1])
        bodies = Bodies(self._inbox, claimed)
        if self._stops:
            self._stops.read(claimed)
        results = []
        for delivery in claimed:
            if not self._writer.is_out_of_time and time.monotonic() - started < _BUDGET_S:
                results.append(self._deliver_one(delivery, bodies, finished.get(delivery.id, {})))
            else:
                results.append(Settlement(postpone(delivery, datetime.now(UTC), 0.0)))
        concluded = self._ledger.settle(results, now=datetime.now(UTC))
        if overtaken := [delivery.id for delivery in claimed if delivery.id not in concluded]:
            # Whoever erases an account waits until nobody can write of it any more.
            self._worklist.hand_back(overtaken, holder=self._name)
        for delivery, result in zip(claimed, results, strict=True):
            if delivery.id in concluded:
                _tell(delivery, result)
            else:
                log.info("delivery.overtaken", delivery=str(delivery.id), attempt=delivery.attempts)

    def _deliver_one(self, delivery: Delivery, bodies: Bodies, finished: Mapping[str, Outcome]) -> Settlement:
        if delivery.lost_attempts >= MOST_LOST_ATTEMPTS:
            return Settlement(conclude(delivery, "dead", 0, "worker_lost"))
        try:
            content = read_content(delivery, bodies.read(delivery), now=datetime.now(UTC))
            return self._route(delivery, content, finished)
        except StoreUnavailable:
            raise
        except BodyPruned as error:
            return Settlement(conclude(delivery, "dead", 0, error.reason))
        except OutOfTime:
            # Its body takes too long to read: the job's other deliveries are not to suffer for it.
            self._writer.is_out_of_time = True
            return Settlement(retry(delivery, datetime.now(UTC), 0, "out_of_time"))
        except Exception as error:  # noqa: BLE001
            # A fault of ours must not take the job's other deliveries along.
            # Its message may quote a record: only its place in the code is told.
            log.error(
                "delivery.failed", delivery=str(delivery.id), fault=type(error).__name__, at=place_of(error)
            )
            return Settlement(retry(delivery, datetime.now(UTC), 0, "internal_error"))

    def _route(self, delivery: Delivery, content: Content, finished: Mapping[str, Outcome]) -> Settlement:
        route = self._routes.match(
            event=delivery.event,
            resource=content.resource,
            method=content.method,
            account=delivery.integrated_account_id,
            carries_records=content.carries_records,
        )
        result = Settlement(
            conclude(delivery, "settled", content.size),
            run=content.run,
            dead_records=content.unreadable,
            record_errors=content.record_errors,
        )
        if self._stops and content.run:
            self._stops.note(content.run)
        if content.reason:
            return replace(result, verdict=conclude(delivery, "quarantined", 0, content.reason))
        if self._stops and content.carries_records and self._stops.are_before(delivery):
            return replace(result, verdict=conclude(delivery, "late", content.size, "after_stop"))
        if route is None and content.carries_records:
            return replace(result, verdict=conclude(delivery, "unrouted", content.size, "no_route"))
        if route is None:
            return replace(result, verdict=conclude(delivery, "settled", 0))
        return self._write(delivery, content, route, finished, result)

    def _write(
        self,
        delivery: Delivery,
        content: Content,
        route: Route,
        finished: Mapping[str, Outcome],
        result: Settlement,
    ) -> Settlement:
        attempts = self._writer.write(delivery, content, route, finished)
        outcomes = [attempt.outcome for attempt in attempts]
        at_least_s = max((attempt.retry_after_s for attempt in attempts), default=0.0)
        verdict = judge(delivery, datetime.now(UTC), content.size, outcomes, at_least_s=at_least_s)
        return replace(
            result,
            verdict=replace(verdict, replaced=content.replaced),
            outcomes=outcomes,
            dead_records=[*content.unreadable, *(dead for a in attempts for dead in a.dead_records)],
        )


def _tell(delivery: Delivery, result: Settlement) -> None:
    verdict = result.verdict
    word = "postponed" if verdict.state == "pending" else verdict.state
    troubles = [f"{o.sink}: {o.message}" for o in result.outcomes if o.state != "done"]
    log.info(
        "delivery." + word,
        delivery=str(delivery.id),
        records=verdict.records,
        attempt=delivery.attempts,
        **({"reason": verdict.reason, "cause": cause_of(verdict.reason)} if verdict.reason else {}),
        **({"replaced": verdict.replaced} if verdict.replaced else {}),
        **({"sinks": troubles} if troubles else {}),
    )
    if result.dead_records:
        reasons = sorted({dead.reason for dead in result.dead_records})
        log.warning("record.dead", delivery=str(delivery.id), count=len(result.dead_records), reasons=reasons)
