"""The pages of deliveries: found, read, replayed and discarded in the real web process, on both databases."""

import html
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import delete, func, select, text, update

from app.database.engine import Database, open_database
from app.replay.executor import OperationExecutor
from app.store.audit_log import AuditLog
from app.store.migrate import migrate
from app.store.models import DeliveryAttempt, DeliveryState, SinkOutcome, SinkOutcomeState
from app.store.operations import Operations
from app.store.schema import deliveries, metadata
from app.store.stored_body import PART_BYTES
from tests.support.dashboard import READ_PASSWORD, SETTINGS, DashboardClient
from tests.support.postgres import PostgresServer
from tests.support.processes import find_descendants
from tests.support.seeded_store import NOW, SECRET_NAME, SeededStore
from tests.support.waiting import measure_slowdown
from tests.support.web_process import WebProcess

HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>\u202e\x00"
# Nearly incompressible: the stored body is half as large.
LARGE = b'{"payload": "' + os.urandom(15 * 1024 * 1024 + 512 * 1024).hex().encode() + b'"}'
MAX_STALL_S = 0.25


class Site:
    """A web process, a signed-in client, and the store of both."""

    def __init__(self, web: WebProcess, client: DashboardClient, store: Database) -> None:
        self.web, self.client, self.store = web, client, store
        self.seeded = SeededStore(store, "")

    def list_actions(self) -> list[tuple[str, str]]:
        """Return the recorded actions but the sign-in, oldest first."""
        entries = AuditLog(self.store).list_newest(limit=100)
        return [(entry.action, entry.subject) for entry in reversed(entries) if "sign" not in entry.action]

    def read_form(self, delivery: UUID) -> dict[str, str]:
        """Return the hidden fields of the forms on a delivery's page."""
        page = self.client.read(f"/deliveries/{delivery}")
        return {"version": html.unescape(re.findall(r'name="version" value="([^"]*)"', page)[0])}

    def execute_operations(self) -> int:
        """Carry out all operations, as the background loop of the workers does; return their number."""
        executor, unfinished = (
            OperationExecutor(self.store, owner="a test"),
            Operations(self.store).list_unfinished(),
        )
        for operation in unfinished:
            while executor.run_slice(operation.id):
                continue
            executor.release(operation.id)
        return len(unfinished)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[tuple[WebProcess, DashboardClient, Database]]:
    """A web process for each kind of database."""
    folder = tmp_path_factory.mktemp("deliveries")

    def serve(url: str) -> Iterator[tuple[WebProcess, DashboardClient, Database]]:
        store = open_database(url)
        migrate(store)
        with (
            WebProcess(folder, database_url=url, redis_url=redis_url, **SETTINGS) as web,
            DashboardClient(web.url) as client,
        ):
            yield web, client, store
        store.close()

    if request.param == "sqlite":
        yield from serve(f"sqlite:///{folder}/store.db")
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        with postgres.database() as url:
            yield from serve(url)


@pytest.fixture
def site(served: tuple[WebProcess, DashboardClient, Database]) -> Site:
    site = Site(*served)
    with site.store.transaction() as connection:
        for table in metadata.sorted_tables:
            connection.execute(delete(table))
    return site


def links(page: str) -> list[UUID]:
    """Return the deliveries to which a list leads, in its order."""
    return [UUID(id_) for id_ in re.findall(r'<th scope="row"><a href="/deliveries/([0-9a-f-]{36})"', page)]


def body_text(page: str) -> str:
    match = re.search(r"<pre[^>]*>\n(.*)</pre>", page, re.DOTALL)
    assert match, page
    return html.unescape(match[1])


