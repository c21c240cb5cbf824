"""The pages of sinks and routes, and the commands `rapidbridge sinks`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select

from app.database.engine import Database, open_database
from app.store.audit_log import AuditLog
from app.store.bounded_count import BoundedCount
from app.store.column_misfits import ColumnMisfits
from app.store.delete_checks import DeleteChecks
from app.store.migrate import migrate
from app.store.schema import delete_checks, sink_states
from app.store.sink_states import SinkState, SinkStates
from tests.contract.test_held import NOW, hold
from tests.support.dashboard import READ_PASSWORD, SETTINGS, DashboardClient
from tests.support.delete_checks import build_check, save_check
from tests.support.seeded_store import rapidbridge
from tests.support.web_process import WebProcess

HOSTILE = "<script>alert('sink')</script>"
ROUTES = """
[sinks.main]
type = "sql"
url = "postgresql://ada:a-secret@db.example/rows?sslpassword=another-secret"

[sinks.lake]
type = "files"
url = "file://{folder}/lake"

[sinks.search]
type = "http"
url = "https://ada:a-secret@search.example:9/a-secret"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
headers = {{ X-Key = "a-secret" }}

[sinks.function]
type = "python"
target = "no_such_module:write"

[[routes]]
resource = "crm/contacts"
sinks = ["main", "lake"]
table = "people"
columns = {{ zip = "text" }}

[[routes]]
resource = "ticketing/*"
sinks = []

[[routes]]
event = "integrated_account:*"
sinks = ["lake"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sinks")
    (folder / "routes.toml").write_text(ROUTES.format(folder=folder))
    database = open_database(f"sqlite:///{folder}/inbox.db")
    migrate(database)
    database.close()
    return folder


@pytest.fixture(scope="module")
def web(folder: Path, redis_url: str) -> Iterator[WebProcess]:
    url, routes = f"sqlite:///{folder}/inbox.db", str(folder / "routes.toml")
    with WebProcess(folder, database_url=url, redis_url=redis_url, ROUTES_FILE=routes, **SETTINGS) as process:
        yield process


@pytest.fixture
def store(folder: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{folder}/inbox.db")
    yield database
    with database.transaction() as connection:
        connection.execute(sink_states.delete())
        connection.execute(delete_checks.delete())
    database.close()


@pytest.fixture
def client(web: WebProcess) -> Iterator[DashboardClient]:
    with DashboardClient(web.url) as client:
        yield client


def test_the_page_shows_what_waits_and_why_and_no_secret(client: DashboardClient, store: Database) -> None:
    now = datetime.now(UTC)
    for seconds in range(60, 63):
        hold(store, seconds - round((now - NOW).total_seconds()), "main")
    states = SinkStates(store)
    states.pause("lake", by="dashboard", reason=HOSTILE, now=now)
    failure = SinkState("main", retry_at=now + timedelta(hours=1), failures=1, reason="sink_unavailable")
    failure = replace(failure, message=f"the server is away {HOSTILE}")
    states.record_failure(failure, now=now - timedelta(minutes=3))
    states.record_writes({"lake": now - timedelta(minutes=5)})
    ColumnMisfits(store).add({("main", HOSTILE, "zip"): 1234}, now=now)

    page = client.read("/sinks")

    assert "3 deliveries" in page
    assert "1 min" in page
    assert "failing" in page
    assert "the server is away" in page
    assert "5 min ago" in page
    assert "1,234" in page
    assert "paused" in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "https://search.example:9" in page
    assert "no_such_module:write" in page
    assert "a-secret" not in page + client.read("/routes")
    assert "another-secret" not in page + client.read("/routes")
    assert "db.example/rows" in page


def test_a_sink_is_paused_and_resumed_by_forms_that_are_recorded(
    client: DashboardClient, store: Database
) -> None:
    paused = client.post("/sinks/main/pause", reason="a move")
    assert (paused.status_code, paused.headers["Location"]) == (303, "/sinks")
    [state] = SinkStates(store).list()
    assert (state.paused_by, state.pause_reason) == ("dashboard", "a move")
    assert "Resume main" in client.read("/sinks")

    # The second press of each button changes nothing.
    for word in ("pause", "resume", "resume"):
        assert client.post(f"/sinks/main/{word}").status_code == 303

    assert [state.holds for state in SinkStates(store).list()] == [False]
    actions = [entry.action for entry in AuditLog(store).list_newest(limit=9) if "sink" in entry.action]
    assert actions == ["sink.resume", "sink.pause"]


def test_only_a_signed_in_person_who_may_write_pauses_a_known_sink(
    web: WebProcess, client: DashboardClient, store: Database
) -> None:
    with DashboardClient(web.url, password=READ_PASSWORD) as reader:
        assert reader.post("/sinks/main/pause").status_code == 403
        assert "<form" not in reader.read("/sinks").partition("<main")[2]
    assert client.http.post("/sinks/main/pause").status_code == 403
    assert httpx.post(f"{web.url}/sinks/main/pause").status_code == 403
    assert client.get("/sinks/main/pause").status_code == 405
    assert client.post("/sinks/none/pause").status_code == 404

    assert store.read(select(sink_states)) == []


def test_held_deletes_are_approved_by_a_form_that_is_recorded(
    client: DashboardClient, store: Database
) -> None:
    share = save_check(store, build_check("r1", "over_share", resource=f"crm/{HOSTILE}"))
    errors = save_check(store, build_check("r2", "record_errors", resource="crm/deals"))

    page = client.read("/sinks")
    assert "(40 of 100 rows)" in page
    assert "Mark 40 rows as deleted" in page
    assert "the next complete run decides again" in page
    assert HOSTILE not in page

    # The second press changes nothing.
    for _ in range(2):
        approved = client.post(f"/deletes/{share}/approve")
        assert (approved.status_code, approved.headers["Location"]) == (303, "/runs/r1")
    refused = client.post(f"/deletes/{errors}/approve")

    assert refused.status_code == 409
    assert "Truto could not fetch all records of the resource" in refused.text
    check = DeleteChecks(store).get(share)
    assert check
    assert (check.state, check.approved_by) == ("due", "dashboard")
    assert f"/deletes/{share}/approve" not in client.read("/sinks")
    entries = [entry for entry in AuditLog(store).list_newest(limit=9) if "deletes" in entry.action]
    assert [(e.action, e.subject, e.number) for e in entries] == [
        ("deletes.approve", str(share), BoundedCount(40))
    ]


def test_only_a_signed_in_person_who_may_write_approves_a_known_check(
    web: WebProcess, client: DashboardClient, store: Database
) -> None:
    id_ = save_check(store, build_check("r3", "over_share"))
    with DashboardClient(web.url, password=READ_PASSWORD) as reader:
        assert reader.post(f"/deletes/{id_}/approve").status_code == 403
        page = reader.read("/sinks").partition("<main")[2]
        assert "<form" not in page
        assert f"rapidbridge deletes approve {id_}" in page
    assert client.http.post(f"/deletes/{id_}/approve").status_code == 403
    assert httpx.post(f"{web.url}/deletes/{id_}/approve").status_code == 403
    assert client.get(f"/deletes/{id_}/approve").status_code == 405
    assert client.post(f"/deletes/{uuid4()}/approve").status_code == 404
    assert client.post("/deletes/none/approve").status_code == 404

    check = DeleteChecks(store).get(id_)
    assert check
    assert check.state == "held_back"


def test_readiness_counts_held_deletes_as_a_warning(web: WebProcess, store: Database) -> None:
    save_check(store, build_check("r4", "over_share"))
    save_check(store, build_check("r5", "record_errors", resource="crm/deals"))
    save_check(store, build_check("r6", "over_share", resource="crm/old", at=NOW - timedelta(days=8)))

    ready = httpx.get(f"{web.url}/readyz", timeout=10).json()
    while "held_deletes" not in ready.get("warnings", {}):
        ready = httpx.get(f"{web.url}/readyz", timeout=10).json()

    expected = "2 delete checks held back, 1 until an approval; run: rapidbridge deletes list --held"
    assert ready["warnings"]["held_deletes"] == expected


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ({"resource": "crm/contacts", "method": "list"}, "Route 1 takes it, to main, lake."),
        ({"resource": "ticketing/tickets"}, "Route 2 takes it, and has no sinks"),
        ({"event": "integrated_account:active"}, "Route 3 takes it, to lake."),
        ({"resource": "hris/employees"}, "No route takes it: its deliveries are unrouted"),
        ({"event": "sync_job_run:completed"}, "No route takes it. The event carries no records"),
        ({"resource": HOSTILE}, "No route takes it: its deliveries are unrouted"),
    ],
)
def test_the_route_of_a_delivery_is_found(
    client: DashboardClient, parameters: dict[str, str], answer: str
) -> None:
    page = client.read("/routes", **parameters)

    assert answer in page
    assert HOSTILE not in page
    assert "zip text" in page


