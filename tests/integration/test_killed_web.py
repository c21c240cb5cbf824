"""A web process killed during requests, and commits that fail.

An acknowledged delivery is stored byte for byte; any other is stored whole or not at all.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest
from redis import Redis
from sqlalchemy import select, text

from app.cli.local.ports import find_free_port
from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.schema import deliveries
from app.truto.signature import sign
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, Command, find_descendants, is_alive
from tests.support.redis_keys import open_spool
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, ParsedResponse, WebProcess, make_environment

SENDERS = 6
RECORDS = 50
PAGES = [
    json.dumps(
        {
            "id": f"e{page}",
            "event": "sync_job_run:record",
            "created_at": "2026-11-24T10:00:00.000Z",
            "payload": {
                "integrated_account_id": "a",
                "resource": "crm/contacts",
                "method": "list",
                "records": [{"id": f"{page}-{number}", "text": "é" * 300} for number in range(RECORDS)],
            },
        }
    ).encode()
    for page in range(SENDERS)
]


@dataclass(frozen=True, slots=True)
class WebSetup:
    """A database, a Redis, and the settings of a web process."""

    store: Database
    redis: Redis
    folder: Path
    settings: dict[str, str]

    def web(self, **settings: str) -> WebProcess:
        database_url, redis_url = self.settings["DATABASE_URL"], self.settings["REDIS_URL"]
        return WebProcess(self.folder, database_url=database_url, redis_url=redis_url, **settings)

    def stored(self) -> dict[UUID, bytes]:
        """Return the bodies in the inbox."""
        inbox = Inbox(self.store)
        with self.store.engine.connect() as connection:
            ids = connection.execute(select(deliveries.c.id)).scalars().all()
        return {id_: inbox.read_body(id_) for id_ in ids}


@contextmanager
def open_site(folder: Path, database_url: str, redis_url: str) -> Iterator[WebSetup]:
    settings = make_environment(DATABASE_URL=database_url, REDIS_URL=redis_url)
    store = open_database(database_url)
    migrate(store)
    with Redis.from_url(redis_url) as redis:
        redis.flushall()
        yield WebSetup(store, redis, folder, settings)
    store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[WebSetup]:
    url = f"sqlite:///{tmp_path}/store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    with open_site(tmp_path, url, redis_url) as setup:
        yield setup


@pytest.fixture
def worker(site: WebSetup) -> Iterator[Command]:
    with Command(["app.cli", "worker"], folder=site.folder, environment=site.settings) as command:
        yield command


@pytest.fixture
def private_site(tmp_path: Path, private_postgres: PostgresServer, redis_url: str) -> Iterator[WebSetup]:
    with private_postgres.database() as url, open_site(tmp_path, url, redis_url) as setup:
        yield setup


@pytest.fixture
def database(private_site: WebSetup) -> Iterator[psycopg.Connection]:
    """A connection that locks, and terminates the backends of others."""
    with psycopg.connect(private_site.settings["DATABASE_URL"], autocommit=True) as connection:
        yield connection


def send(web: WebProcess, page: bytes) -> ParsedResponse | None:
    """Post a page; return None if the connection ends without an answer."""
    try:
        return web.post(page)
    except httpx.TransportError:
        return None


def send_all(web: WebProcess) -> list[ParsedResponse | None]:
    with ThreadPoolExecutor(SENDERS) as senders:
        return list(senders.map(lambda page: send(web, page), PAGES))


def send_again_until_answered(web: WebProcess) -> dict[bytes, ParsedResponse]:
    """Post every page again until it is answered, as Truto does."""
    answers: dict[bytes, ParsedResponse] = {}

    def are_answered() -> bool:
        answers.update(
            {page: answer for page in PAGES if page not in answers and (answer := send(web, page))}
        )
        return len(answers) == len(PAGES)

    wait_until(are_answered, what=lambda: f"answers\n{web.log}")
    return answers


def make_all_due(store: Database) -> None:
    """Make all deliveries due, instead of waiting until the sweeper requeues lost ones."""
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE rapidbridge_deliveries SET due_at = received_at"))


def assert_kept_and_delivered(
    site: WebSetup, worker: Command, web: WebProcess, answers: Sequence[ParsedResponse | None]
) -> None:
    """Check that no page is lost, truncated or stored twice, before and after it is sent again."""
    before = site.stored()
    answered = {UUID(answer.delivery): page for answer, page in zip(answers, PAGES, strict=True) if answer}
    assert {answer.http_status for answer in answers if answer} <= {200}
    assert answered.items() <= before.items()
    assert set(before.values()) <= set(PAGES)

    again = send_again_until_answered(web)
    assert {page: (answer.http_status, answer.status) for page, answer in again.items()} == {
        page: (200, "duplicate" if page in before.values() else "accepted") for page in PAGES
    }
    assert site.stored() == {UUID(answer.delivery): page for page, answer in again.items()}

    make_all_due(site.store)
    counts = Inbox(site.store).count_by_state
    wait_until(lambda: counts().get("settled") == SENDERS, what=lambda: f"{counts()}\n{worker.log}")
    with site.store.engine.connect() as connection:
        keys = connection.execute(text('SELECT "_key" FROM crm_contacts')).scalars().all()
    assert sorted(keys) == sorted(f"{page}-{n}" for page in range(SENDERS) for n in range(RECORDS))


def unread_bytes(web: WebProcess) -> int:
    """Return the number of bytes that the web process has not received from its sockets yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [row[4] for row in rows if row[1].endswith(f":{web.port:04X}") and row[3] == "01"]
    return sum(int(queue.partition(":")[2], 16) for queue in queues)


