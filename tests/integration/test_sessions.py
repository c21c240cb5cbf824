"""PostgreSQL sessions: settings of hostile databases, poolers, schemas, and servers that lose their role."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from app.config.routes import Route
from app.database.engine import Database, open_database
from app.database.inspection import ConnectionCounts, inspect_database
from app.errors import ConfigError, SinkUnavailable, StoreUnavailable
from app.sinks.sql.probe import probe_database
from app.sinks.sql.sink import SqlSink
from app.store.inbox import Inbox
from app.store.migrate import is_current, migrate
from app.store.models import IncomingDelivery
from tests.integration.test_doctor import doctor
from tests.support.pgbouncer import PgBouncer, running_pgbouncer
from tests.support.postgres import PostgresServer
from tests.support.sent_records import send, write
from tests.support.service import running_whole_service
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

Opener = Callable[..., Database]

HOSTILE = {
    "datestyle": "SQL, DMY",
    "timezone": "Asia/Kathmandu",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-10",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "lock_timeout": "1ms",
    "random_page_cost": "40",
}
OURS = {
    "datestyle": "ISO, MDY",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
    "transaction_isolation": "read committed",
    "synchronous_commit": "on",
    "lock_timeout": "0",
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "10s",
    "random_page_cost": "1.1",
}


@pytest.fixture(scope="module")
def pgbouncer(private_postgres: PostgresServer) -> Iterator[PgBouncer]:
    with running_pgbouncer(private_postgres) as server:
        yield server


@pytest.fixture
def direct_url(private_postgres: PostgresServer) -> Iterator[str]:
    with private_postgres.database() as url:
        yield url


@pytest.fixture(params=["direct", "pooled"])
def url(request: pytest.FixtureRequest, direct_url: str) -> str:
    """The URL of an empty database, directly and through PgBouncer."""
    if request.param == "direct":
        return direct_url
    pooler: PgBouncer = request.getfixturevalue("pgbouncer")
    return pooler.url(direct_url)


@pytest.fixture
def open_(request: pytest.FixtureRequest) -> Opener:
    """Opens databases as the processes do, and closes them at the end."""

    def open_until_the_end(url: str, **options: str) -> Database:
        database = open_database(url, schema=options.get("schema", ""))
        request.addfinalizer(database.close)
        return database

    return open_until_the_end


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.format(database=connection.info.dbname))


def make_hostile(direct_url: str) -> None:
    execute(direct_url, *(f"ALTER DATABASE {{database}} SET {name} = '{HOSTILE[name]}'" for name in HOSTILE))


def read_settings(database: Database, *, in_transaction: bool) -> dict[str, str]:
    connect = database.transaction if in_transaction else database.autocommit
    with connect() as connection:
        columns = ", ".join(f"current_setting('{name}') AS {name}" for name in OURS)
        return dict(connection.execute(text(f"SELECT {columns}")).mappings().one())


def migrate_store(url: str) -> None:
    database = open_database(url)
    migrate(database)
    database.close()


def count_free(direct_url: str) -> int:
    """Return the number of connections that no session of another program uses."""
    with psycopg.connect(direct_url) as connection:
        [(free,)] = connection.execute(
            "SELECT current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int - count(*) FROM pg_stat_activity"
            " WHERE datname IS NOT NULL AND pid <> pg_backend_pid() AND datname <> current_database()"
        )
    return int(free)


def make_delivery(number: int) -> IncomingDelivery:
    return IncomingDelivery(b"{}", b"%032d" % number, datetime.now(UTC))


def list_sessions(direct_url: str) -> set[int]:
    """Return the process ids of all other sessions of a database."""
    with psycopg.connect(direct_url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return {int(pid) for (pid,) in rows}


def count_rows(direct_url: str, table: str) -> int:
    with psycopg.connect(direct_url) as connection:
        [(rows,)] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(rows)


def list_tables(direct_url: str) -> set[str]:
    with psycopg.connect(direct_url) as connection:
        rows = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'"
        )
        return {name for (name,) in rows}


@pytest.mark.parametrize("in_transaction", [True, False])
def test_sessions_have_our_settings_in_a_hostile_database(
    url: str, direct_url: str, in_transaction: bool, open_: Opener
) -> None:
    make_hostile(direct_url)
    database = open_(url)

    # Twice: a pooled connection is used again.
    seen = [read_settings(database, in_transaction=in_transaction) for _ in range(2)]

    assert seen == [OURS, OURS]


def test_a_whole_delivery_and_the_lists_work_in_a_hostile_database(
    url: str, direct_url: str, tmp_path: Path
) -> None:
    make_hostile(direct_url)
    with running_whole_service(tmp_path, url, WORKER_CONCURRENCY="2") as service:
        sent = service.rapidbridge(
            "simulate", "--records", "400", "--batch-size", "10", "--record-errors", "2"
        )
        service.wait_until_settled()
        lists = [
            service.rapidbridge(*words, "--json")
            for words in (("deliveries", "list"), ("runs", "list"), ("dead", "list"), ("doctor", "--no-post"))
        ]
        log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""

    assert sent.returncode == 0, sent.stdout + sent.stderr
    for ran in lists:
        assert "Traceback" not in ran.stderr, ran.stderr
        assert json.loads(ran.stdout), ran.stdout
    deliveries = json.loads(lists[0].stdout)
    assert "settled" in json.dumps(deliveries)
    assert "sink_set_up" not in json.dumps(deliveries) + log
    with psycopg.connect(direct_url) as connection:
        [(dead,)] = connection.execute("SELECT count(*) FROM rapidbridge_dead_records")
        assert dead == 0


def test_a_pooler_is_recognized_and_its_other_clients_keep_their_settings(
    pgbouncer: PgBouncer, direct_url: str, open_: Opener
) -> None:
    make_hostile(direct_url)
    pooled_url = pgbouncer.url(direct_url)
    database = open_(pooled_url)
    names = [name for name in HOSTILE if name not in ("client_encoding", "timezone", "datestyle")]

    # More transactions at once than the pooler has server sessions, and each statement often enough to be prepared.
    barrier = threading.Barrier(3)

    def write(_: int) -> set[int]:
        barrier.wait(timeout=20)
        pids = set()
        for _ in range(12):
            with database.transaction() as connection:
                pids.add(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
                connection.execute(text("SELECT :n + 1"), {"n": 1}).scalar_one()
            assert database.read(text("SELECT :n + 2"), {"n": 1}) == [(3,)]
        return pids

    with ThreadPoolExecutor(3) as pool:
        sessions = set().union(*pool.map(write, range(3)))
    others = []
    for _ in range(6):
        with psycopg.connect(pooled_url) as connection:
            columns = ", ".join(f"current_setting('{name}')" for name in names)
            others.append(connection.execute(f"SELECT {columns}").fetchone())

    assert len(sessions) > 1
    assert set(others) == {tuple(HOSTILE[name] for name in names)}


def test_doctor_recognizes_a_pooler(pgbouncer: PgBouncer, direct_url: str, tmp_path: Path) -> None:
    migrate_store(direct_url)

    output = doctor(tmp_path, "--no-post", DATABASE_URL=pgbouncer.url(direct_url))

    assert output.levels("store") == {"durability": "fail"}  # The server of the tests has fsync=off.
    checks = {result["check"] for result in output.results if result["component"] == "store"}
    assert {"pooler", "tables"} <= checks
    assert "connections" not in checks


def test_options_of_the_url_are_refused_by_a_pooler_in_plain_words(
    pgbouncer: PgBouncer, direct_url: str, open_: Opener
) -> None:
    database = open_(pgbouncer.url(direct_url) + "&options=-csearch_path%3Dtenant")

    with pytest.raises(StoreUnavailable, match="the connection pooler refuses a parameter"):
        database.read(text("SELECT 1"))


def test_the_url_and_the_environment_win(
    direct_url: str, monkeypatch: pytest.MonkeyPatch, open_: Opener
) -> None:
    execute(direct_url, "CREATE SCHEMA tenant")
    monkeypatch.setenv("PGAPPNAME", "from the environment")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    options = "-csearch_path%3Dtenant%20-c%20statement_timeout%3D4s%20--lock-timeout%3D3s"
    by_environment = open_(direct_url)
    by_url = open_(f"{direct_url}&application_name=crm&options={options}")
    query = text(
        "SELECT current_setting('application_name'), current_setting('search_path'), "
        "current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('timezone')"
    )

    assert by_environment.read(query)[0][0] == "from the environment"
    assert tuple(by_url.read(query)[0]) == ("crm", "tenant", "4s", "3s", "UTC")
    with by_environment.engine.connect() as connection:
        parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
        assert "connect_timeout" not in parameters or parameters["connect_timeout"] == "7"
    monkeypatch.setenv("PGOPTIONS", "-c search_path=tenant")
    migrate(open_(direct_url))
    assert all(name.startswith("tenant.") for name in list_tables(direct_url))


def test_connections_count_as_ours_under_any_name(direct_url: str, open_: Opener) -> None:
    databases = [open_(direct_url), open_(direct_url + "&application_name=crm")]

    def are_ours(database: Database) -> bool:
        counts = inspect_database(database).connections
        # The third one counts them.
        return counts == ConnectionCounts(count_free(direct_url), 3)

    for database in databases:
        with database.transaction(), database.transaction():
            # Sessions of other tests end a moment after they were closed.
            wait_until(partial(are_ours, database), what="three sessions that count as ours")
        database.close()


def test_tenants_in_schemas_of_one_database_share_nothing(
    url: str, direct_url: str, private_valkey: ValkeyServer, tmp_path: Path
) -> None:
    tenants = {"tenant_a": "60", "Tenant-B": "80"}
    with ExitStack() as running, ThreadPoolExecutor() as pool:
        services = {}
        for tenant in tenants:
            folder = tmp_path / tenant
            folder.mkdir()
            settings = {"DATABASE_SCHEMA": tenant, "REDIS_URL": private_valkey.url, "WEB_CONCURRENCY": "1"}
            services[tenant] = running.enter_context(running_whole_service(folder, url, **settings))
        # Side by side. The same seed gives the runs and records of both the same ids.
        sent = pool.map(
            lambda tenant: services[tenant].rapidbridge(
                "simulate", "--records", tenants[tenant], "--batch-size", "5", "--seed", "tenants"
            ),
            tenants,
        )
        for result in sent:
            assert result.returncode == 0, result.stdout + result.stderr
        for service in services.values():
            service.wait_until_settled()
        rows = {tenant: count_rows(direct_url, f'"{tenant}".crm_contacts') for tenant in tenants}
        checks = json.loads(services["tenant_a"].rapidbridge("doctor", "--json").stdout)["checks"]

    tables = list_tables(direct_url)
    by_tenant = [
        {name.partition(".")[2] for name in tables if name.startswith(f"{tenant}.")}
        for tenant in ("tenant_a", "Tenant-B")
    ]
    assert by_tenant[0] == by_tenant[1]
    assert {"rapidbridge_deliveries", "rapidbridge_sink_tables", "crm_contacts"} <= by_tenant[0]
    assert not [name for name in tables if name.startswith("public.")]
    # A run has four resources.
    assert rows == {tenant: int(records) // 4 for tenant, records in tenants.items()}
    [namespace] = [check["message"] for check in checks if check["check"] == "namespace"]
    assert "shared with" in namespace


def test_a_sink_creates_its_schema(url: str, direct_url: str) -> None:
    probe_database(url, schema="lake")
    sink = SqlSink(url, schema="lake")

    write(sink, send([{"id": "1"}]), Route(sinks=("main",)))
    sink.close()

    probe_database(url, schema="lake")
    names = ("crm_contacts", "rapidbridge_sink_tables", "rapidbridge_sink_views")
    assert list_tables(direct_url) == {f"lake.{name}" for name in names}


def test_a_schema_that_the_role_may_not_create_is_named_with_the_command(
    direct_url: str, open_: Opener
) -> None:
    execute(direct_url, "CREATE ROLE guest LOGIN")
    url = direct_url.replace("postgres@", "guest@")
    try:
        with pytest.raises(SinkUnavailable, match='CREATE SCHEMA "lake" AUTHORIZATION'):
            probe_database(url, schema="lake")
        with pytest.raises(StoreUnavailable) as refused:
            migrate(open_(url, schema="lake"))
        execute(direct_url, str(refused.value).partition("run as a superuser: ")[2])
        migrate(open_(url, schema="lake"))
        probe_database(url, schema="lake")
    finally:
        execute(direct_url, "DROP OWNED BY guest CASCADE", "DROP ROLE guest")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_is_refused(
    direct_url: str, encoding: str, tmp_path: Path, open_: Opener
) -> None:
    name = f"encoded_{encoding.lower()}"
    create = f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    execute(direct_url, create)
    url = direct_url.replace(psycopg.conninfo.conninfo_to_dict(direct_url)["dbname"], name)  # type: ignore[arg-type]
    try:
        with pytest.raises(ConfigError) as refused:
            migrate(open_(url))
        with pytest.raises(SinkUnavailable, match=encoding):
            probe_database(url)
        output = doctor(tmp_path, "--no-post", DATABASE_URL=url)
        assert encoding in output.message("store", "encoding")
        assert encoding in output.message("sink main", "writable")
        # The command of the message creates a database that is accepted.
        command = str(refused.value).partition("set DATABASE_URL to it: ")[2]
        execute(direct_url, command)
        migrate(open_(direct_url.replace(direct_url.partition("@/")[2].partition("?")[0], "rapidbridge")))
    finally:
        execute(
            direct_url,
            f"DROP DATABASE {name} WITH (FORCE)",
            "DROP DATABASE IF EXISTS rapidbridge WITH (FORCE)",
        )

    assert encoding in str(refused.value)
    assert "ENCODING 'UTF8'" in command
    assert "TEMPLATE template0" in command


def test_sessions_that_became_read_only_are_replaced(direct_url: str, open_: Opener) -> None:
    migrate(open_(direct_url))
    database = open_(direct_url)
    sink = SqlSink(direct_url)
    write(sink, send([{"id": "1"}]), Route(sinks=("main",)))
    # As at a demoted server: open connections stay, and refuse writes.
    for engine in (database.engine, sink._engine):
        with engine.connect() as first, engine.connect() as second:
            for connection in (first, second):
                connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
                connection.commit()

    with pytest.raises(StoreUnavailable, match="25006"):
        database.execute(text("DELETE FROM rapidbridge_deliveries"))
    with pytest.raises(SinkUnavailable, match="25006"):
        write(sink, send([{"id": "2"}]), Route(sinks=("main",)))

    # Every pooled connection is new, not only the one that failed.
    with database.transaction() as first, database.transaction() as second:
        for connection in (first, second):
            connection.execute(text("DELETE FROM rapidbridge_deliveries"))
    assert write(sink, send([{"id": "2"}]), Route(sinks=("main",))).written == 1
    sink.close()


@pytest.mark.parametrize("fault", ["closed", "read-only"])
def test_commits_replace_the_sessions_of_a_failover(
    url: str, direct_url: str, open_: Opener, fault: str
) -> None:
    migrate_store(url)
    database = open_(url)
    inbox = Inbox(database)
    for round_ in range(3):
        # Both idle connections of the pool, or those of the pooler.
        with database.engine.connect() as first, database.engine.connect() as second:
            for connection in (first, second):
                if fault == "read-only":
                    connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
                connection.commit()
        if fault == "closed":
            execute(
                direct_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = '{database}' AND pid <> pg_backend_pid()",
            )
            wait_until(lambda: not list_sessions(direct_url), what="the sessions to end")

        [receipt] = inbox.put([make_delivery(round_)])

        assert not receipt.is_duplicate
    assert count_rows(direct_url, "rapidbridge_deliveries") == 3
    assert read_settings(database, in_transaction=True) == OURS


@pytest.mark.parametrize("reason", ["closed", "another session was lost"])
def test_a_session_in_use_ends_once_it_is_returned_to_a_closed_pool(
    direct_url: str, open_: Opener, reason: str
) -> None:
    migrate(open_(direct_url))
    database = open_(direct_url)
    with database.engine.connect() as in_use:
        pid = in_use.execute(text("SELECT pg_backend_pid()")).scalar_one()
        in_use.commit()
        if reason == "closed":
            database.close()
        else:
            with database.engine.connect() as other:
                lost = other.execute(text("SELECT pg_backend_pid()")).scalar_one()
            execute(direct_url, f"SELECT pg_terminate_backend({lost}, 5000)")
            Inbox(database).put([make_delivery(1)])
        # Closing does not interrupt it.
        assert in_use.execute(text("SELECT pg_backend_pid()")).scalar_one() == pid

    wait_until(lambda: pid not in list_sessions(direct_url), what="the session to end")
    # The pool of the time after keeps its sessions.
    with database.engine.connect() as connection:
        kept = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    assert kept in list_sessions(direct_url)


def test_a_table_changed_under_a_prepared_statement_fails_once(direct_url: str, open_: Opener) -> None:
    migrate(open_(direct_url))
    database = open_(direct_url)
    statement = text("SELECT * FROM rapidbridge_deliveries")
    for _ in range(8):
        database.read(statement)
    execute(direct_url, "ALTER TABLE rapidbridge_deliveries ADD COLUMN added int")

    with pytest.raises(StoreUnavailable):
        database.read(statement)

    assert database.read(statement) == []
    assert is_current(database)
