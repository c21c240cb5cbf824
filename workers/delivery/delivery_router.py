"""Routing of one job's deliveries: the records, the account and the run of each, and its route."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from app.clock import utc_now
from app.config.routes import Route, Routes
from app.database.engine import Database
from app.store.models import Delivery, DeliveryResult, DeliveryState
from app.store.reasons import Reason
from app.store.results import DeliveryResults
from app.store.runs import Runs
from app.truto.events import RECORD_ERROR_EVENT
from workers.delivery.attribution import AttributedDelivery, Attributor, attribute_records
from workers.delivery.parser import ParsedDelivery, parse_delivery, read_payload_as_record
from workers.delivery.retry_policy import finish, reschedule, resume
from workers.delivery.stopped_runs import StoppedRuns

# Truto sends lifecycle events by a queue of their own: the event that names the account may come later.
_MAX_LIFECYCLE_DELAY = timedelta(minutes=5)
_LIFECYCLE_POLL_S = 10.0


@dataclass(frozen=True, slots=True)
class RoutedDelivery:
    """A delivery whose records go to the sinks of a route."""

    attributed: AttributedDelivery
    parsed: ParsedDelivery
    route: Route


class DeliveryRouter:
    """Finds the routes of deliveries. keep_late, to_open_run: as in DeliveryProcessor."""

    def __init__(self, database: Database, routes: Routes, *, keep_late: bool, to_open_run: bool) -> None:
        self._routes = routes
        self._results = DeliveryResults(database)
        self._stopped_runs = StoppedRuns(Runs(database)) if keep_late else None
        self._attributor = Attributor(database, routes, to_open_run=to_open_run)

    def load_runs(self, deliveries: Sequence[Delivery]) -> None:
        """Read the runs of a job's deliveries; raises StoreUnavailable."""
        self._attributor.load_runs(deliveries)
        if self._stopped_runs:
            self._stopped_runs.load_stops(deliveries)

    def route(self, delivery: Delivery, body: bytes) -> RoutedDelivery | DeliveryResult:
        """Return a delivery with its route, or the result of one that no sink receives.

        Raises StoreUnavailable or UnreadableDelivery.
        """
        attributed = self._attributor.attribute(delivery, body)
        parsed = parse_delivery(attributed.delivery, body, first_error=self._find_next_error(delivery))
        routed = self._route_parsed(attributed, parsed)
        return continue_errors(attributed, parsed, routed) if isinstance(routed, DeliveryResult) else routed

    def _find_next_error(self, delivery: Delivery) -> int:
        """Return the ordinal of the first record error that an earlier job has not stored."""
        is_continued = delivery.envelope.event == RECORD_ERROR_EVENT and delivery.reason == Reason.IN_PROGRESS
        return self._results.count_record_errors(delivery.id) if is_continued else 0

    def _route_parsed(
        self, attributed: AttributedDelivery, parsed: ParsedDelivery
    ) -> RoutedDelivery | DeliveryResult:
        delivery = attributed.delivery
        if parsed.run:
            self._attributor.add_run(parsed.run)
            if self._stopped_runs:
                self._stopped_runs.add_run(parsed.run)
        if parsed.reason:
            return _end(attributed, parsed, DeliveryState.QUARANTINED, parsed.reason)
        if self._stopped_runs and parsed.has_records and self._stopped_runs.is_late(delivery):
            return _end(attributed, parsed, DeliveryState.LATE, Reason.AFTER_STOP)
        route = self._routes.find_route(parsed.describe_event(delivery.envelope))
        if route is None and parsed.has_records:
            return _end(attributed, parsed, DeliveryState.UNROUTED, Reason.NO_ROUTE)
        if route is None:
            return _end(attributed, parsed, DeliveryState.SETTLED)
        parsed = read_payload_as_record(parsed)
        if route.sinks and parsed.record_count and route.account != "":
            attributed, parsed = attribute_records(attributed, parsed, route.account)
            if not (attributed.delivery.envelope.integrated_account_id or parsed.account_path):
                return self._keep_without_account(attributed, parsed)
        return RoutedDelivery(attributed, parsed, route)

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


def continue_errors(
    attributed: AttributedDelivery, parsed: ParsedDelivery, result: DeliveryResult
) -> DeliveryResult:
    """Return the result of a delivery; if a later job has to read further record errors, it stays pending."""
    if not parsed.has_more_errors:
        return result
    change = replace(resume(attributed.delivery, utc_now(), 0), attribution=attributed.attribution)
    return replace(result, state_change=change)


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
