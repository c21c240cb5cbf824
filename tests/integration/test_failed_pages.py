"""The pages of failures and operations: exactly the set that was counted is replayed or discarded, once."""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import update

from app.clock import utc_now
from app.database.engine import Database, open_database
from app.replay.executor import OperationExecutor
from app.store.audit_log import AuditLog
from app.store.migrate import migrate
from app.store.operations import Operations
from app.store.schema import deliveries
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from tests.support.dashboard import READ_PASSWORD, SETTINGS, DashboardClient
from tests.support.seeded_store import SECRET_NAME, SeededStore
from tests.support.web_process import WebProcess

TABLES = ("deliveries", "dead_records", "sink_outcomes", "operations", "replays", "audit_log", "workers")
HOSTILE = "crm/<script>alert(1)</script>*%'\" onload=x"


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('failed')}/inbox.db"
    database = open_database(url)
    migrate(database)
    database.close()
    return url


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, database_url: str, redis_url: str) -> Iterator[WebProcess]:
    folder = tmp_path_factory.mktemp("web")
    with WebProcess(folder, database_url=database_url, redis_url=redis_url, **SETTINGS) as process:
        yield process


@pytest.fixture
def seeded(database_url: str) -> Iterator[SeededStore]:
    """An empty store behind the web process."""
    database = open_database(database_url)
    for table in TABLES:
        with database.transaction() as connection:
            connection.exec_driver_sql(f"DELETE FROM rapidbridge_{table}")
    yield SeededStore(database, database_url)
    database.close()


@pytest.fixture
def client(web: WebProcess, seeded: SeededStore) -> Iterator[DashboardClient]:  # migrated first
    with DashboardClient(web.url) as client:
        yield client


def find_links(page: str, path: str) -> list[str]:
    """Return the links of a page that begin with a path."""
    return [unescape(link) for link in re.findall(r'href="([^"]*)"', page) if link.startswith(path)]


def read_form(page: str) -> dict[str, str]:
    """Return the hidden fields of a confirmation, without the one against forgery."""
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page)
    return {name: unescape(value) for name, value in fields if name != "csrf"}


def confirm(client: DashboardClient, link: str, **fields: str) -> httpx.Response:
    """Open a confirmation and send its form."""
    form = read_form(client.read(link))
    return client.post(urlsplit(link).path, **form, **fields)


def list_actions(seeded: SeededStore, action: str) -> list[str]:
    """Return the subjects of an action's audit entries."""
    entries = AuditLog(seeded.store).list_newest(limit=99)
    return [entry.subject for entry in entries if entry.action == action]


def run_operation(seeded: SeededStore, response: httpx.Response) -> str:
    """Carry out the operation that a form started; return the text of its page's path."""
    assert response.status_code == 303, response.text
    path = response.headers["Location"]
    operation_id = Operations(seeded.store).list_newest(limit=1)[0].id
    assert path == f"/operations/{operation_id}"
    executor = OperationExecutor(seeded.store, owner="a test")
    while executor.run_slice(operation_id):
        continue
    executor.release(operation_id)
    return path


def test_groups_show_their_cause_number_and_next_step(seeded: SeededStore, client: DashboardClient) -> None:
    for _ in range(3):
        newest = seeded.put("unrouted", "no_route", resource="hr/people")
    seeded.put("dead", "worker_lost", resource="")
    seeded.put_with_dead_records()

    page = client.read("/failed")
    records = client.read("/failed?kind=records")

    assert "No route matches the delivery. Add a route for it, then replay the delivery." in page
    assert f"/deliveries/{newest}" in page
    assert "Failed deliveries 4" in page
    assert "Dead records 2" in page
    assert "too_deep" in records
    assert "too_deep" not in page
    assert SECRET_NAME not in page + records


