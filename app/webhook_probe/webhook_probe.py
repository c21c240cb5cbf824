"""Probe of one webhook: has Truto send its simulated events, and reads them from the inbox."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal
from uuid import UUID

from app.clock import utc_now
from app.database.engine import Database
from app.errors import BodyPruned, TrutoRefused, TrutoUnavailable
from app.redis.observed_tests import TEST_EVENT, ObservedTest, ObservedTests
from app.store.delivery_filter import DeliveryFilter, find_deliveries
from app.store.inbox import Inbox
from app.truto.client import TrutoClient
from app.truto.coerce import as_text
from app.webhook_probe.body_shape import Shape, describe_events, parse_event
from app.webhook_probe.findings import NONE, NOT_SEEN, answer_events, answer_requests

_POLL_INTERVAL_S = 0.2
# Enough to recognize a simulated event that Truto sends again unchanged.
_MAX_KNOWN = 1000
# The newest deliveries that a poll reads.
_MAX_NEW = 1000
_MAX_SAMPLES = 3
_MAX_SAMPLE_BYTES = 4 * 1024 * 1024
# The deadline for an event that a candidate of the request's members may have chosen.
_CANDIDATE_TIMEOUT_S = 8.0
# An event or a member of the request that Truto does not know.
_REFUSED_STATUSES = (400, 404, 422)
# Truto accepts a range of a month, and returns 100 entries.
_LOG_PERIOD = timedelta(days=28)
_MAX_LOG_ENTRIES = 100
# More requests that Truto answers with an error of its own, or not at all, end the probe.
_MAX_FAILURES = 3
# The members of the request that may choose the event.
_CANDIDATES: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
    "event_type": lambda event: {"event_type": event},
    "event_types": lambda event: {"event_types": event},
    "event_types: a list": lambda event: {"event_types": [event]},
    "event": lambda event: {"event": event},
    "type": lambda event: {"type": event},
}

_OTHER_EVENT = "another event"

EventResult = Literal["arrived", "refused", "failed", "missing", "not sent"]


@dataclass(slots=True)
class ProbeReport:
    """The result of a probe, without any value of an event.

    results: by event. shapes: of the events that arrived, by event. answers: by question. unreadable: numbers
    of bodies without an event, by the reason.
    """

    results: dict[str, EventResult] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def is_complete(self) -> bool:
        """Whether every event has arrived, except those that Truto refused to send."""
        return set(self.results.values()) <= {"arrived", "refused"} and "arrived" in self.results.values()


class WebhookProbe:
    """Has Truto send events to a webhook of this receiver. `run` is called once.

    observed: None without Redis; headers and retries are then not seen. timeout_s: of the events that are
    still missing after the last one was sent, and of the retry. progress: called with each finished step.
    """

    def __init__(
        self,
        api: TrutoClient,
        database: Database,
        observed: ObservedTests | None,
        webhook_id: str,
        *,
        timeout_s: float,
        progress: Callable[[int], None],
    ) -> None:
        self._api = api
        self._observed = observed
        self._webhook_id = webhook_id
        self._timeout_s = timeout_s
        self._progress = progress
        self._arrivals = _Arrivals(database, webhook_id)
        self._requests: Sequence[ObservedTest] = ()
        self._failures = 0
        self._report = ProbeReport()

    @staticmethod
    def count_steps(events: Sequence[str]) -> int:
        """Return the number of steps that `progress` counts."""
        return len(events) + 2

    def run(self, events: Sequence[str]) -> ProbeReport:
        """Probe the webhook. events: to simulate, in addition to `test`.

        Raises TrutoUnavailable, StoreUnavailable and QueueUnavailable, TrutoRefused for an unknown webhook.
        """
        if self._observed:
            self._observed.start(self._webhook_id)
        try:
            self._run(events)
            if self._observed:
                self._requests = self._observed.list_requests()
        finally:
            if self._observed:
                self._observed.stop()
        return self._describe()

    def _run(self, events: Sequence[str]) -> None:
        results = self._report.results
        results.update(dict.fromkeys([TEST_EVENT, *events], "not sent"))
        self._send(TEST_EVENT, {})
        results[TEST_EVENT] = (
            "arrived" if self._arrivals.wait_for([TEST_EVENT], self._timeout_s) else "missing"
        )
        self._progress(1)
        if results[TEST_EVENT] == "missing":
            return
        self._send_all(events)
        self._arrivals.wait_for(
            [event for event, result in results.items() if result == "missing"], self._timeout_s
        )
        for event in self._arrivals.events.keys() & results.keys():
            results[event] = "arrived"
        self._reject_one()
        self._read_log()
        self._progress(1)

    def _send_all(self, events: Sequence[str]) -> None:
        """Have all events sent, if Truto understands a member of the request that chooses one."""
        if not events:
            return
        answer, results = "member that chooses the event", self._report.results
        self._report.answers[answer] = NONE
        pilot, *others = events
        was_refused = False
        for name, build in _CANDIDATES.items():
            tests = self._arrivals.numbers[TEST_EVENT]
            results[pilot] = self._send(pilot, build(pilot))
            if results[pilot] == "missing" and self._arrivals.wait_for(
                [pilot], _CANDIDATE_TIMEOUT_S, max_tests=tests
            ):
                self._report.answers[answer] = name
                self._progress(1)
                break
            was_refused |= results[pilot] == "refused"
        else:
            results[pilot] = "refused" if was_refused else results[pilot]
            return
        for event in others:
            results[event] = self._send(event, build(event))
            self._progress(1)

    def _send(self, event: str, parameters: Mapping[str, Any]) -> EventResult:
        """Have one event sent, and return its result so far."""
        self._arrivals.expect(event)
        try:
            self._api.test_webhook(self._webhook_id, parameters)
        except TrutoRefused as error:
            if event == TEST_EVENT or error.http_status not in _REFUSED_STATUSES:
                raise
            return "refused"
        except TrutoUnavailable:
            self._failures += 1
            if event == TEST_EVENT or self._failures > _MAX_FAILURES:
                raise
            return "failed"
        return "missing"

    def _reject_one(self) -> None:
        """Have a `test` event rejected once, and wait for its retry."""
        answers = self._report.answers
        answers["test of a failing receiver"] = NOT_SEEN
        if not self._observed or not self._observed.list_requests():
            return
        self._observed.reject_next()
        try:
            is_accepted = self._api.test_webhook(self._webhook_id)
            answers["test of a failing receiver"] = f"success: {str(is_accepted).lower()}"
        except TrutoRefused as error:
            answers["test of a failing receiver"] = f"{error.http_status}"
        except TrutoUnavailable:
            answers["test of a failing receiver"] = "5XX, or no answer"
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline and not _has_retry(self._observed.list_requests()):
            time.sleep(_POLL_INTERVAL_S)

    def _read_log(self) -> None:
        """Read the newest log entries of runs, of which a new account has none."""
        now = utc_now()
        try:
            entries = self._api.read_log("", since=now - _LOG_PERIOD, until=now)
            methods = ["yes" if entry.method else "no" for entry in islice(entries, _MAX_LOG_ENTRIES)]
        except (TrutoRefused, TrutoUnavailable):
            methods = []
        self._report.answers["method in the log of runs"] = ", ".join(sorted(set(methods))) or NOT_SEEN

    def _describe(self) -> ProbeReport:
        report, events = self._report, self._arrivals.events
        report.answers |= answer_requests(self._requests)
        report.answers |= answer_events(events)
        by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for event, bodies in events.items():
            # Any other name is a value of the event.
            by_name[event if event in report.results else _OTHER_EVENT] += bodies
        report.shapes = {event: describe_events(bodies) for event, bodies in by_name.items()}
        report.unreadable = self._arrivals.unreadable
        return report


def _has_retry(requests: Sequence[ObservedTest]) -> bool:
    return any(request.is_rejected for request in requests[:-1])


class _Arrivals:
    """Events of one webhook that have arrived in the inbox since the start. events: decoded, by name.

    numbers: of their deliveries. unreadable: numbers of bodies without an event, by the reason.
    """

    def __init__(self, database: Database, webhook_id: str) -> None:
        self._database = database
        self._inbox = Inbox(database)
        self._webhook_id = webhook_id
        newest = list(islice(find_deliveries(database, DeliveryFilter(), newest_first=True), _MAX_KNOWN))
        # By the receiver's clock, which may differ from the one here.
        self._since: datetime | None = newest[0].received_at if newest else None
        self._known = {delivery.id: delivery.duplicates for delivery in newest}
        self._known_ids_by_event: dict[str, list[UUID]] = defaultdict(list)
        for delivery in newest:
            self._known_ids_by_event[delivery.event].append(delivery.id)
        self._expected_ids: list[UUID] = []
        self.events: dict[str, list[Mapping[str, Any]]] = {}
        self.numbers: Counter[str] = Counter()
        self.unreadable: dict[str, int] = defaultdict(int)

    def expect(self, event: str) -> None:
        """Also notice an event that the inbox has already, with the same body."""
        self._expected_ids += self._known_ids_by_event.pop(event, [])[:_MAX_SAMPLES]

    def wait_for(self, events: Sequence[str], timeout_s: float, *, max_tests: int | None = None) -> bool:
        """Whether all events have arrived before a timeout.

        max_tests: more `test` events end the wait, because Truto has sent one of them instead.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._read_new()
            if self.events.keys() >= set(events):
                return True
            is_replaced = max_tests is not None and self.numbers[TEST_EVENT] > max_tests
            if is_replaced or time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_INTERVAL_S)

    def _read_new(self) -> None:
        for filter_ in self._list_filters():
            for delivery in islice(find_deliveries(self._database, filter_, newest_first=True), _MAX_NEW):
                if delivery.duplicates > self._known.get(delivery.id, -1):
                    self._known[delivery.id] = delivery.duplicates
                    if delivery.body_bytes <= _MAX_SAMPLE_BYTES:
                        self._read_body(delivery.id, delivery.event)

    def _list_filters(self) -> Iterator[DeliveryFilter]:
        yield DeliveryFilter(since=self._since)
        if self._expected_ids:
            yield DeliveryFilter(ids=self._expected_ids)

    def _read_body(self, delivery_id: UUID, event: str) -> None:
        self.numbers[event] += 1
        samples = self.events.get(event, [])
        if len(samples) >= _MAX_SAMPLES:
            return
        try:
            parsed = parse_event(self._inbox.read_body(delivery_id))
        except (BodyPruned, ValueError):
            return
        if isinstance(parsed, str):
            self.unreadable[parsed] += 1
        elif as_text(parsed.get("webhook_id")) in ("", self._webhook_id):
            self.events[event] = [*samples, parsed]
