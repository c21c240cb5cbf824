"""What becomes of a run's pages: most are sent, some twice, some late, some never."""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from app.simulator.event_log import RunLog
from app.simulator.pages import Page
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.truto.webhook_sender import GIVEN_UP, Sender


class Courier:
    """Takes one run's pages to the receiver. progress: told how many records a page brought."""

    def __init__(
        self,
        plan: Plan,
        chance: Random,
        sender: Sender,
        report: RunReport,
        *,
        log: RunLog,
        progress: Callable[[int], None],
    ) -> None:
        self._plan = plan
        self._chance = chance
        self._sender = sender
        self._report = report
        self._log = log
        self._progress = progress
        self._again: list[bytes] = []
        self._late: deque[Page] = deque()

    def send(self, pages: Iterable[Page]) -> None:
        """Send pages, but for those to be lost or late; then what is to come again of those sent before."""
        later = []
        for page in self._hold_back(each for each in pages if not self._lose(each)):
            is_delivered = self._send(page)
            is_doubled, is_later = self._chance.random() < self._plan.duplicates, self._chance.random() < 0.5
            # As after an answer that got lost. What was given up never comes again.
            if is_doubled and is_delivered and is_later:
                later.append(page.body)
            elif is_doubled and is_delivered:
                self._sender.send(page.body)
        for body in self._again:
            self._sender.send(body)
        self._again = later

    def send_late(self) -> None:
        """Send what was held back until now."""
        while self._late:
            self._send(self._late.popleft())

    def _lose(self, page: Page) -> bool:
        # Nothing is drawn where nothing can be lost: plans without it play as they always did.
        if not self._plan.lost or self._chance.random() >= self._plan.lost:
            return False
        self._report.lost[page.resource, page.method] += page.size
        self._log.add("record", page.resource, page.method, GIVEN_UP, num_records=page.size)
        self._progress(page.size)
        return True

    def _hold_back(self, pages: Iterable[Page]) -> Iterable[Page]:
        # The last ones are not known before the run ends: it may be stopped at any time.
        for page in pages:
            self._late.append(page)
            if len(self._late) > self._plan.late:
                yield self._late.popleft()

    def _send(self, page: Page) -> bool:
        report = self._report
        outcome = self._sender.send(page.body)
        if outcome.is_delivered:
            report.persisted[page.resource, page.method] += page.size
            for id_, found in page.digests.items():
                known = report.expected.get((page.resource, id_))
                if known is None or known[0] < page.created_at:
                    report.expected[page.resource, id_] = (page.created_at, found)
        else:
            report.dropped += 1
        self._log.add("record", page.resource, page.method, outcome, num_records=page.size)
        self._progress(page.size)
        return outcome.is_delivered