def is_cut_off(connection: socket.socket) -> bool:
    """Whether a connection ends without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("site", ["sqlite"], indirect=True)
def test_a_web_process_killed_while_it_reads_stores_no_partial_body(site: WebSetup, worker: Command) -> None:
    with site.web() as web, ExitStack() as stack:
        answers: list[ParsedResponse | None] = [web.post(PAGES[0]), *[None] * (SENDERS - 1)]
        senders = [
            stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=20))
            for _ in PAGES[1:]
        ]
        for sender, page in zip(senders, PAGES[1:], strict=True):
            head = f"POST /webhooks/truto HTTP/1.1\r\nHost: x\r\nContent-Length: {len(page)}\r\n"
            signed = f"{head}X-Truto-Signature: {sign(page, SECRET)}\r\n\r\n"
            sender.sendall(signed.encode() + page[: len(page) // 2])
        wait_until(lambda: unread_bytes(web) == 0, what="the halves to be read")
        [killed] = find_descendants(web.pid)

        os.kill(killed, signal.SIGKILL)

        assert all(map(is_cut_off, senders))
        assert list(site.stored().values()) == PAGES[:1]
        assert_kept_and_delivered(site, worker, web, answers)
        assert killed not in find_descendants(web.pid)


@pytest.mark.parametrize(
    ("site", "step", "kept"),
    [
        ("postgresql", "before the commit", range(SENDERS - 1)),
        ("sqlite", "before the commit", range(SENDERS - 1)),
        ("postgresql", "after the commit", range(2, SENDERS + 1)),
        ("sqlite", "after the commit", range(2, SENDERS + 1)),
        ("postgresql", "after the answers", [SENDERS]),
    ],
    indirect=["site"],
)
def test_a_web_process_killed_in_a_group_commit_loses_no_acknowledged_delivery(
    step: str, kept: Sequence[int], site: WebSetup, worker: Command, tmp_path: Path
) -> None:
    marker = tmp_path / "killed-once"
    settings = {"CRASH_STEP": step, "CRASH_MARKER": str(marker), "CRASH_SENDERS": str(SENDERS)}
    with site.web(application="tests.support.crashing_web:app", **settings) as web:
        [killed] = find_descendants(web.pid)

        answers = send_all(web)

        wait_until(marker.exists, what=lambda: f"the process to be killed\n{web.log}")
        wait_until(lambda: not is_alive(killed), what="the process to be gone")
        number_kept = len(site.stored())
        assert_kept_and_delivered(site, worker, web, answers)
        assert number_kept in kept
        # Senders of the killed commit have no answer; earlier ones may have theirs.
        number = sum(answer is not None for answer in answers)
        assert number == SENDERS if step == "after the answers" else number < SENDERS - 1


def wait_for_backend(database: psycopg.Connection, event: str, *others: int) -> int:
    """Return the process id of a backend, except the others, that waits for an event."""
    pids: list[int] = []

    def waits() -> bool:
        rows = database.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %s", [event]
        ).fetchall()
        pids[:] = [pid for (pid,) in rows if pid not in others]
        return bool(pids)

    wait_until(waits, what=f"a backend to wait for {event}")
    return pids[0]


def hold_up_commits(database: psycopg.Connection, moment: str) -> None:
    """Make every insert of a delivery wait for an advisory lock that this connection holds."""
    database.execute(
        "CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END'"
    )
    database.execute(
        f"CREATE {moment} ON rapidbridge_deliveries "
        f"{'DEFERRABLE INITIALLY DEFERRED ' if 'CONSTRAINT' in moment else ''}"
        "FOR EACH ROW EXECUTE FUNCTION hold_up()"
    )
    database.execute("SELECT pg_advisory_lock(1)")


def drain(site: WebSetup) -> None:
    """Move spooled deliveries into the inbox, as the sweeper does."""
    open_spool(site.redis, site.store).drain(Inbox(site.store).put)


IN_THE_STATEMENT = "TRIGGER hold_up BEFORE INSERT"
AT_THE_COMMIT = "CONSTRAINT TRIGGER hold_up AFTER INSERT"


@pytest.mark.parametrize("moment", [IN_THE_STATEMENT, AT_THE_COMMIT])
def test_a_commit_whose_backend_is_killed_is_retried(
    moment: str, private_site: WebSetup, database: psycopg.Connection
) -> None:
    hold_up_commits(database, moment)
    with private_site.web() as web, ThreadPoolExecutor(1) as sender:
        sending = sender.submit(send_all, web)
        backend = wait_for_backend(database, "advisory")

        database.execute("SELECT pg_terminate_backend(%s)", [backend])
        wait_for_backend(database, "advisory", backend)
        database.execute("SELECT pg_advisory_unlock(1)")

        answers = [answer for answer in sending.result() if answer]
        assert [answer.status for answer in answers] == ["accepted"] * SENDERS
        assert open_spool(private_site.redis, private_site.store).count() == 0
        assert private_site.stored() == {
            UUID(a.delivery): page for a, page in zip(answers, PAGES, strict=True)
        }
        assert Inbox(private_site.store).count_by_state()["duplicate"] == 0


@contextmanager
def full(redis: Redis) -> Iterator[None]:
    """Make Redis refuse every write inside the block."""
    redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        redis.config_set("maxmemory", 0)


@pytest.mark.parametrize(("moment", "has_spool"), [(IN_THE_STATEMENT, True), (AT_THE_COMMIT, False)])
def test_a_failed_commit_is_answered_200_only_if_the_spool_has_it(
    moment: str, has_spool: bool, private_site: WebSetup, database: psycopg.Connection
) -> None:
    hold_up_commits(database, moment)
    with private_site.web() as web, ThreadPoolExecutor(1) as sender:
        with nullcontext() if has_spool else full(private_site.redis):
            sending = sender.submit(send_all, web)
            killed: list[int] = []
            for _ in range(2):
                killed.append(wait_for_backend(database, "advisory", *killed))
                database.execute("SELECT pg_terminate_backend(%s)", killed[-1:])
            answers = [(answer.http_status, answer.status) for answer in sending.result() if answer]
        database.execute("SELECT pg_advisory_unlock(1)")

        assert answers == [(200, "accepted") if has_spool else (503, "unavailable")] * SENDERS
        assert open_spool(private_site.redis, private_site.store).count() == (SENDERS if has_spool else 0)
        assert private_site.stored() == {}
        if not has_spool:
            send_again_until_answered(web)
        drain(private_site)
        assert sorted(private_site.stored().values()) == PAGES


@contextmanager
def without_acknowledgements(database: psycopg.Connection) -> Iterator[None]:
    """Commit to disk without acknowledgement inside the block: PostgreSQL waits for a missing standby."""
    try:
        database.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        database.execute("SELECT pg_reload_conf()")
        yield
    finally:
        database.execute("ALTER SYSTEM RESET synchronous_standby_names")
        database.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_commit_whose_acknowledgement_is_lost_leaves_one_row(
    is_killed: bool, private_site: WebSetup, database: psycopg.Connection
) -> None:
    with private_site.web() as web, ThreadPoolExecutor(1) as sender:
        with without_acknowledgements(database):
            sending = sender.submit(send_all, web)
            backend = wait_for_backend(database, "SyncRep")
            if is_killed:
                database.execute("SELECT pg_terminate_backend(%s)", [backend])
                wait_for_backend(database, "SyncRep", backend)
            else:
                wait_until(
                    lambda: open_spool(private_site.redis, private_site.store).count() == SENDERS,
                    what="the spool to have them",
                )
        answers = [answer for answer in sending.result() if answer]
        drain(private_site)

        assert [answer.http_status for answer in answers] == [200] * SENDERS
        assert private_site.stored() == {
            UUID(answer.delivery): page for answer, page in zip(answers, PAGES, strict=True)
        }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_web_process_that_is_stopped_while_it_forks_ends_by_itself(
    tmp_path: Path, redis_url: str, number: int
) -> None:
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}/store.db", "REDIS_URL": redis_url}
    settings |= {"TRUTO_WEBHOOK_SECRET": SECRET, "WEB_CONCURRENCY": "4", "PORT": str(find_free_port())}
    command = ["gunicorn", "--config", "app/web/gunicorn_conf.py", "app.web.wsgi:app"]
    with Command(command, folder=tmp_path, cwd=ROOT, environment=make_environment(**settings)) as web:
        # The newest fork has no handlers of its own yet.
        wait_until(lambda: len(find_descendants(web.pid)) == 4, interval_s=0.001, what=lambda: web.log)

        assert web.stop(number) == 0

    # A killed one says nothing.
    assert web.log.count("Booting worker") == web.log.count("Worker exiting") > 0, web.log
