"""One simulated run: its pages sent one after the other, and what must come of them."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from random import Random
from typing import Any

from app.simulator.event_log import RunLog
from app.simulator.events import Clock, EventWriter, spell
from app.simulator.ids import make_id, make_job_ids
from app.simulator.page_sender import Courier
from app.simulator.pages import Page, count_pages, fetch_pages
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.truto.signature import sign
from app.truto.webhook_sender import Outcome, Sender

_UPDATE_EVERY_PAGES = 20
_BATCH_ERRORS_EVERY_PAGES = 5


class Run:
    """Plays one run of a plan against the receiver. progress: told how many records a page brought.

    told: what it was started with beyond the plan: `args`, `ignore_previous_run`.
    """

    def __init__(
        self, plan: Plan, number: int, clock: Clock, sender: Sender, progress: Callable[[int], None]
    ) -> None:
        self._plan = plan
        self._number = number
        self._clock = clock
        self._sender = sender
        self._errors_sent = self._forged_sent = 0
        self._stopped = threading.Event()
        self._chance = Random(f"{plan.seed}/{number}")  # noqa: S311  # a repeatable play
        account = Random(f"{plan.seed}/account/{number % plan.accounts}")  # noqa: S311
        job = make_job_ids(plan)
        self._webhook_id = job.webhook_id
        self._writer = EventWriter(
            self._chance, clock, environment_id=job.environment_id, webhook_id=job.webhook_id
        )
        self.report = RunReport(make_id(self._chance), job.sync_job_id, make_id(account))
        self.report.answers = sender.answers
        self.log = RunLog(clock)
        self.told: Mapping[str, Any] = {}
        self._courier = Courier(plan, self._chance, sender, self.report, log=self.log, progress=progress)
        self._created_at = clock.now()
        self._started_at: datetime | None = None
        self._finished_at: datetime | None = None
        self._persisted: Counter[tuple[str, str]] = self.report.persisted

    def play(self) -> RunReport:
        """Send the run from `created` to its end, and what comes late."""
        self._tell("created")
        self._started_at = self._clock.now()
        self.report.status = "running"
        if self._tell("started").http_status == 400:
            self._finish("refused")
        else:
            self._sync()
        return self.report

    def stop(self) -> None:
        """Have the run stopped before its next page, as by Truto's API; one that has ended stays as it is."""
        self._stopped.set()

    def _sync(self) -> None:
        plan = self._plan
        errors, forged = (plan.share_of(number, self._number) for number in (plan.record_errors, plan.forged))
        total = count_pages(plan, self._number)
        stop_at = total if plan.stop_after is None else int(total * plan.stop_after)
        pages = fetch_pages(plan, self._number, self._ids(), self._chance, self._writer)
        held_back: list[Page] = []
        for place, page in enumerate(islice(pages, stop_at)):
            if self._stopped.wait(plan.pause_s):
                break
            self.report.fetched[page.resource, page.method] += page.size
            if not held_back and place + 1 < stop_at and self._chance.random() < plan.reordering:
                held_back.append(page)
                continue
            self._courier.send([page, *held_back])
            held_back.clear()
            if not plan.batched_errors or place % _BATCH_ERRORS_EVERY_PAGES == 0:
                self._send_errors(errors * (place + 1) // stop_at)
            self._send_forged(forged * (place + 1) // stop_at)
            if place % _UPDATE_EVERY_PAGES == 0:
                self._tell("updated")
        self._courier.send(held_back)
        if not self._stopped.is_set():
            self._send_errors(errors)
            self._send_forged(forged)
        is_stopped = self._stopped.is_set() or plan.stop_after is not None
        self._finish("stopped" if is_stopped else "completed")
        if not plan.endless:
            self._tell(self.report.status)
        self._courier.send_late()

    def _finish(self, status: str) -> None:
        # What comes late is not counted any more: Truto tells what was persisted when the run ended.
        self._persisted = self.report.persisted.copy()
        self._finished_at = self._clock.now()
        self.report.status = status

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
            self._send_error({"errors": errors}, errors)
        else:
            for error in errors:
                self._send_error(error, [error])

    def _send_error(self, payload: Mapping[str, Any], errors: list[dict[str, Any]]) -> None:
        outcome = self._sender.send(self._writer.write("record_error", {**self._ids(), **payload})[0])
        if outcome.is_delivered:
            self.report.record_errors += len(errors)
        else:
            self.report.dropped += 1
        for error in errors:
            self.log.add("record_error", error["resource"], error["method"], outcome)

    def _send_forged(self, due: int) -> None:
        for number in range(self._forged_sent, due):
            body = self._writer.write("updated", self.describe())[0]
            of_another = sign(body, f"not {self._plan.secret}")
            self._sender.send_forged(body, (of_another, "", "format=sha256,v=forged")[number % 3])
        self._forged_sent = due

    def _tell(self, action: str) -> Outcome:
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
            stats[resource][method] = {"fetched": fetched, "persisted": self._persisted[resource, method]}
        return {
            "id": report.sync_job_run_id,
            "args": {},
            "sync_job_id": report.sync_job_id,
            "integrated_account_id": report.integrated_account_id,
            "webhook_id": self._webhook_id,
            "status": report.status,
            "error_handling": "batch" if self._plan.batched_errors else "ignore",
            "ignore_previous_run": False,
            **self.told,
            "version": 2 if self._plan.batched_errors else 1,
            "resources": [
                {"resource": resource, "method": method} for resource, method in self._plan.resources
            ],
            "resource_stats": stats,
            **self._times(),
        }

    def _times(self) -> dict[str, str | None]:
        times = {
            "created_at": self._created_at,
            "started_at": self._started_at,
            "finished_at": self._finished_at,
        }
        return {name: spell(time) if time else None for name, time in times.items()}