def test_windows_and_filters_are_links_and_fields(seeded: SeededStore, client: DashboardClient) -> None:
    seeded.put("dead", "worker_lost", resource="crm/deals")
    seeded.put("late", "after_stop", resource="hr/people", integrated_account_id="another")

    assert "worker_lost" in client.read("/failed?window=24h")
    assert [link for link in find_links(client.read("/failed?state=late"), "/failed?") if "window=1h" in link]
    assert "worker_lost" not in client.read("/failed?state=late")
    assert "worker_lost" in client.read("/failed?resource=crm/*")
    assert "after_stop" in client.read("/failed?account=another")
    assert "worker_lost" not in client.read("/failed?account=another")
    assert "No failure matches." in client.read("/failed?reason=nothing")
    for path in ("/failed?state=settled", "/failed?window=2h", "/failed?after=x", "/failed/replay?since=x"):
        response = client.get(path)
        assert response.status_code == 400, path
        assert "go back" in response.text.lower()


def test_a_store_without_failures_says_so(client: DashboardClient) -> None:
    assert "Nothing has failed." in client.read("/failed")
    assert "Nothing has been replayed or discarded yet." in client.read("/operations")


def test_exactly_one_cause_is_discarded_after_a_confirmation_with_its_number(
    seeded: SeededStore, client: DashboardClient
) -> None:
    chosen = [seeded.put("dead", "worker_lost", resource="") for _ in range(2)]
    others = [seeded.put("dead", "worker_lost", resource="crm/x"), seeded.put("late", "after_stop")]
    link = next(
        link
        for link in find_links(client.read("/failed"), "/failed/discard")
        if ("cause_reason", "worker_lost") in parse_qsl(urlsplit(link).query)
        and "cause_resource=&" in f"{link}&"
    )

    page = client.read(link)
    without_reason = confirm(client, link, because=" ")
    started = confirm(client, link, because="not ours")
    path = run_operation(seeded, started)
    shown = client.read(path)

    assert "Discard 2 failed deliveries?" in page
    assert without_reason.status_code == 400
    assert "Enter a reason" in without_reason.text
    assert [seeded.read_row(id_)["state"] for id_ in chosen] == ["discarded"] * 2
    assert [seeded.read_row(id_)["discard_reason"] for id_ in chosen] == ["not ours"] * 2
    assert [seeded.read_row(id_)["state"] for id_ in others] == ["dead", "late"]
    assert "2 of 2" in shown
    assert "not ours" in shown
    entries = AuditLog(seeded.store).list_newest(limit=9)
    actions = [
        (entry.action, entry.number.number, entry.actor) for entry in entries if entry.action != "sign_in"
    ]
    assert actions == [("failed.discard", 2, "dashboard")]


def test_a_replay_of_all_failures_shows_its_result(seeded: SeededStore, client: DashboardClient) -> None:
    for _ in range(2):
        seeded.put("unrouted", "no_route")
    link = find_links(client.read("/failed"), "/failed/replay")[0]

    page = client.read(link)
    path = run_operation(seeded, confirm(client, link))
    running, listed = client.read(path), client.read("/operations")
    for _ in range(2):
        client.post(f"{path}/cancel")
    client.post(f"/operations/{uuid4()}/cancel")
    cancelled = client.read(path)

    assert len(list_actions(seeded, "operation.cancel")) == 1
    assert "Replay 2 failed deliveries?" in page
    assert "No worker is running" in page
    assert "0 of 2" in running
    assert re.search(r'class="figure">2</span>\s*<span class="badge quiet">.*pending', running)
    assert path in listed
    assert "Cancelled." in cancelled
    assert 'action="/operations' not in cancelled


def test_two_people_who_confirm_at_once_start_one_operation(
    web: WebProcess, seeded: SeededStore, client: DashboardClient
) -> None:
    seeded.put("dead", "worker_lost")
    form = read_form(client.read("/failed/discard"))

    with DashboardClient(web.url) as other, ThreadPoolExecutor(2) as pool:
        responses = list(
            pool.map(lambda who: who.post("/failed/discard", **form, because="x"), (client, other))
        )
        run_operation(seeded, responses[0])
        late = other.post("/failed/discard", **form, because="x")

    assert responses[0].headers["Location"] == responses[1].headers["Location"]
    assert len(Operations(seeded.store).list_newest(limit=9)) == 1
    assert late.status_code == 409
    assert "Nothing matches." in late.text