def test_the_list_shows_the_newest_deliveries_and_filters_them(site: Site) -> None:
    old = site.seeded.put("settled", integrated_account_id="acme", sync_job_run_id="r/1")
    dead = site.seeded.put("dead", "sink_unavailable", resource="crm/deals", integrated_account_id="acme")
    late = site.seeded.put("late", "after_stop")

    every = site.client.read("/deliveries")

    assert links(every) == [late, dead, old]
    assert "3 deliveries." in every
    assert "a sink did not accept the delivery" in every
    assert 'href="/accounts/acme"' in every
    assert SECRET_NAME not in every
    for parameters, expected in (
        ({"account": "acme"}, [dead, old]),
        ({"account": "acme", "state": "failed"}, [dead]),
        ({"run": "r/1"}, [old]),
        ({"state": "failed"}, [late, dead]),
        ({"state": "settled", "resource": "crm/*"}, [old]),
        ({"reason": "after_stop"}, [late]),
        ({"since": "2999-01-01"}, []),
        ({"until": "2000-01-01", "method": "list"}, []),
        ({"account": "nobody"}, []),
    ):
        page = site.client.read("/deliveries", **parameters)
        assert links(page) == expected, parameters
        assert ("No delivery matches these filters." in page) == (not expected)
    assert site.list_actions() == []


def test_an_empty_inbox_says_how_to_fill_it(site: Site) -> None:
    page = site.client.read("/deliveries")

    assert "No delivery yet." in page
    assert "rapidbridge simulate" in page


def test_pages_of_the_list_follow_each_other(site: Site) -> None:
    ids = [site.seeded.put("settled") for _ in range(51)]

    first = site.client.read("/deliveries", state="settled")
    [next_url] = re.findall(r'<a href="([^"]+)" rel="next">Next page', first)
    second = site.client.read(html.unescape(next_url))

    assert [*links(first), *links(second)] == ids[::-1]
    assert len(links(first)) == 50
    assert 'rel="next"' not in second
    assert 'href="/deliveries?state=settled">First page' in second


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"since": "soon"}, "is not a time"),
        ({"state": "sattled"}, "there is no state sattled"),
        ({"after": "x"}, "incomplete"),
        ({"after": "WyIyMDI2LTExLTI2VDEwOjAwOjAwIiwgIngiXQ=="}, "incomplete"),
        ({"id": "zz"}, "at least its first 4 characters"),
    ],
)
def test_wrong_filters_are_explained(site: Site, parameters: dict[str, str], problem: str) -> None:
    response = site.client.get("/deliveries", **parameters)

    assert response.status_code == 400
    assert problem in html.unescape(response.text)


def test_hostile_names_are_only_text(site: Site) -> None:
    names = ("resource", "method", "integrated_account_id", "sync_job_run_id", "event", "webhook_id")
    envelope: dict[str, Any] = dict.fromkeys(names, HOSTILE)
    delivery = site.seeded.put("pending", **envelope)
    outcome = SinkOutcome(delivery, HOSTILE, SinkOutcomeState.FAILING, 0, 0, HOSTILE, HOSTILE, NOW)
    attempt = DeliveryAttempt(delivery, 1, HOSTILE, NOW, NOW, DeliveryState.PENDING, HOSTILE, HOSTILE, NOW)
    site.seeded.settle(delivery, "pending", HOSTILE, outcomes=[outcome], attempt=attempt)
    stored = HOSTILE.replace("\x00", "\ufffd")

    pages = [
        site.client.read("/deliveries"),
        site.client.read("/deliveries", account=stored, resource=HOSTILE),
        site.client.read(f"/deliveries/{delivery}"),
    ]

    for page in pages:
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "&lt;script&gt;alert" in page
    assert links(pages[1]) == [delivery]


