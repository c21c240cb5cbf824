"""An upgrade of a large inbox does not stop the running release, and may be interrupted at any point."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.database.engine import Database, open_database
from app.errors import StoreUnavailable
from app.store.migrate import is_current, migrate
from app.store.migrations import online
from app.store.schema import VERSION_TABLE, metadata
from tests.support.old_store import upgrade_to
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

DELIVERIES = 20_000
FILL = (
    "INSERT INTO rapidbridge_deliveries (id, received_at, resource, state, settled_at, due_at, body_bytes, body) "
    f"SELECT gen_random_uuid(), now(), 'crm/contacts', 'settled', now(), now(), 1, 'x' "
    f"FROM generate_series(1, {DELIVERIES})",
    "INSERT INTO rapidbridge_dead_records (delivery_id, sink, ordinal, reason, raw, died_at) "
    "SELECT id, sink, 1, 'too_deep', '{}', now() FROM rapidbridge_deliveries, (VALUES ('lake'), ('main')) AS s (sink) "
    "LIMIT 3500",
    "INSERT INTO rapidbridge_runs (sync_job_run_id, first_seen_at) VALUES ('run-1', now())",
)
# As the release of revision 0012 stores a delivery.
ACCEPT = (
    "INSERT INTO rapidbridge_deliveries (id, received_at, state, due_at, body_bytes, body) "
    "VALUES (%s, now(), 'pending', now(), 1, 'x')"
)
BUILDS = "CREATE INDEX CONCURRENTLY rapidbridge_deliveries_of_account%"
REBUILDS = "%DROP INDEX CONCURRENTLY %rapidbridge_deliveries_of_account%"
LOOKS_FOR_BUILDS = "%pg_stat_progress_create_index%"


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    upgrade_to(opened, "0012")
    with psycopg.connect(url) as connection:
        for statement in FILL:
            connection.execute(statement)
    yield opened
    opened.close()


def test_deliveries_are_stored_during_the_whole_upgrade(database: Database, url: str) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(url) as open_transaction,
        accepting(url) as accepted,
    ):
        open_transaction.execute(ACCEPT, [uuid4()])
        upgrade = pool.submit(migrate, database)
        wait_for_statement(url, BUILDS)

        before = len(accepted)
        wait_until(lambda: len(accepted) > before + 20, what="deliveries beside the waiting index build")
        assert not upgrade.done()
        open_transaction.commit()

        assert upgrade.result(60)[0] == "0012"
    assert_upgraded(database, url)
    assert count(url, "rapidbridge_deliveries") == DELIVERIES + len(accepted) + 1


@pytest.mark.parametrize("server_goes_on", [True, False])
def test_a_killed_upgrade_is_completed_by_the_next(
    database: Database, url: str, server_goes_on: bool
) -> None:
    with ThreadPoolExecutor(1) as pool, psycopg.connect(url) as open_transaction:
        open_transaction.execute(ACCEPT, [uuid4()])
        command = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "migrate"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url},
            start_new_session=True,
        )
        pid = wait_for_statement(url, BUILDS)
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()
        if not server_goes_on:
            execute(url, f"SELECT pg_terminate_backend({pid}, 5000)")
            assert find_invalid_indexes(url) == ["rapidbridge_deliveries_of_account"]

        upgrade = pool.submit(migrate, database)
        wait_for_statement(
            url, LOOKS_FOR_BUILDS if server_goes_on else REBUILDS, is_blocked=not server_goes_on
        )
        open_transaction.commit()
        upgrade.result(60)

    assert_upgraded(database, url)


def test_an_upgrade_that_fails_at_any_statement_is_completed_by_the_next(
    database: Database, url: str
) -> None:
    execute(
        url,
        "CREATE SEQUENCE statements MINVALUE -1000",
        "CREATE FUNCTION fail_at_zero() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF nextval('statements') = 0 THEN RAISE EXCEPTION 'a fault' USING ERRCODE = '57P01'; END IF; END $$",
        "CREATE EVENT TRIGGER faults ON ddl_command_start "
        "WHEN TAG IN ('ALTER TABLE', 'CREATE INDEX', 'CREATE TABLE') EXECUTE FUNCTION fail_at_zero()",
    )

    failures: list[str] = []
    while not is_current(database):
        assert len(failures) < 100
        # The first upgrade fails at its first statement on a table or an index, the second at its second, …
        execute(url, f"SELECT setval('statements', {-len(failures) - 1})")
        try:
            migrate(database)
        except StoreUnavailable as error:
            failures.append(str(error))

    assert len(failures) > 10
    assert all("57P01" in failure for failure in failures)
    execute(url, "DROP EVENT TRIGGER faults", "DROP FUNCTION fail_at_zero", "DROP SEQUENCE statements")
    assert_upgraded(database, url)


def test_a_table_in_use_stops_the_upgrade_and_not_the_release(
    database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "_LOCK_ATTEMPTS", 3)
    monkeypatch.setattr(online, "_PAUSE_S", 0.01)
    update = "UPDATE rapidbridge_runs SET status = 'running'"
    with psycopg.connect(url) as reading, psycopg.connect(url, autocommit=True) as running:
        reading.execute("SELECT count(*) FROM rapidbridge_runs")
        running.execute("SET statement_timeout = '5s'")

        with ThreadPoolExecutor(1) as pool:
            upgrade = pool.submit(migrate, database)
            while not upgrade.done():
                running.execute(update)
        with pytest.raises(
            StoreUnavailable, match=r"rapidbridge_runs .*pg_stat_activity.*rapidbridge migrate"
        ):
            upgrade.result()

    migrate(database)
    assert_upgraded(database, url)


@contextmanager
def accepting(url: str) -> Iterator[list[None]]:
    """Store deliveries one after the other; fails if one takes long. Yields a list with an item for each."""
    stored: list[None] = []
    ended = threading.Event()

    def accept() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            # Above the time for which a change of a table may wait, and below that of the index build.
            connection.execute("SET statement_timeout = '5s'")
            while not ended.is_set():
                connection.execute(ACCEPT, [uuid4()])
                stored.append(None)

    with ThreadPoolExecutor(1) as pool:
        accepting_thread = pool.submit(accept)
        try:
            yield stored
        finally:
            ended.set()
        accepting_thread.result(20)


def wait_for_statement(url: str, pattern: str, *, is_blocked: bool = True) -> int:
    """Wait until a session's last statement matches; return the id of its server process.

    is_blocked: the statement waits for a lock.
    """
    query = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND query LIKE %s" + (" AND wait_event_type = 'Lock'" if is_blocked else "")
    )
    found: list[int] = []
    with psycopg.connect(url, autocommit=True) as connection:

        def is_waiting() -> bool:
            found[:] = [pid for (pid,) in connection.execute(query, [pattern])]
            return bool(found)

        wait_until(is_waiting, what=pattern)
    return found[0]


def assert_upgraded(database: Database, url: str) -> None:
    assert is_current(database)
    assert find_invalid_indexes(url) == []
    assert count(url, "rapidbridge_dead_records WHERE resource = 'crm/contacts'") == 3500
    with database.autocommit() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": lambda name, _type, _parents: name != VERSION_TABLE}
        )
        assert compare_metadata(context, metadata) == []


def find_invalid_indexes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
        return [name for (name,) in rows]


def count(url: str, source: str) -> int:
    with psycopg.connect(url) as connection:
        [(number,)] = connection.execute(f"SELECT count(*) FROM {source}")
    return int(number)


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
