"""The demo's verdict: it must be able to say no."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from app.cli.findings import compare_runs
from app.config.routes import build_default_routes
from app.database.engine import Database, open_database
from app.simulator.records import digest_record
from app.simulator.report import RunReport
from app.sinks import SinkRegistry
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.truto.events import read_envelope
from workers.delivery.processor import DeliveryProcessor

RECORDS = [{"id": "1", "n": "one"}, {"id": "2", "n": "two"}]
CREATED_AT = "2026-11-24T10:00:00.000Z"


class DeliveredRun:
    """One run of one page, delivered; and the report of whoever sent it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/store.db"
        self.store: Database = open_database(self.url)
        migrate(self.store)
        self.report = RunReport("r", "j", "a", status="completed")
        self.report.fetched["crm/contacts", "list"] = 2
        self.report.response_counts = Counter(accepted=2)
        for record in RECORDS:
            self.report.expected["crm/contacts", record["id"]] = (CREATED_AT, digest_record(record))
        about = {
            "sync_job_run_id": "r",
            "integrated_account_id": "a",
            "resource": "crm/contacts",
            "method": "list",
        }
        self._deliver("sync_job_run:record", {**about, "records": RECORDS})
        self._deliver("sync_job_run:completed", {"id": "r", "status": "completed"})

    def _deliver(self, event: str, payload: object) -> None:
        body = json.dumps(
            {"id": event, "event": event, "created_at": CREATED_AT, "payload": payload}
        ).encode()
        digest = hashlib.sha256(body).digest()
        [receipt] = Inbox(self.store).put(
            [IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))]
        )
        routes = build_default_routes(self.url)
        sinks = SinkRegistry(routes)
        DeliveryProcessor(self.store, routes, sinks.open).deliver([receipt.delivery_id])
        sinks.close()

    def change(self, statement: str) -> None:
        with self.store.engine.begin() as connection:
            connection.execute(text(statement))

    @property
    def problems(self) -> str:
        return "\n".join(compare_runs(self.store, self.url, [self.report], duration_s=1).problems)


@pytest.fixture
def played(tmp_path: Path) -> Iterator[DeliveredRun]:
    made = DeliveredRun(tmp_path)
    yield made
    made.store.close()


def test_where_all_is_well_there_is_no_problem(played: DeliveredRun) -> None:
    findings = compare_runs(played.store, played.url, [played.report], duration_s=1)

    assert findings.is_ok
    assert findings.compared_rows == 2
    assert findings.as_json()["runs"][0]["resources"] == [
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


COPY = """INSERT INTO crm_contacts SELECT _account, '3', data, _version, _vseq, _job, _run, _method, _deleted_at,
    _first_seen_at, _changed_at, _written_at, _meta FROM crm_contacts WHERE _key = '1'"""


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM crm_contacts WHERE _key = '1'", "1 records of crm/contacts without a row"),
        ("DROP TABLE crm_contacts", "2 records of crm/contacts without a row"),
        (
            "UPDATE crm_contacts SET data = '{}' WHERE _key = '1'",
            "1 rows of crm/contacts that are not the newest",
        ),
        (COPY, "1 rows of crm/contacts that nobody sent"),
        ("UPDATE rapidbridge_sink_outcomes SET written = 1, dead = 1", "1 written, 1 dead"),
        ("UPDATE rapidbridge_deliveries SET records = 3", "3 arrived"),
        ("UPDATE rapidbridge_runs SET status = 'running'", "the ledger says running"),
        ("UPDATE rapidbridge_deliveries SET state = 'pending'", "2 deliveries are pending"),
        (
            "UPDATE rapidbridge_deliveries SET duplicates = 1",
            "0 duplicates were answered, the inbox counted 2",
        ),
        ("DELETE FROM rapidbridge_deliveries", "2 deliveries were accepted, the inbox holds 0"),
    ],
)
def test_everything_amiss_is_a_problem(played: DeliveredRun, statement: str, problem: str) -> None:
    played.change(statement)

    assert problem in played.problems


def _one_more(report: RunReport) -> None:
    report.fetched["crm/contacts", "list"] += 1


def _never_answered(report: RunReport) -> None:
    report.response_counts["failed"] += 1


def _errors(report: RunReport) -> None:
    report.record_errors = 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_one_more, "3 fetched, 2 arrived, 2 written"),
        (_never_answered, "1 requests had no proper answer"),
        (_errors, "had 4 record errors, the ledger has 0"),
    ],
)
def test_a_report_that_says_otherwise_is_a_problem(
    played: DeliveredRun, change: Callable[[RunReport], None], problem: str
) -> None:
    change(played.report)

    assert problem in played.problems