def test_ids_may_be_short_and_wrong_ones_are_explained(site: Site) -> None:
    first = site.seeded.put(id=UUID("12345678-0000-8000-8000-000000000001"))
    second = site.seeded.put(id=UUID("12345678-0000-8000-8000-000000000002"))
    third = site.seeded.put(id=UUID("aaaa5678-0000-8000-8000-000000000003"))

    short = site.client.http.get("/deliveries/aaaa", follow_redirects=True)
    upper = site.client.read(f"/deliveries/{str(first).upper()}")
    ambiguous = site.client.http.get("/deliveries/12345678", follow_redirects=True)
    unknown = site.client.get(f"/deliveries/{uuid4()}")

    assert f"<h1>Delivery {third}</h1>" in short.text
    assert f"<h1>Delivery {first}</h1>" in upper
    assert links(ambiguous.text) == [second, first]
    assert (unknown.status_code, "There is no delivery" in unknown.text) == (404, True)
    assert "No delivery matches" in site.client.read("/deliveries", id="ffff")
    for wrong in ("x", "..", "%00", "<script>", "1" * 33, "1" * 2000):
        response = site.client.http.get(f"/deliveries/{wrong}", follow_redirects=True)
        assert response.status_code in (200, 400, 404)
        assert "<script>" not in response.text
    for path in ("body", "body/raw"):
        assert site.client.get(f"/deliveries/{uuid4()}/{path}").status_code == 404
        assert site.client.get(f"/deliveries/12345/{path}").status_code == 404


def test_a_delivery_is_shown_with_its_life_and_the_next_step(site: Site) -> None:
    delivery = site.seeded.put("pending", sync_job_run_id="run-1", integrated_account_id="acme")
    message = "the database refused the connection"
    outcomes = [
        SinkOutcome(delivery, "lake", SinkOutcomeState.DONE, 7, 0, "", "", NOW),
        SinkOutcome(delivery, "main", SinkOutcomeState.FAILING, 0, 0, "sink_unavailable", message, NOW),
    ]
    attempt = DeliveryAttempt(
        delivery, 1, "host:a:1", NOW, NOW, DeliveryState.PENDING, "sink_unavailable", f"main: {message}", NOW
    )
    site.seeded.settle(delivery, "pending", "sink_unavailable", outcomes=outcomes, attempt=attempt)
    waiting = site.client.read(f"/deliveries/{delivery}")
    site.seeded.settle(delivery, "dead", "sink_unavailable", records=7)
    page = site.client.read(f"/deliveries/{delivery}")

    assert " data-live" in waiting
    assert "waits for the next attempt" in waiting
    assert ">Replay<" not in waiting
    assert "a sink did not accept the delivery. Next: check the sink;" in page
    assert "attempt 1: failed" in page
    assert f"main: {message}" in page
    assert 'href="/runs/run-1"' in page
    assert 'href="/accounts/acme"' in page
    assert ">Replay<" in page
    assert SECRET_NAME not in page
    assert " data-live" not in page


def test_a_body_is_shown_and_downloaded_as_it_came_and_both_are_recorded(site: Site) -> None:
    body = '\n{"a": "<b>&amp;\u2028é", "n": 1.0e2}\n'.encode() * 3
    delivery = site.seeded.put(body=body)

    page = site.client.read(f"/deliveries/{delivery}/body")
    raw = site.client.get(f"/deliveries/{delivery}/body/raw")

    assert body_text(page).encode() == body
    assert raw.content == body
    assert raw.headers["Content-Type"] == "application/octet-stream"
    assert raw.headers["Content-Disposition"] == f'attachment; filename="delivery-{delivery}.json"'
    assert raw.headers["Content-Security-Policy"].startswith("sandbox")
    assert raw.headers["Cache-Control"] == "no-store"
    assert site.list_actions() == [("body.show", str(delivery)), ("body.download", str(delivery))]


