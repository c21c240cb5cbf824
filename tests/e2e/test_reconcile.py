"""Twenty runs at once with losses, duplicates, disorder, stops and refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from app.simulator.event_writer import make_job_ids
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.store.schema import deliveries
from app.truto.events import RECORD_EVENT
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
        # A run that is stopped before its first page has no numbers to compare.
        pages = select(deliveries.c.sync_job_run_id).where(deliveries.c.event == RECORD_EVENT)
        wait_until(
            lambda: {*to_stop} <= {row[0] for row in service.store.read(pages.distinct())},
            what="a page of each run to stop",
        )
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


V4_ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[[webhooks]]
id = "{webhook}"
account = "ruled"

[[routes]]
sinks = ["main"]
"""


def test_v4_runs_of_three_customers_never_share_a_row(tmp_path: Path, postgres_url: str) -> None:
    ruled, guessed, unknown = (
        make_job_ids(plan(seed)).webhook_id for seed in ("ruled", "guessed", "unknown")
    )
    routes = V4_ROUTES.format(webhook=ruled)
    with running_whole_service(tmp_path, postgres_url, routes, ATTRIBUTE_TO_OPEN_RUN="1") as service:
        url = service.webhook_url
        plans = [
            plan("ruled", url, v4=True, runs=2, parallel=2),
            plan("guessed", url, v4=True, pause_s=0.05),
            # Two open runs of one webhook: nothing says whose the batches are.
            plan("unknown", url, v4=True, runs=2, parallel=2, accounts=2, pause_s=0.05),
        ]
        with SimulatedRuns(plans) as play:
            reports = play.wait_for_reports()
            service.wait_until_settled()
        with service.store.engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT webhook_id, state, reason, integrated_account_id, account_source, "
                    "sum(records) AS records FROM rapidbridge_deliveries "
                    "WHERE event = 'sync_job_run:record' GROUP BY 1, 2, 3, 4, 5"
                )
            ).all()
            by_account: dict[str, int] = dict(
                connection.execute(text('SELECT "_account", count(*) FROM crm_contacts GROUP BY 1')).all()
            )

    [account] = {
        report.integrated_account_id for report in reports if report.sync_job_id == job_of("guessed")
    }
    records = {(row.webhook_id, row.state, row.reason, row.account_source): row.records for row in rows}
    assert records[ruled, "settled", "", "webhook"] == 300
    assert records[guessed, "settled", "", "open_run"] == 300
    # The first pages may arrive while one run is open: they are its own.
    of_unknown = [row for row in rows if row.webhook_id == unknown and row.state == "quarantined"]
    assert {row.reason for row in of_unknown} == {"no_account"}
    assert "" not in by_account
    assert {"ruled", account} <= by_account.keys()
