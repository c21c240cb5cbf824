"""One simulated sync job run, from `created` to its end."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import islice
from random import Random
from typing import Any

from app.simulator.event_writer import EventClock, EventWriter, format_time, make_id, make_job_ids
from app.simulator.page_sender import PageSender
from app.simulator.pages import Page, count_pages, fetch_pages
from app.simulator.plan import Plan
from app.simulator.report import EventLog, RunReport
from app.truto.runs import sends_event
from app.truto.signature import sign
from app.truto.webhook_sender import SendOutcome, WebhookSender

_UPDATE_EVERY_PAGES = 20
_BATCH_ERRORS_EVERY_PAGES = 5


class SimulatedRun:
    """Sends one run of a plan to the receiver. progress: called with the number of records after each page.

    start_options: members that replace the plan's in its description, such as `args`.
    """

    def __init__(
        self,
        plan: Plan,
        number: int,
        clock: EventClock,
        sender: WebhookSender,
        progress: Callable[[int], None],
    ) -> None:
        self._plan = plan
        self._number = number
        self._clock = clock
        self._sender = sender
        self._errors_sent = self._forged_sent = 0
        self._stop_requested = threading.Event()
        self._rng = Random(f"{plan.seed}/{number}")  # noqa: S311  # repeatable, no secret
        account = Random(f"{plan.seed}/account/{number % plan.accounts}")  # noqa: S311
        job = make_job_ids(plan)
        self._webhook_id = job.webhook_id
        self.report = RunReport(make_id(self._rng), job.sync_job_id, make_id(account))
        self._writer = EventWriter(self._rng, clock, plan, run_id=self.report.sync_job_run_id)
        self.report.response_counts = sender.response_counts
        self.log = EventLog(clock)
        self.start_options: Mapping[str, Any] = {}
        self._page_sender = PageSender(plan, self._rng, sender, self.report, log=self.log, progress=progress)
        self._created_at = clock.now()
        self._started_at: datetime | None = None
        self._finished_at: datetime | None = None
        self._persisted: Counter[tuple[str, str]] = self.report.persisted

    def execute(self) -> RunReport:
        """Send all events of the run, then its late pages; return its report."""
        self._send_lifecycle_event("created")
        self._started_at = self._clock.now()
        self.report.status = "running"
        started = self._send_lifecycle_event("started")
        if started.http_status == 400:
            self.report.refusal_reason = started.message
            self._finish("refused")
        else:
            self._send_pages()
        return self.report

    def stop(self) -> None:
        """Stop the run before its next page. A run that has ended does not change."""
        self._stop_requested.set()

    def _send_pages(self) -> None:
        plan = self._plan
        errors, forged = (
            plan.compute_share(number, self._number) for number in (plan.record_errors, plan.forged)
        )
        total = count_pages(plan, self._number)
        stop_at = total if plan.stop_after is None else int(total * plan.stop_after)
        pages = fetch_pages(plan, self._number, self._build_ids(), self._rng, self._writer)
        postponed: list[Page] = []
        for place, page in enumerate(islice(pages, stop_at)):
            if self._stop_requested.wait(plan.pause_s):
                break
            self.report.fetched[page.resource, page.method] += page.record_count
            if not postponed and place + 1 < stop_at and self._rng.random() < plan.reordering:
                postponed.append(page)
                continue
            self._page_sender.send_pages([page, *postponed])
            postponed.clear()
            if not plan.batched_errors or place % _BATCH_ERRORS_EVERY_PAGES == 0:
                self._send_record_errors(errors * (place + 1) // stop_at)
            self._send_forged_requests(forged * (place + 1) // stop_at)
            if place % _UPDATE_EVERY_PAGES == 0:
                self._send_lifecycle_event("updated")
        self._page_sender.send_pages(postponed)
        if not self._stop_requested.is_set():
            self._send_record_errors(errors)
            self._send_forged_requests(forged)
        is_stopped = self._stop_requested.is_set() or plan.stop_after is not None
        self._finish("stopped" if is_stopped else "completed")
        if not plan.endless:
            # Truto has no event `stopped`.
            self._send_lifecycle_event("updated" if is_stopped else self.report.status)
        while self._page_sender.has_late_pages:
            self._stop_requested.wait(plan.pause_s)
            self._page_sender.send_late_page()

    def _finish(self, status: str) -> None:
        # Truto reports the counts at the end of the run, so late pages are not in them.
        self._persisted = self.report.persisted + self._page_sender.count_overtaken()
        self._finished_at = self._clock.now()
        self.report.status = status

    def _send_record_errors(self, total: int) -> None:
        resources = self._plan.resources
        errors = [
            {
                "resource": resources[number % len(resources)][0],
                "method": resources[number % len(resources)][1],
                "error": {"status": (404, 429, 502)[number % 3], "message": f"remote said no ({number})"},
            }
            for number in range(self._errors_sent, total)
        ]
        self._errors_sent = total
        if errors and self._plan.batched_errors:
            self._send_record_error_event({"errors": errors}, errors)
        else:
            for error in errors:
                self._send_record_error_event(error, [error])

    def _send_record_error_event(self, payload: Mapping[str, Any], errors: list[dict[str, Any]]) -> None:
        if not sends_event(self._plan.events_to_send, "record_error"):
            return
        outcome = self._sender.send(
            self._writer.write_run_event(
                "record_error", self._plan.variants.place_ids(self._build_ids(), payload)
            )[0]
        )
        if outcome.is_delivered:
            self.report.record_errors += len(errors)
        else:
            self.report.dropped += 1
        for error in errors:
            self.log.add("record_error", error["resource"], error["method"], outcome)

    def _send_forged_requests(self, total: int) -> None:
        for number in range(self._forged_sent, total):
            body = self._writer.write_run_event("updated", self.describe())[0]
            wrong_signature = sign(body, f"not {self._plan.secret}", encoding=self._plan.encoding)
            self._sender.send_forged(body, (wrong_signature, "", "format=sha256,v=forged")[number % 3])
        self._forged_sent = total

    def _send_lifecycle_event(self, action: str) -> SendOutcome:
        if not sends_event(self._plan.events_to_send, action):
            return SendOutcome(0)
        body = self._writer.write_run_event(action, self.describe())[0]
        outcome = self._sender.send(body, may_be_refused=action == "started")
        is_refused = action == "started" and outcome.http_status == 400
        self.report.rejected_events += not (outcome.is_delivered or is_refused)
        return outcome

    def _build_ids(self) -> dict[str, str]:
        report = self.report
        return {
            "sync_job_run_id": report.sync_job_run_id,
            "sync_job_id": report.sync_job_id,
            "integrated_account_id": report.integrated_account_id,
        }

    def describe(self) -> dict[str, Any]:
        """Return the run as JSON for lifecycle events and the API."""
        report = self.report
        stats: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for (resource, method), fetched in list(report.fetched.items()):
            stats[resource][method] = {"fetched": fetched, "persisted": self._persisted[resource, method]}
        return {
            "id": report.sync_job_run_id,
            "sync_job_id": report.sync_job_id,
            "webhook_id": self._webhook_id,
            "status": report.status,
            "error_handling": "batch" if self._plan.batched_errors else "ignore",
            "ignore_previous_run": False,
            "events_to_send": list(self._plan.events_to_send) or None,
            **self._describe_account(),
            **self.start_options,
            **self._describe_resources(),
            "resource_stats": stats,
            **self._format_times(),
        }

    def _describe_account(self) -> dict[str, Any]:
        """Return the run's account: in V4 it is an argument, whose name the author of the job chooses."""
        account = self.report.integrated_account_id
        if not self._plan.v4:
            return {"args": {}, "integrated_account_id": account}
        unified_api, slash, _ = self._plan.resources[0][0].partition("/")
        prefix = f"{unified_api}_" if slash and self._number % 2 else ""
        return {"args": {f"{prefix}integrated_account_id": account}, "integrated_account_id": None}

    def _describe_resources(self) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = [
            {"resource": resource, "method": method} for resource, method in self._plan.resources
        ]
        if not self._plan.v4:
            return {"version": 2 if self._plan.batched_errors else 1, "resources": nodes}
        names = [f"fetch-{number}" for number in range(len(nodes))]
        return {
            "version": 4,
            "resources": [
                *({"name": name, "type": "request", **node} for name, node in zip(names, nodes, strict=True)),
                {"name": "webhook", "type": "destination", "resources_to_persist": names},
            ],
        }

    def _format_times(self) -> dict[str, str | None]:
        times = {
            "created_at": self._created_at,
            "started_at": self._started_at,
            "finished_at": self._finished_at,
        }
        return {name: format_time(time) if time else None for name, time in times.items()}