def test_a_body_that_cannot_be_shown_is_explained(site: Site) -> None:
    pruned, erased, damaged, cut, binary = (
        site.seeded.put(body=os.urandom(PART_BYTES * 2)) for _ in range(5)
    )
    empty = site.seeded.put("quarantined", "empty_body", body=b" ")
    site.seeded.prune(pruned)
    site.seeded.prune(erased)

    def change(delivery: UUID, **values: object) -> None:
        site.store.execute(update(deliveries).where(deliveries.c.id == delivery).values(**values))

    change(erased, body_bytes=0)
    change(damaged, body=b"(\xb5/\xfdrubbish")
    change(cut, body=site.seeded.read_row(cut)["body"][:PART_BYTES])
    change(empty, body=b"(\xb5/\xfd \x00\x01\x00\x00", body_bytes=0)

    for delivery, words in (
        (pruned, "deleted by the retention"),
        (erased, "erased with the data of its account"),
        (damaged, "The stored body is damaged"),
        (binary, "not text in UTF-8"),
        (empty, "The body is empty"),
    ):
        assert words in site.client.read(f"/deliveries/{delivery}/body"), words
    for delivery in (pruned, erased, damaged):
        assert site.client.get(f"/deliveries/{delivery}/body/raw").status_code == 404
    # Damaged after its beginning: the client notices that bytes are missing.
    with pytest.raises(httpx.RemoteProtocolError):
        site.client.get(f"/deliveries/{cut}/body/raw")
    assert site.client.get(f"/deliveries/{binary}/body/raw").status_code == 200


def test_a_body_of_31_mb_stalls_nobody_and_takes_little_memory(site: Site) -> None:
    delivery = site.seeded.put(body=LARGE)
    worker = max(find_descendants(site.web.pid))
    delays: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=site.web.url) as client:
            while not ended.is_set():
                started = time.monotonic()
                client.get("/healthz")
                delays.append(time.monotonic() - started)

    site.client.read("/deliveries")
    before = read_peak_memory(worker)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        started = time.monotonic()
        page = site.client.read(f"/deliveries/{delivery}/body")
        shown_s = time.monotonic() - started
        raw = site.client.get(f"/deliveries/{delivery}/body/raw").content
    finally:
        ended.set()
        thread.join()

    assert body_text(page).encode() == LARGE[: 64 * 1024]
    assert "The first 64.0 KiB of 31.0 MiB" in page
    assert raw == LARGE
    slowdown = measure_slowdown()
    assert shown_s < 1.0 * slowdown
    assert max(delays) < MAX_STALL_S * slowdown
    # SQLite reads a stored body as a whole.
    allowed = 24 if site.store.dialect.name == "postgresql" else 24 + len(LARGE) // 2**20
    assert read_peak_memory(worker) - before < allowed * 2**20


def read_peak_memory(pid: int) -> int:
    """Return the largest resident size of a process so far, in bytes."""
    [line] = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def test_a_delivery_is_replayed_once_however_often_the_button_is_pressed(site: Site) -> None:
    delivery = site.seeded.put("dead", "sink_unavailable")
    form = site.read_form(delivery)

    pressed = [site.client.post(f"/deliveries/{delivery}/replay", **form) for _ in range(3)]

    assert {response.status_code for response in pressed} == {303}
    [location] = {response.headers["Location"] for response in pressed}
    shown = site.client.read(location)
    assert "Replay requested" in shown
    assert ">Replay<" not in shown
    assert site.execute_operations() == 1
    assert site.seeded.read_row(delivery)["state"] == "pending"
    again = site.client.post(f"/deliveries/{delivery}/replay", **form)
    assert again.headers["Location"] == f"/deliveries/{delivery}"
    assert "requeued by a replay" in site.client.read(f"/deliveries/{delivery}")
    site.seeded.settle(delivery, "settled")
    assert site.execute_operations() == 1
    stale = site.client.post(f"/deliveries/{delivery}/replay", **form)
    assert (stale.status_code, "has changed since" in stale.text) == (409, True)
    assert Operations(site.store).list_unfinished() == []
    assert {*site.list_actions()} == {("delivery.replay", str(delivery))}


