"""Every difference between simulated runs and the store or sink is a problem."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from app.checks.simulated_runs import RunsComparison, compare_runs
from app.config.routes import build_default_routes
from app.database.engine import Database, open_database
from app.simulator.report import RunReport
from app.simulator.sample_records import digest_record
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.truto.events import read_envelope
from workers.delivery.processor import DeliveryProcessor

RECORDS = [{"id": "1", "n": "one"}, {"id": "2", "n": "two"}]
CREATED_AT = "2026-11-24T10:00:00.000Z"


class DeliveredRun:
    """One delivered run of one page, and the simulator's report of it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/store.db"
        self.database: Database = open_database(self.url)
        migrate(self.database)
        self.report = RunReport("r", "j", "a", status="completed")
        self.report.fetched["crm/contacts", "list"] = 2
        self.report.response_counts = Counter(accepted=2)
        for record in RECORDS:
            self.report.expected["crm/contacts", record["id"]] = (CREATED_AT, digest_record(record))
        payload = {
            "sync_job_run_id": "r",
            "integrated_account_id": "a",
            "resource": "crm/contacts",
            "method": "list",
        }
        self._deliver("sync_job_run:record", {**payload, "records": RECORDS})
        self._deliver("sync_job_run:completed", {"id": "r", "status": "completed"})

    def _deliver(self, event: str, payload: object) -> None:
        body = json.dumps(
            {"id": event, "event": event, "created_at": CREATED_AT, "payload": payload}
        ).encode()
        digest = hashlib.sha256(body).digest()
        [receipt] = Inbox(self.database).put(
            [IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))]
        )
        routes = build_default_routes(self.url)
        sinks = SinkRegistry(routes)
        DeliveryProcessor(self.database, routes, sinks).deliver([receipt.delivery_id])
        sinks.close()

    def change(self, statement: str) -> None:
        with self.database.engine.begin() as connection:
            connection.execute(text(statement))

    def compare(self) -> RunsComparison:
        return compare_runs(self.database, self.url, [self.report], duration_s=1)

    @property
    def problems(self) -> str:
        return "\n".join(self.compare().problems)


@pytest.fixture
def delivered_run(tmp_path: Path) -> Iterator[DeliveredRun]:
    run = DeliveredRun(tmp_path)
    yield run
    run.database.close()


def test_a_complete_run_has_no_problem(delivered_run: DeliveredRun) -> None:
    comparison = delivered_run.compare()

    assert comparison.is_ok
    assert comparison.compared_rows == 2
    assert comparison.as_json()["runs"][0]["resources"] == [
        {
            "resource": "crm/contacts",
            "method": "list",
            "fetched": 2,
            "arrived": 2,
            "written": 2,
            "dead": 0,
            "missing": 0,
        }
    ]


COPY = """INSERT INTO crm_contacts (_account, _key, data, _version, _vseq, _job, _run, _method,
    _first_seen_at, _changed_at, _written_at) SELECT _account, '3', data, _version, _vseq, _job, _run, _method,
    _first_seen_at, _changed_at, _written_at FROM crm_contacts WHERE _key = '1'"""


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM crm_contacts WHERE _key = '1'", "1 record of crm/contacts without a row"),
        ("DROP TABLE crm_contacts", "2 records of crm/contacts without a row"),
        (
            "UPDATE crm_contacts SET data = '{}' WHERE _key = '1'",
            "1 row of crm/contacts not the newest version",
        ),
        (COPY, "1 row of crm/contacts never sent"),
        ("UPDATE rapidbridge_sink_outcomes SET written = 1, dead = 1", "1 written, 1 dead"),
        ("UPDATE rapidbridge_deliveries SET records = 3", "3 arrived"),
        ("UPDATE rapidbridge_runs SET status = 'running'", "the store has running"),
        ("UPDATE rapidbridge_deliveries SET state = 'pending'", "2 deliveries pending"),
        (
            "UPDATE rapidbridge_deliveries SET duplicates = 1",
            "0 duplicates acknowledged, but 2 counted in the inbox",
        ),
        ("DELETE FROM rapidbridge_deliveries", "2 deliveries acknowledged, but 0 in the inbox"),
    ],
)
def test_a_changed_store_or_sink_is_a_problem(
    delivered_run: DeliveredRun, statement: str, problem: str
) -> None:
    delivered_run.change(statement)

    assert problem in delivered_run.problems


def _fetch_one_more(report: RunReport) -> None:
    report.fetched["crm/contacts", "list"] += 1


def _fail_one_request(report: RunReport) -> None:
    report.response_counts["failed"] += 1


def _send_record_errors(report: RunReport) -> None:
    report.record_errors = 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_fetch_one_more, "3 fetched, 2 arrived, 2 written"),
        (_fail_one_request, "1 request without a valid response"),
        (_send_record_errors, "sent 4 record errors, but the store has 0"),
    ],
)
def test_a_report_that_differs_from_the_store_is_a_problem(
    delivered_run: DeliveredRun, change: Callable[[RunReport], None], problem: str
) -> None:
    change(delivered_run.report)

    assert problem in delivered_run.problems
