"""Sender of a run's pages, which repeats, delays or loses some."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice
from random import Random

from app.simulator.pages import Page
from app.simulator.plan import Plan
from app.simulator.report import EventLog, RunReport
from app.truto.runs import sends_event
from app.truto.webhook_sender import GIVEN_UP, WebhookSender


class PageSender:
    """Sends the pages of one run. progress: called with the number of records after each page."""

    def __init__(
        self,
        plan: Plan,
        rng: Random,
        sender: WebhookSender,
        report: RunReport,
        *,
        log: EventLog,
        progress: Callable[[int], None],
    ) -> None:
        self._plan = plan
        self._rng = rng
        self._sender = sender
        self._report = report
        self._log = log
        self._progress = progress
        self._duplicate_bodies: list[bytes] = []
        self._late_pages: deque[Page] = deque()

    def send_pages(self, pages: Iterable[Page]) -> None:
        """Send pages, except lost and late ones; then send the duplicates of the previous call."""
        later = []
        for page in self._delay_pages(
            fetched_page for fetched_page in pages if not self._lose_page(fetched_page)
        ):
            is_delivered = self._send_page(page)
            is_doubled, is_later = self._rng.random() < self._plan.duplicates, self._rng.random() < 0.5
            # A duplicate follows a lost response; Truto never repeats a page that it dropped.
            if is_doubled and is_delivered and is_later:
                later.append(page.body)
            elif is_doubled and is_delivered:
                self._sender.send(page.body)
        for body in self._duplicate_bodies:
            self._sender.send(body)
        self._duplicate_bodies = later

    @property
    def has_late_pages(self) -> bool:
        """Whether pages are delayed."""
        return bool(self._late_pages)

    def send_late_page(self) -> None:
        """Send the first delayed page."""
        self._send_page(self._late_pages.popleft())

    def count_overtaken(self) -> Counter[tuple[str, str]]:
        """Return the records of delayed pages that Truto counts as persisted, by resource and method."""
        overtaken: Counter[tuple[str, str]] = Counter()
        for page in islice(self._late_pages, self._plan.overtaken):
            overtaken[page.resource, page.method] += page.record_count
        return overtaken

    def _lose_page(self, page: Page) -> bool:
        if not sends_event(self._plan.events_to_send, "record"):
            self._report.lost[page.resource, page.method] += page.record_count
            self._progress(page.record_count)
            return True
        # Draw no random number if no page can be lost: the option must not change the events of a seed.
        if not self._plan.lost or self._rng.random() >= self._plan.lost:
            return False
        self._report.lost[page.resource, page.method] += page.record_count
        self._log.add("record", page.resource, page.method, GIVEN_UP, num_records=page.record_count)
        self._progress(page.record_count)
        return True

    def _delay_pages(self, pages: Iterable[Page]) -> Iterable[Page]:
        # A run may be stopped at any time, so its last pages are only known at its end.
        for page in pages:
            self._late_pages.append(page)
            if len(self._late_pages) > self._plan.overtaken + self._plan.late:
                yield self._late_pages.popleft()

    def _send_page(self, page: Page) -> bool:
        report = self._report
        outcome = self._sender.send(page.body)
        if outcome.is_delivered:
            report.persisted[page.resource, page.method] += page.record_count
            for id_, record_digest in page.digests.items():
                previous = report.expected.get((page.resource, id_))
                if previous is None or previous[0] < page.created_at:
                    report.expected[page.resource, id_] = (page.created_at, record_digest)
        else:
            report.dropped += 1
        self._log.add("record", page.resource, page.method, outcome, num_records=page.record_count)
        self._progress(page.record_count)
        return outcome.is_delivered