def test_readiness_names_a_paused_sink_as_a_warning(web: WebProcess, store: Database) -> None:
    hold(store, 70, "lake")
    SinkStates(store).pause("lake", by="ada", reason="", now=datetime.now(UTC))

    ready = httpx.get(f"{web.url}/readyz", timeout=10).json()
    while "paused_sinks" not in ready.get("warnings", {}):
        ready = httpx.get(f"{web.url}/readyz", timeout=10).json()

    assert ready["warnings"]["paused_sinks"].startswith("sink lake paused, 1 delivery held; run: ")
    assert ready["backlog"] == "ok"


def run(folder: Path, *words: str, code: int = 0) -> str:
    url, routes = f"sqlite:///{folder}/inbox.db", str(folder / "routes.toml")
    ran = rapidbridge(*words, DATABASE_URL=url, ROUTES_FILE=routes)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_commands_pause_list_and_resume(folder: Path, store: Database) -> None:
    assert "Sink main is paused" in run(folder, "sinks", "pause", "main", "--reason", "a move")
    assert "was paused before" in run(folder, "sinks", "pause", "main")

    listed = run(folder, "sinks", "list", code=1)
    assert "paused" in listed
    assert "(a move)" in listed
    assert "rapidbridge sinks resume main" in listed.replace("python -m app.cli", "rapidbridge")
    by_name = {sink["sink"]: sink for sink in json.loads(run(folder, "sinks", "list", "--json", code=1))}
    assert (by_name["main"]["state"], by_name["main"]["type"]) == ("paused", "sql")
    assert (by_name["lake"]["state"], by_name["lake"]["last_write_at"]) == ("ok", None)

    assert "Sink main continues" in run(folder, "sinks", "resume", "main")
    assert "was not paused" in run(folder, "sinks", "resume", "main")
    run(folder, "sinks", "list")


def test_a_misspelt_sink_is_refused_with_the_known_ones(folder: Path) -> None:
    output = run(folder, "sinks", "pause", "mian", code=2)

    assert "no sink named mian; known: function, lake, main, search. Did you mean main?" in " ".join(
        output.split()
    )
