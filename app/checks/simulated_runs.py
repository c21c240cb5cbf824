"""Comparison of simulated runs with the inbox, run totals and sink."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.config.routes import build_default_routes
from app.database.engine import Database
from app.plural import format_count
from app.runs.reconciliation import reconcile_counts
from app.simulator.report import RunReport
from app.simulator.sample_records import digest_record
from app.sinks.sql.audit import read_rows
from app.store.inbox import Inbox
from app.store.run_totals import read_run_totals
from app.store.runs import Runs

_RESPONSES = ("accepted", "duplicate", "quarantined", "refused", "unauthorized")

# Of one resource, by (integrated account, record id): the newest version's created_at, and its digest.
_ExpectedRecords = dict[tuple[str, str], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class ComparedResource:
    """Record counts of one resource and method of a run.

    missing: fetched, but neither written nor dead.
    """

    resource: str
    method: str
    fetched: int
    arrived: int
    written: int
    dead: int
    missing: int


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run as the store has it; status "unknown" if the store does not have it."""

    sync_job_run_id: str
    status: str
    record_errors: int
    resources: Sequence[ComparedResource]


@dataclass(frozen=True, slots=True)
class RunsComparison:
    """Result of comparing all simulated runs with the store and the sink.

    deliveries: by the receiver's response. problems: one sentence for everything missing, duplicated or
    different. compared_rows: rows of the sink that were compared with the records sent.
    """

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
        """Return the comparison as `demo --json` prints it."""
        return {
            "ok": self.is_ok,
            "runs": [asdict(run) for run in self.runs],
            "deliveries": self.deliveries,
            "problems": list(self.problems),
        }


def compare_runs(
    database: Database, database_url: str, reports: Sequence[RunReport], duration_s: float
) -> RunsComparison:
    """Compare the simulator's reports with the inbox, the run totals and every row of the sink.

    database_url: of the store, and of the only sink. duration_s: from the first event until all settled.
    """
    responses = sum((report.response_counts for report in reports), Counter[str]())
    runs = [_compare_run(database, report) for report in reports]
    row_problems, compared_rows = _compare_rows(database_url, reports)
    problems = [
        *(
            problem
            for run, report in zip(runs, reports, strict=True)
            for problem in _find_run_problems(run, report)
        ),
        *_find_delivery_problems(Inbox(database).count_by_state(), responses),
        *row_problems,
    ]
    written = sum(counts.written for run in runs for counts in run.resources)
    deliveries = {status: responses[status] for status in _RESPONSES}
    return RunsComparison(runs, deliveries, problems, compared_rows, written / duration_s)


def _compare_run(database: Database, report: RunReport) -> ComparedRun:
    run_id = report.sync_job_run_id
    run = Runs(database).get(run_id)
    if run is None:
        return ComparedRun(run_id, "unknown", 0, [])
    reconciliation = reconcile_counts(run, read_run_totals(database, [run_id])[run_id])
    stored = {(counts.resource, counts.method): counts for counts in reconciliation.resources}
    arrived_pairs = (pair for pair, counts in stored.items() if counts.arrived)
    resources = []
    for resource, method in sorted({*report.fetched, *arrived_pairs}):
        counts = stored.get((resource, method))
        fetched = report.fetched[resource, method]
        arrived, written, dead = (counts.arrived, counts.written, counts.dead) if counts else (0, 0, 0)
        resources.append(
            ComparedResource(resource, method, fetched, arrived, written, dead, fetched - written - dead)
        )
    return ComparedRun(run_id, run.status, reconciliation.record_errors, resources)


def _find_run_problems(run: ComparedRun, report: RunReport) -> Iterator[str]:
    name = f"run {run.sync_job_run_id}"
    if run.status != report.status:
        yield f"{name} ended as {report.status}, but the store has {run.status}"
    if run.record_errors != report.record_errors:
        sent = format_count(report.record_errors, "record error")
        yield f"{name} sent {sent}, but the store has {run.record_errors}"
    for counts in run.resources:
        if counts.missing or counts.arrived != counts.fetched or counts.dead:
            yield (
                f"{name}, {counts.resource} {counts.method}: {counts.fetched} fetched, "
                f"{counts.arrived} arrived, {counts.written} written, {counts.dead} dead"
            )


def _find_delivery_problems(counts: Mapping[str, int], responses: Counter[str]) -> Iterator[str]:
    stored = sum(number for state, number in counts.items() if state != "duplicate")
    acknowledged = responses["accepted"] + responses["quarantined"]
    if stored != acknowledged:
        yield f"{_count_deliveries(acknowledged)} acknowledged, but {stored} in the inbox"
    if counts["duplicate"] != responses["duplicate"]:
        duplicates = format_count(responses["duplicate"], "duplicate")
        yield f"{duplicates} acknowledged, but {counts['duplicate']} counted in the inbox"
    for state, number in counts.items():
        if number and state not in ("settled", "duplicate"):
            yield f"{_count_deliveries(number)} {state}"
    if responses["failed"]:
        yield f"{format_count(responses['failed'], 'request')} without a valid response"


def _compare_rows(database_url: str, reports: Sequence[RunReport]) -> tuple[list[str], int]:
    """Compare every row with the newest acknowledged version; return the problems and the number of rows."""
    [route] = build_default_routes(database_url).routes
    problem_counts: Counter[tuple[str, str, str]] = Counter()
    compared_rows = 0
    for resource, records in _merge_expected_records(reports).items():
        for account_id, key, record in read_rows(database_url, resource, route):
            compared_rows += 1
            version = records.pop((account_id, key), None)
            if version is None:
                problem_counts["row", resource, "never sent"] += 1
            elif version[1] != digest_record(record):
                problem_counts["row", resource, "not the newest version sent"] += 1
        if records:
            problem_counts["record", resource, "without a row"] += len(records)
    problems = [
        f"{format_count(number, noun)} of {resource} {problem}"
        for (noun, resource, problem), number in problem_counts.items()
    ]
    return problems, compared_rows


def _merge_expected_records(reports: Sequence[RunReport]) -> dict[str, _ExpectedRecords]:
    """Return the newest version of every record that any run sent, by resource."""
    expected: dict[str, _ExpectedRecords] = {}
    for report in reports:
        for (resource, record_id), version in report.expected.items():
            records = expected.setdefault(resource, {})
            key = (report.integrated_account_id, record_id)
            if key not in records or records[key][0] < version[0]:
                records[key] = version
    return expected


def _count_deliveries(number: int) -> str:
    return format_count(number, "delivery")