def test_failures_after_the_count_are_left_out(seeded: SeededStore, client: DashboardClient) -> None:
    counted = seeded.put("dead", "worker_lost")
    form = read_form(client.read("/failed/discard"))
    later = seeded.put("dead", "worker_lost", received_at=datetime.now(UTC))
    run_operation(seeded, client.post("/failed/discard", **form, because="x"))

    assert seeded.read_row(counted)["state"] == "discarded"
    assert seeded.read_row(later)["state"] == "dead"


def test_dead_records_are_discarded_from_their_tab(seeded: SeededStore, client: DashboardClient) -> None:
    seeded.put_with_dead_records(count=3)
    other = seeded.put("dead", "worker_lost")
    link = find_links(client.read("/failed?kind=records"), "/failed/discard")[-1]

    page = client.read(link)
    run_operation(seeded, confirm(client, link, because="agreed"))

    assert "Discard 3 dead records?" in page
    assert "No dead records." in client.read("/failed?kind=records")
    assert seeded.read_row(other)["state"] == "dead"


def test_a_read_only_session_sees_failures_and_cannot_act(
    web: WebProcess, seeded: SeededStore, client: DashboardClient
) -> None:
    seeded.put("dead", "worker_lost")
    form = read_form(client.read("/failed/discard"))

    with DashboardClient(web.url, password=READ_PASSWORD) as reader:
        page = reader.read("/failed")
        confirmation = reader.read("/failed/discard")
        refused = reader.post("/failed/discard", **form, because="x")

    assert "worker_lost" in page
    assert not find_links(page, "/failed/")
    assert 'method="post" action="/failed' not in confirmation
    assert refused.status_code == 403
    assert Operations(seeded.store).list_newest(limit=1) == []


def test_a_form_without_its_token_starts_nothing(seeded: SeededStore, client: DashboardClient) -> None:
    seeded.put("dead", "worker_lost")
    form = read_form(client.read("/failed/discard"))

    response = client.http.post("/failed/discard", data={**form, "because": "x"})

    assert response.status_code == 403
    assert Operations(seeded.store).list_newest(limit=1) == []


def test_hostile_names_are_text_and_their_set_is_exact(seeded: SeededStore, client: DashboardClient) -> None:
    hostile = seeded.put("dead", HOSTILE, resource=HOSTILE)
    similar = seeded.put("dead", HOSTILE, resource=HOSTILE.replace("*", "-"))
    page = client.read("/failed")
    link = next(
        link
        for link in find_links(page, "/failed/discard")
        if ("cause_resource", HOSTILE) in parse_qsl(urlsplit(link).query)
    )

    confirmation = client.read(link)
    run_operation(seeded, confirm(client, link, because=HOSTILE))

    assert "<script>alert" not in page + confirmation + client.read("/operations")
    assert seeded.read_row(hostile)["state"] == "discarded"
    assert seeded.read_row(similar)["state"] == "dead"


def test_a_form_that_is_sent_again_after_another_failure_starts_nothing(
    seeded: SeededStore, client: DashboardClient
) -> None:
    failed = seeded.put("dead", "worker_lost")
    form = read_form(client.read("/failed/discard"))
    # It was replayed, and has failed again.
    seeded.store.execute(
        update(deliveries)
        .where(deliveries.c.id == failed)
        .values(settled_at=utc_now() + timedelta(minutes=1))
    )

    response = client.post("/failed/discard", **form, because="a test")

    assert response.status_code == 409, response.text
    assert "Nothing matches" in response.text
    assert not list_actions(seeded, "failed.discard")
    assert not Operations(seeded.store).list_newest(limit=9)


def test_an_operation_says_how_many_of_its_set_it_left_out(
    seeded: SeededStore, client: DashboardClient
) -> None:
    for _ in range(3):
        failed = seeded.put("dead", "worker_lost")
    response = confirm(client, "/failed/discard", because="a test")
    seeded.store.execute(update(deliveries).where(deliveries.c.id == failed).values(state="discarded"))

    path = run_operation(seeded, response)

    assert "1 of the 3 were left out" in client.read(path)


