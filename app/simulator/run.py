"""One simulated run: its pages sent one after the other, and what must come of them."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

from app.simulator.events import Clock, EventWriter, make_id
from app.simulator.pages import Page, count_pages, fetch_pages
from app.simulator.plan import Plan
from app.simulator.sender import Sender
from app.truto.signature import sign

_UPDATE_EVERY_PAGES = 20
_BATCH_ERRORS_EVERY_PAGES = 5


@dataclass(slots=True)
class RunReport:
    """What a run did, and what a sink must hold of it.

    fetched: records by (resource, method); persisted: those whose page got a 200. dropped: pages and record
    errors given up. record_errors: those that got a 200. expected: by (resource, id) the newest version that
    got a 200, as (created_at, digest). answers: what the receiver said, and how often.
    """

    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    status: str = "created"
    fetched: Counter[tuple[str, str]] = field(default_factory=Counter)
    persisted: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: int = 0
    record_errors: int = 0
    expected: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)


class Run:
    """Plays one run of a plan against the receiver. progress: told how many records a page brought."""

    def __init__(
        self, plan: Plan, number: int, clock: Clock, sender: Sender, progress: Callable[[int], None]
    ) -> None:
        self._plan = plan
        self._number = number
        self._progress = progress
        self._sender = sender
        self._errors_sent = self._forged_sent = 0
        self._stopped = threading.Event()
        self._chance = Random(f"{plan.seed}/{number}")  # noqa: S311  # a repeatable play
        job = Random(f"{plan.seed}/job")  # noqa: S311
        account = Random(f"{plan.seed}/account/{number % plan.accounts}")  # noqa: S311
        self._writer = EventWriter(self._chance, clock, environment_id=make_id(job), webhook_id=make_id(job))
        self.report = RunReport(make_id(self._chance), make_id(job), make_id(account))
        self.report.answers = sender.answers

    def play(self) -> RunReport:
        """Send the run from `created` to its end."""
        self._tell("created")
        self.report.status = "running"
        if self._tell("started") == 400:
            self.report.status = "refused"
        else:
            self._sync()
        return self.report

    def stop(self) -> None:
        """Have the run stopped before its next page, as by Truto's API; one that has ended stays as it is."""
        self._stopped.set()

    def _sync(self) -> None:
        plan, chance = self._plan, self._chance
        errors, forged = (plan.share_of(number, self._number) for number in (plan.record_errors, plan.forged))
        total = count_pages(plan, self._number)
        stop_at = total if plan.stop_after is None else int(total * plan.stop_after)
        pages = fetch_pages(plan, self._number, self._ids(), chance, self._writer)
        held_back: list[Page] = []
        again: list[bytes] = []
        for place, page in enumerate(islice(pages, stop_at)):
            if self._stopped.wait(plan.pause_s):
                break
            self.report.fetched[page.resource, page.method] += page.size
            if not held_back and place + 1 < stop_at and chance.random() < plan.reordering:
                held_back.append(page)
                continue
            again = self._send_pages([page, *held_back], again)
            held_back.clear()
            if not plan.batched_errors or place % _BATCH_ERRORS_EVERY_PAGES == 0:
                self._send_errors(errors * (place + 1) // stop_at)
            self._send_forged(forged * (place + 1) // stop_at)
            if place % _UPDATE_EVERY_PAGES == 0:
                self._tell("updated")
        self._send_pages(held_back, again)
        if not self._stopped.is_set():
            self._send_errors(errors)
            self._send_forged(forged)
        is_stopped = self._stopped.is_set() or plan.stop_after is not None
        self.report.status = "stopped" if is_stopped else "completed"
        self._tell(self.report.status)

    def _send_pages(self, pages: Sequence[Page], again: Sequence[bytes]) -> list[bytes]:
        """Send pages, then bodies that came before; return what is to be sent again after the next page."""
        later = []
        for page in pages:
            is_delivered = self._send_page(page)
            is_doubled, is_late = self._chance.random() < self._plan.duplicates, self._chance.random() < 0.5
            # As after an answer that got lost. What was given up never comes again.
            if is_doubled and is_delivered and is_late:
                later.append(page.body)
            elif is_doubled and is_delivered:
                self._sender.send(page.body)
        for body in again:
            self._sender.send(body)
        return later

    def _send_page(self, page: Page) -> bool:
        is_delivered = self._sender.send(page.body) == 200
        if is_delivered:
            self.report.persisted[page.resource, page.method] += page.size
            for id_, found in page.digests.items():
                known = self.report.expected.get((page.resource, id_))
                if known is None or known[0] < page.created_at:
                    self.report.expected[page.resource, id_] = (page.created_at, found)
        else:
            self.report.dropped += 1
        self._progress(page.size)
        return is_delivered

    def _send_errors(self, due: int) -> None:
        resources = self._plan.resources
        errors = [
            {
                "resource": resources[number % len(resources)][0],
                "method": resources[number % len(resources)][1],
                "error": {"status": (404, 429, 502)[number % 3], "message": f"remote said no ({number})"},
            }
            for number in range(self._errors_sent, due)
        ]
        self._errors_sent = due
        if errors and self._plan.batched_errors:
            self._send_error({"errors": errors}, len(errors))
        else:
            for error in errors:
                self._send_error(error, 1)

    def _send_error(self, error: dict[str, Any], size: int) -> None:
        if self._sender.send(self._writer.write("record_error", {**self._ids(), **error})[0]) == 200:
            self.report.record_errors += size
        else:
            self.report.dropped += 1

    def _send_forged(self, due: int) -> None:
        for number in range(self._forged_sent, due):
            body = self._writer.write("updated", self.describe())[0]
            of_another = sign(body, f"not {self._plan.secret}")
            self._sender.send_forged(body, (of_another, "", "format=sha256,v=forged")[number % 3])
        self._forged_sent = due

    def _tell(self, action: str) -> int:
        body = self._writer.write(action, self.describe())[0]
        return self._sender.send(body, may_be_refused=action == "started")

    def _ids(self) -> dict[str, str]:
        report = self.report
        return {
            "sync_job_run_id": report.sync_job_run_id,
            "sync_job_id": report.sync_job_id,
            "integrated_account_id": report.integrated_account_id,
        }

    def describe(self) -> dict[str, Any]:
        """Return the run as Truto's API and its lifecycle events tell it."""
        report = self.report
        stats: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for (resource, method), fetched in list(report.fetched.items()):
            stats[resource][method] = {"fetched": fetched, "persisted": report.persisted[resource, method]}
        return {
            "id": report.sync_job_run_id,
            "sync_job_id": report.sync_job_id,
            "integrated_account_id": report.integrated_account_id,
            "status": report.status,
            "error_handling": "batch" if self._plan.batched_errors else "ignore",
            "version": 2 if self._plan.batched_errors else 1,
            "resources": [
                {"resource": resource, "method": method} for resource, method in self._plan.resources
            ],
            "resource_stats": stats,
        }