def test_a_failed_delivery_is_discarded_with_a_reason(site: Site) -> None:
    delivery, settled = site.seeded.put("dead", "sink_unavailable"), site.seeded.put("settled")
    form = site.read_form(delivery)

    nameless = site.client.post(f"/deliveries/{delivery}/discard", because="  ", **form)
    accepted = site.client.post(f"/deliveries/{delivery}/discard", because=f"a test {HOSTILE}", **form)
    finished = site.client.post(f"/deliveries/{settled}/discard", because="x", **site.read_form(settled))

    assert (nameless.status_code, "Enter a reason" in nameless.text) == (400, True)
    assert accepted.status_code == finished.status_code == 303
    assert site.execute_operations() == 1
    row = site.seeded.read_row(delivery)
    assert (row["state"], row["discard_reason"][:6]) == ("discarded", "a test")
    assert site.seeded.read_row(settled)["state"] == "settled"
    page = site.client.read(f"/deliveries/{delivery}")
    assert "Discarded: a test &lt;script&gt;" in page
    assert site.list_actions() == [("delivery.discard", str(delivery))]


def test_a_session_that_only_reads_sees_no_button_and_changes_nothing(site: Site) -> None:
    delivery = site.seeded.put("dead", "sink_unavailable")
    form = site.read_form(delivery)

    with DashboardClient(site.web.url, password=READ_PASSWORD) as reader:
        page = reader.read(f"/deliveries/{delivery}")
        refused = [
            reader.post(f"/deliveries/{delivery}/{action}", because="x", **form)
            for action in ("replay", "discard")
        ]
        assert "Ada" in reader.read(f"/deliveries/{delivery}/body")

    assert ">Replay<" not in page
    assert "Discard" not in page
    assert {response.status_code for response in refused} == {403}
    assert Operations(site.store).list_unfinished() == []


def test_the_start_of_an_id_shows_the_newest_deliveries_and_that_there_are_more(site: Site) -> None:
    ids = [site.seeded.put(id=UUID(f"0198abcd-0000-7000-8000-{number:012}")) for number in range(51)]

    cut = site.client.read("/deliveries", id="0198abcd")
    whole = site.client.read("/deliveries", id="0198abcd-0000-7000-8000-00000000004")

    assert set(links(cut)) == set(ids[1:])
    assert "Enter more of the id" in cut
    assert set(links(whole)) == set(ids[40:50])
    assert "Enter more of the id" not in whole


def test_a_search_for_a_rare_delivery_is_continued(site: Site) -> None:
    if site.store.dialect.name != "postgresql":
        pytest.skip("one database suffices for the words of the page")
    rare = site.seeded.put("settled", resource="rare/thing", received_at=NOW.replace(year=2000))
    columns = [column.name for column in deliveries.c if column.name not in ("id", "received_at", "resource")]
    names = ", ".join(columns)
    fill = (
        f"INSERT INTO {deliveries.name} (id, received_at, resource, {names}) "  # names of the schema
        f"SELECT gen_random_uuid(), received_at + n * interval '1 ms', 'crm/contacts', {names} "
        f"FROM {deliveries.name}, generate_series(1, 60000) AS n"
    )
    site.store.execute(text(fill))

    found: list[UUID] = []
    url, pages = f"/deliveries?{urlencode({'resource': 'rare/*'})}", 0
    while url:
        page = site.client.read(url)
        found += links(page)
        cut = re.findall(r'<a href="([^"]+)" rel="next">Search further back', page)
        assert bool(cut) == ("Searched back to" in page)
        url, pages = html.unescape(cut[0]) if cut else "", pages + 1

    assert found == [rare]
    assert 2 <= pages <= 10
    first = site.client.read("/deliveries", resource="crm/*")
    assert "10,000+ deliveries." in first
    assert "0+ deliveries: the newest 10,000 candidates were counted." in site.client.read(
        "/deliveries", resource="rare/*"
    )
    assert site.store.read(select(func.count()).select_from(deliveries))[0][0] == 60_001
