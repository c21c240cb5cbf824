"""One simulated run: its pages in fetch order, sent one after the other, and what must come of them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any

from app.simulator.events import Clock, EventWriter, make_id
from app.simulator.plan import Plan
from app.simulator.records import digest, make_record
from app.simulator.sender import Sender

_UPDATE_EVERY_PAGES = 20
_BATCH_ERRORS_EVERY_PAGES = 5
_RECENT = 200


@dataclass(slots=True)
class RunReport:
    """What a run did, and what a sink must hold of it.

    fetched: records by (resource, method). dropped: pages given up. expected: by (resource, id) the newest
    version that was acknowledged, as (created_at, digest). answers: what the receiver said, and how often.
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


@dataclass(frozen=True, slots=True)
class _Page:
    """A page of records as it will be sent, however late."""

    resource: str
    method: str
    body: bytes
    size: int
    created_at: str
    digests: dict[str, bytes]


class Run:
    """Plays one run of a plan against the receiver. progress: told how many records a page brought."""

    def __init__(self, plan: Plan, number: int, clock: Clock, progress: Callable[[int], None]) -> None:
        self._plan = plan
        self._number = number
        self._progress = progress
        self._chance = Random(f"{plan.seed}/{number}")  # noqa: S311  # a repeatable play
        self._writer = EventWriter(self._chance, clock)
        self._sender = Sender(plan)
        account = Random(f"{plan.seed}/account/{number % plan.accounts}")  # noqa: S311
        self.report = RunReport(make_id(self._chance), make_id(self._chance), make_id(account))

    def play(self) -> RunReport:
        """Send the run from `created` to its end."""
        try:
            self._tell("created")
            self.report.status = "running"
            if self._tell("started") == "refused":
                self.report.status = "refused"
            else:
                self._sync()
        finally:
            self._sender.close()
        self.report.answers = self._sender.answers
        return self.report

    def _sync(self) -> None:
        plan, chance = self._plan, self._chance
        pages_due = [-(-count // plan.batch_size) for count in self._counts()]
        total = sum(pages_due)
        stop_at = total if plan.stop_after is None else int(total * plan.stop_after)
        held_back: list[_Page] = []
        again: list[bytes] = []
        errors_sent = forged_sent = 0
        errors, forged = (plan.share_of(number, self._number) for number in (plan.record_errors, plan.forged))
        for place, page in enumerate(islice(self._pages(), stop_at)):
            for body in again:
                self._sender.send(body)
            again.clear()
            if not held_back and place + 1 < stop_at and chance.random() < plan.reordering:
                held_back.append(page)
                continue
            for late in (page, *held_back):
                self._deliver(late)
                if chance.random() < plan.duplicates:
                    # As after an answer that got lost: at once, or when the next page is through.
                    again.append(late.body) if chance.random() < 0.5 else self._sender.send(late.body)
            held_back.clear()
            if not plan.batched_errors or place % _BATCH_ERRORS_EVERY_PAGES == 0:
                errors_sent = self._send_errors(errors_sent, errors * (place + 1) // max(1, stop_at))
            forged_sent = self._send_forged(forged_sent, forged * (place + 1) // max(1, stop_at), page.body)
            if place % _UPDATE_EVERY_PAGES == 0:
                self._tell("updated")
        for page in held_back:
            self._deliver(page)
        for body in again:
            self._sender.send(body)
        self._send_errors(errors_sent, errors)
        self.report.status = "completed" if plan.stop_after is None else "stopped"
        self._tell(self.report.status)

    def _counts(self) -> list[int]:
        total = self._plan.share_of(self._plan.records, self._number)
        kinds = len(self._plan.resources)
        return [total * (place + 1) // kinds - total * place // kinds for place in range(kinds)]

    def _pages(self) -> Iterator[_Page]:
        for (resource, method), count in zip(self._plan.resources, self._counts(), strict=True):
            versions: defaultdict[int, int] = defaultdict(int)
            fresh = 0
            for start in range(0, count, self._plan.batch_size):
                records = []
                for _ in range(min(self._plan.batch_size, count - start)):
                    # Pagination by position shows a record again, newer, when others move.
                    if fresh and self._chance.random() < self._plan.changes:
                        index = self._chance.randrange(max(0, fresh - _RECENT), fresh)
                        versions[index] += 1
                    else:
                        index, fresh = fresh, fresh + 1
                    records.append(self._record(resource, index, versions.get(index, 0)))
                yield self._page(resource, method, records)

    def _record(self, resource: str, index: int, version: int) -> dict[str, Any]:
        revision = f"{self.report.sync_job_run_id}/{version}"
        return make_record(resource, self.report.integrated_account_id, index, revision)

    def _page(self, resource: str, method: str, records: list[dict[str, Any]]) -> _Page:
        payload = {**self._about(), "resource": resource, "method": method, "records": records}
        body, created_at = self._writer.write("record", {**payload, "meta": {"count": len(records)}})
        self.report.fetched[resource, method] += len(records)
        digests = {record["id"]: digest(record) for record in records}
        return _Page(resource, method, body, len(records), created_at, digests)

    def _deliver(self, page: _Page) -> None:
        if self._sender.send(page.body) == "failed":
            self.report.dropped += 1
        else:
            self.report.persisted[page.resource, page.method] += page.size
            for id_, found in page.digests.items():
                known = self.report.expected.get((page.resource, id_))
                if known is None or known[0] < page.created_at:
                    self.report.expected[page.resource, id_] = (page.created_at, found)
        self._progress(page.size)

    def _send_errors(self, sent: int, due: int) -> int:
        errors = [
            {
                "resource": self._plan.resources[number % len(self._plan.resources)][0],
                "method": self._plan.resources[number % len(self._plan.resources)][1],
                "error": {"status": (404, 429, 502)[number % 3], "message": f"remote said no ({number})"},
            }
            for number in range(sent, due)
        ]
        if errors and self._plan.batched_errors:
            self._sender.send(self._writer.write("record_error", {**self._about(), "errors": errors})[0])
        elif errors:
            for error in errors:
                self._sender.send(self._writer.write("record_error", {**self._about(), **error})[0])
        self.report.record_errors += len(errors)
        return due

    def _send_forged(self, sent: int, due: int, body: bytes) -> int:
        for number in range(sent, due):
            self._sender.send_forged(body, ("", "v=" + "0" * 64, "format=sha256,v=forged")[number % 3])
        return due

    def _tell(self, action: str) -> str:
        return self._sender.send(self._writer.write(action, self._as_truto_tells())[0])

    def _about(self) -> dict[str, str]:
        report = self.report
        return {
            "sync_job_run_id": report.sync_job_run_id,
            "sync_job_id": report.sync_job_id,
            "integrated_account_id": report.integrated_account_id,
        }

    def _as_truto_tells(self) -> dict[str, Any]:
        report = self.report
        stats: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for (resource, method), fetched in report.fetched.items():
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
