"""Twenty runs at once with losses, duplicates, disorder, stops and refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.simulator.event_writer import make_job_ids
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from tests.support.service import Service, running_whole_service
from tests.support.simulated_runs import TOKEN, SimulatedRuns
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET

pytestmark = pytest.mark.e2e

ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[[routes]]
resource = "crm/notes"
sinks = []

[[routes]]
resource = "crm/*"
sinks = ["main"]

[[refuse]]
sync_job_id = "{refused}"
reason = "this job is not synced"
"""
RESOURCES = (("crm/contacts", "list"), ("crm/deals", "list"), ("crm/notes", "list"))


@pytest.fixture
def service(tmp_path: Path, postgres_url: str) -> Iterator[Service]:
    with running_whole_service(tmp_path, postgres_url, ROUTES.format(refused=job_of("refused"))) as made:
        yield made


def reconcile(service: Service, play: SimulatedRuns, *words: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and the reconciliations by run."""
    api = {"TRUTO_API_URL": play.url, "TRUTO_API_TOKEN": TOKEN}
    ran = service.rapidbridge("runs", "reconcile", *words, "--json", **api)
    return ran.returncode, {run["sync_job_run_id"]: run for run in json.loads(ran.stdout)}


def plan(seed: str, url: str = "http://127.0.0.1", **changes: Any) -> Plan:
    options = {"records": 300, "batch_size": 10, "resources": RESOURCES, "first_backoff_s": 0.01, **changes}
    return Plan(url=url, secret=SECRET, seed=seed, **options)


def job_of(seed: str) -> str:
    """Return the sync job of a plan, which its seed decides."""
    return make_job_ids(plan(seed)).sync_job_id


def missing(run: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {
        (line["resource"], line["method"]): line["missing"] for line in run["resources"] if line["missing"]
    }


def by_pair(report: RunReport) -> dict[tuple[str, str], int]:
    return {pair: number for pair, number in report.lost.items() if number}


def test_reconcile_names_exactly_the_lost_records(service: Service) -> None:
    url = service.webhook_url
    plans = [
        plan("lossy", url, records=2400, runs=8, parallel=8, lost=0.15, record_errors=20),
        plan(
            "messy",
            url,
            records=1500,
            runs=5,
            parallel=5,
            duplicates=0.3,
            reordering=0.3,
            changes=0.2,
            late=2,
            overtaken=1,
        ),
        plan("stopped", url, records=900, runs=3, parallel=3, pause_s=0.2, late=1, lost=0.1),
        plan("endless", url, records=600, runs=2, parallel=2, events_to_send=("record",), lost=0.2),
        plan("refused", url, records=300, runs=2, parallel=2),
    ]
    with SimulatedRuns(plans) as play:
        wait_until(lambda: len(play.sessions.runs) == 20, what="all runs to play")
        runs = [run.report for run in play.sessions.runs]
        to_stop = [run.sync_job_run_id for run in runs if run.sync_job_id == job_of("stopped")]
        stop = service.rapidbridge(
            *("runs", "stop", *to_stop, "--yes"), TRUTO_API_URL=play.url, TRUTO_API_TOKEN=TOKEN
        )
        reports = {report.sync_job_run_id: report for report in play.wait_for_reports()}
        service.wait_until_settled()

        code, found = reconcile(service, play, "--since", "1h")

    assert stop.returncode == 0, stop.stderr
    assert len(to_stop) == 3
    assert found.keys() == reports.keys()
    assert {run: missing(found[run]) for run in found} == {run: by_pair(reports[run]) for run in reports}
    assert code == 1
    statuses = sorted(run["status"] for run in found.values())
    assert statuses == sorted(["completed"] * 15 + ["stopped"] * 3 + ["refused"] * 2)
    for run in found.values():
        lost = bool(missing(run))
        assert run["verdict"] == (
            "refused" if run["status"] == "refused" else "incomplete" if lost else "complete"
        )
        causes = {cause["code"] for line in run["resources"] for cause in line["gap_reasons"]}
        assert causes == ({"given_up"} if lost else set())
        for line in run["resources"]:
            assert line["arrived"] == line["written"] + line["dead"] + line["dropped"]
            assert (line["dropped"] > 0) == (line["resource"] == "crm/notes" and line["arrived"] > 0)
    late = sum(line["late"] for run in to_stop for line in found[run]["resources"])
    assert late > 0
    errors = sum(run["record_errors"] for run in found.values())
    assert errors == sum(report.record_errors for report in reports.values()) == 20


def test_incomplete_runs_are_fetched_again(service: Service) -> None:
    with SimulatedRuns(
        [plan("again", service.webhook_url, records=9000, runs=2, parallel=3, lost=0.2, pause_s=0.1)]
    ) as play:
        wait_until(lambda: len(play.sessions.runs) == 2, what="the runs to play")
        first, other = (run.report for run in play.sessions.runs)
        wait_until(lambda: first.lost.total() > 0, what="a page to be lost")
        api = {"TRUTO_API_URL": play.url, "TRUTO_API_TOKEN": TOKEN}
        service.rapidbridge("runs", "stop", first.sync_job_run_id, "--yes", **api)
        wait_until(lambda: first.status == "stopped", what="the run to stop")
        service.wait_until_settled()

        unasked = service.rapidbridge("runs", "reconcile", first.sync_job_run_id, "--refetch", **api)
        again = service.rapidbridge("runs", "reconcile", first.sync_job_run_id, "--refetch", "--yes", **api)
        told = [run.describe() for run in play.sessions.runs]
        for run in play.sessions.runs:
            run.stop()
        play.wait_for_reports()

    assert unasked.returncode == 2
    assert "--yes" in unasked.stderr
    assert again.returncode == 1
    assert [run["id"] for run in told[:2]] == [first.sync_job_run_id, other.sync_job_run_id]
    [new] = told[2:]
    assert f"fetched again by run {new['id']}" in again.stderr
    assert new["ignore_previous_run"] is True
    assert (new["sync_job_id"], new["integrated_account_id"]) == (
        first.sync_job_id,
        first.integrated_account_id,
    )


def test_a_run_without_events_is_found_through_the_api(service: Service) -> None:
    with SimulatedRuns([plan("silent", "http://127.0.0.1:9/nobody", records=30)]) as play:
        [report] = play.wait_for_reports()

        code, found = reconcile(service, play, report.sync_job_run_id)

    assert code == 1
    [run] = found.values()
    assert (run["status"], run["verdict"]) == ("completed", "incomplete")
    assert missing(run) == dict(report.fetched)