def test_unknown_operations_are_not_found(client: DashboardClient) -> None:
    assert client.post(f"/operations/{uuid4()}/cancel").status_code == 404
    assert client.get(f"/operations/{uuid4()}").status_code == 404
    assert client.get("/operations/x").status_code == 404
    assert client.get("/operations?after=x").status_code == 400


def test_long_lists_have_pages(seeded: SeededStore, client: DashboardClient) -> None:
    for number in range(60):
        seeded.put("dead", f"reason_{number:02}")

    first = client.read("/failed")
    [link] = [link for link in find_links(first, "/failed?") if "after=" in link]
    second = client.read(link)

    assert first.count("reason_24") > 0
    assert "reason_25" not in first
    assert "reason_49" in second
    assert "reason_24" not in second


def test_workers_with_other_routes_are_named_instead_of_a_replay(
    seeded: SeededStore, client: DashboardClient
) -> None:
    seeded.put("dead", "worker_lost")
    form = read_form(client.read("/failed/replay"))
    _register_outdated_worker(seeded.store)

    page = client.read("/failed/replay")
    refused = client.post("/failed/replay", **form)

    for text in (page, refused.text):
        assert "1 of 1 running worker has another configuration than the process that starts" in text
        assert "then start the replay again" in text
    assert refused.status_code == 409
    assert Operations(seeded.store).list_newest(limit=1) == []


def _register_outdated_worker(database: Database) -> None:
    now = datetime.now(UTC)
    record = WorkerRecord("old:aa", now, "{}", "digest")
    WorkerRegistry(database).record_heartbeat(record, now=now)


def encode_set(**values: object) -> str:
    """Return the value of a confirmation's form, with some values changed."""
    valid = {"filter": {"reason": "x"}, "kind": "records", "counted_at": "2026-01-01T00:00:00+00:00"}
    return urlsafe_b64encode(json.dumps(valid | values).encode()).decode()


@pytest.mark.parametrize("action", ["replay", "discard"])
def test_causes_with_line_breaks_and_direction_marks_are_found_again(
    seeded: SeededStore, client: DashboardClient, action: str
) -> None:
    seeded.put("dead", "worker_lost", resource="crm/\u200f\ndeals")
    seeded.put("dead", "worker_lost", resource="crm/deals")
    links = find_links(client.read("/failed"), f"/failed/{action}")
    link = next(link for link in links if "%E2%80%8F" in link)

    page = client.read(link)
    fields = {**read_form(page), "because": "not ours"}
    run_operation(seeded, client.post(f"/failed/{action}", **fields))

    assert "1 failed delivery?" in page
    assert not re.search("[\r\n\ufffd\u200f]", "".join(fields.values()))
    assert not [link for link in find_links(client.read("/failed"), "/failed") if "%E2%80%8F" in link]


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "é",
        "AAA",
        urlsafe_b64encode(b"[]").decode(),
        urlsafe_b64encode(b"[" * 9000).decode(),
        encode_set(kind="x"),
        encode_set(counted_at="2026-01-01"),
        encode_set(counted_at=1),
        encode_set(filter=[]),
        encode_set(filter={"reason": 1}),
        encode_set(filter={"reason": "\ud800"}),
        encode_set(filter={"ids": []}),
        encode_set(filter={"since": "2026-01-01T00:00:00"}),
        encode_set(filter={"states": ["settled"]}),
        encode_set(filter={"states": [[]]}),
        encode_set(filter={"cause": {"state": "dead"}}),
    ],
)
def test_a_changed_set_is_refused(client: DashboardClient, encoded: str) -> None:
    response = client.post("/failed/discard", set=encoded, because="not ours")

    assert response.status_code == 400
    assert "The form is incomplete. Go back" in response.text
    assert client.post("/failed/replay").status_code == 400
