"""Compares what the simulator sent with what the ledger says and what the sink holds."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.config.routes import build_default_routes
from app.database.engine import Database
from app.runs.reconciliation import reconcile_counts
from app.simulator.records import digest_record
from app.simulator.report import RunReport
from app.sinks.sql.audit import read_rows
from app.store.inbox import Inbox
from app.store.run_totals import read_run_totals
from app.store.runs import Runs

_ANSWERS = ("accepted", "duplicate", "quarantined", "refused", "unauthorized")


@dataclass(frozen=True, slots=True)
class ComparedResource:
    """One resource and method of a run, in records. missing: fetched, but neither written nor dead."""

    resource: str
    method: str
    fetched: int
    arrived: int
    written: int
    dead: int
    missing: int


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run as the ledger knows it."""

    sync_job_run_id: str
    status: str
    record_errors: int
    resources: Sequence[ComparedResource]


@dataclass(frozen=True, slots=True)
class RunsComparison:
    """What was found. rows: compared one by one. problems: everything missing, doubled or unexplained."""

    runs: Sequence[ComparedRun]
    deliveries: dict[str, int]
    problems: Sequence[str]
    compared_rows: int
    records_per_second: float

    @property
    def is_ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Return the findings as `--json` prints them."""
        runs = [asdict(run) for run in self.runs]
        return {
            "ok": self.is_ok,
            "runs": runs,
            "deliveries": self.deliveries,
            "problems": list(self.problems),
        }


def compare_runs(
    store: Database, database_url: str, reports: Sequence[RunReport], duration_s: float
) -> RunsComparison:
    """Look at everything the runs left behind."""
    answers = sum((report.response_counts for report in reports), Counter[str]())
    runs = [_compare_run(store, report) for report in reports]
    counts = Inbox(store).count_by_state()
    row_problems, rows = _compare_rows(database_url, reports)
    problems = [
        *(
            problem
            for run, report in zip(runs, reports, strict=True)
            for problem in _find_run_problems(run, report)
        ),
        *_find_delivery_problems(counts, answers),
        *row_problems,
    ]
    records = sum(line.written for run in runs for line in run.resources)
    deliveries = {status: answers[status] for status in _ANSWERS}
    return RunsComparison(runs, deliveries, problems, rows, records / duration_s)


def _compare_run(store: Database, report: RunReport) -> ComparedRun:
    run_id = report.sync_job_run_id
    run = Runs(store).get(run_id)
    if run is None:
        return ComparedRun(run_id, "unknown", 0, [])
    reconciliation = reconcile_counts(run, read_run_totals(store, [run_id])[run_id])
    known = {(line.resource, line.method): line for line in reconciliation.resources}
    lines = []
    for resource, method in sorted({*report.fetched, *(pair for pair in known if known[pair].arrived)}):
        line = known.get((resource, method))
        fetched = report.fetched[resource, method]
        arrived, written, dead = (line.arrived, line.written, line.dead) if line else (0, 0, 0)
        lines.append(
            ComparedResource(resource, method, fetched, arrived, written, dead, fetched - written - dead)
        )
    return ComparedRun(run_id, run.status, reconciliation.record_errors, lines)


def _find_run_problems(run: ComparedRun, report: RunReport) -> Iterator[str]:
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


def _find_delivery_problems(counts: dict[str, int], answers: Counter[str]) -> Iterator[str]:
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
    [route] = build_default_routes(database_url).routes
    wrong: Counter[str] = Counter()
    rows = 0
    for resource, table in expected.items():
        for account, key, record in read_rows(database_url, resource, route):
            rows += 1
            known = table.pop((account, key), None)
            if known is None:
                wrong[f"rows of {resource} that nobody sent"] += 1
            elif known[1] != digest_record(record):
                wrong[f"rows of {resource} that are not the newest version sent"] += 1
        if table:
            wrong[f"records of {resource} without a row"] += len(table)
    return [f"{number} {what}" for what, number in wrong.items()], rows
