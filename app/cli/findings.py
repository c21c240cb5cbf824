"""Compares what the simulator sent with what the ledger says and what the sink holds."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.config.routes import default_routes
from app.database.engine import Store
from app.runs.reconciliation import account_for
from app.simulator.records import digest
from app.simulator.report import RunReport
from app.sinks.sql.audit import read_rows
from app.store.inbox import Inbox
from app.store.run_totals import read_figures
from app.store.runs import RunBook

_ANSWERS = ("accepted", "duplicate", "quarantined", "refused", "unauthorized")


@dataclass(frozen=True, slots=True)
class ResourceLine:
    """One resource and method of a run, in records. missing: fetched, but neither written nor dead."""

    resource: str
    method: str
    fetched: int
    arrived: int
    written: int
    dead: int
    missing: int


@dataclass(frozen=True, slots=True)
class RunLines:
    """A run as the ledger knows it."""

    sync_job_run_id: str
    status: str
    record_errors: int
    resources: Sequence[ResourceLine]


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found. rows: compared one by one. problems: everything missing, doubled or unexplained."""

    runs: Sequence[RunLines]
    deliveries: dict[str, int]
    problems: Sequence[str]
    rows: int
    per_second: float

    @property
    def is_fine(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the findings as `--json` prints them."""
        runs = [asdict(run) for run in self.runs]
        return {
            "ok": self.is_fine,
            "runs": runs,
            "deliveries": self.deliveries,
            "problems": list(self.problems),
        }


def examine(store: Store, database_url: str, reports: Sequence[RunReport], took_s: float) -> Findings:
    """Look at everything the runs left behind."""
    answers = sum((report.answers for report in reports), Counter[str]())
    runs = [_lines(store, report) for report in reports]
    counts = Inbox(store).count()
    row_problems, rows = _compare_rows(database_url, reports)
    problems = [
        *(
            problem
            for run, report in zip(runs, reports, strict=True)
            for problem in _run_problems(run, report)
        ),
        *_delivery_problems(counts, answers),
        *row_problems,
    ]
    records = sum(line.written for run in runs for line in run.resources)
    deliveries = {word: answers[word] for word in _ANSWERS}
    return Findings(runs, deliveries, problems, rows, records / took_s)


def _lines(store: Store, report: RunReport) -> RunLines:
    run_id = report.sync_job_run_id
    run = RunBook(store).get(run_id)
    if run is None:
        return RunLines(run_id, "unknown", 0, [])
    account = account_for(run, read_figures(store, [run_id])[run_id])
    known = {(line.resource, line.method): line for line in account.lines}
    lines = []
    for resource, method in sorted({*report.fetched, *(pair for pair in known if known[pair].arrived)}):
        line = known.get((resource, method))
        fetched = report.fetched[resource, method]
        arrived, written, dead = (line.arrived, line.written, line.dead) if line else (0, 0, 0)
        lines.append(
            ResourceLine(resource, method, fetched, arrived, written, dead, fetched - written - dead)
        )
    return RunLines(run_id, run.status, account.record_errors, lines)


def _run_problems(run: RunLines, report: RunReport) -> Iterator[str]:
    name = f"run {run.sync_job_run_id}"
    if run.status != report.status:
        yield f"{name} ended as {report.status}, the ledger says {run.status}"
    if run.record_errors != report.record_errors:
        yield f"{name} had {report.record_errors} record errors, the ledger has {run.record_errors}"
    for line in run.resources:
        if line.missing or line.arrived != line.fetched or line.dead:
            yield (
                f"{name}, {line.resource} {line.method}: {line.fetched} fetched, {line.arrived} arrived, "
                f"{line.written} written, {line.dead} dead"
            )


def _delivery_problems(counts: dict[str, int], answers: Counter[str]) -> Iterator[str]:
    stored = sum(number for state, number in counts.items() if state != "duplicate")
    if stored != answers["accepted"] + answers["quarantined"]:
        yield f"{answers['accepted']} deliveries were accepted, the inbox holds {stored}"
    if counts["duplicate"] != answers["duplicate"]:
        yield f"{answers['duplicate']} duplicates were answered, the inbox counted {counts['duplicate']}"
    for state, number in counts.items():
        if number and state not in ("settled", "duplicate"):
            yield f"{number} deliveries are {state}"
    if answers["failed"]:
        yield f"{answers['failed']} requests had no proper answer"


def _compare_rows(database_url: str, reports: Sequence[RunReport]) -> tuple[list[str], int]:
    """Hold every row against the newest version that was acknowledged."""
    expected: dict[str, dict[tuple[str, str], tuple[str, bytes]]] = {}
    for report in reports:
        for (resource, id_), version in report.expected.items():
            table = expected.setdefault(resource, {})
            known = table.get((report.integrated_account_id, id_))
            if known is None or known[0] < version[0]:
                table[report.integrated_account_id, id_] = version
    [route] = default_routes(database_url).routes
    wrong: Counter[str] = Counter()
    rows = 0
    for resource, table in expected.items():
        for account, key, record in read_rows(database_url, resource, route):
            rows += 1
            known = table.pop((account, key), None)
            if known is None:
                wrong[f"rows of {resource} that nobody sent"] += 1
            elif known[1] != digest(record):
                wrong[f"rows of {resource} that are not the newest version sent"] += 1
        if table:
            wrong[f"records of {resource} without a row"] += len(table)
    return [f"{number} {what}" for what, number in wrong.items()], rows
