"""Indexes, views and comments of the tables of a SQL sink, at creation and in the background."""

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from app.config.routes import ColumnConfig, Route, Routes
from app.config.sinks import SqlSinkConfig
from app.database.engine import autocommit, open_engine
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.sql.live_views import live_view_name
from app.sinks.sql.probe import SetUpProblem, find_set_up_problems
from app.sinks.sql.sink import SqlSink, choose_dialect
from app.sinks.sql.upkeep import keep_tables
from tests.support.mariadb import MariaDbServer
from tests.support.sent_records import send, write
from tests.support.waiting import wait_until
from workers.background.sink_monitor import SetUpMonitor

ROUTE = Route(sinks=("main",), resource="crm/*")
NAMED = Route(
    sinks=("main",), resource="crm/*", columns={"name": ColumnConfig(type="text", path="full.name")}
)
UNINDEXED = Route(sinks=("main",), resource="crm/*", index_written_at=False)


@pytest.fixture
def sql(sink_url: str) -> Iterator[SqlSink]:
    sink = SqlSink(sink_url)
    yield sink
    sink.close()


@pytest.fixture
def database(sink_url: str) -> Iterator[Engine]:
    engine = open_engine(sink_url)
    yield engine
    engine.dispose()


def execute(database: Engine, *statements: str) -> None:
    with database.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def read(database: Engine, statement: str) -> Sequence[Any]:
    with database.connect() as connection:
        return connection.execute(text(statement)).scalars().all()


def list_indexes(database: Engine, table: str = "crm_contacts") -> dict[str, bool]:
    with database.connect() as connection:
        return choose_dialect(database).find_written_indexes(connection, table)


def drop_index(database: Engine) -> None:
    [name] = list_indexes(database)
    on_table = " ON crm_contacts" if database.dialect.name == "mysql" else ""
    execute(database, f'DROP INDEX "{name}"{on_table}')


def list_problems(url: str, route: Route = ROUTE) -> list[SetUpProblem]:
    return find_set_up_problems(url, [route])


# The index on _written_at


def test_a_table_is_created_with_an_index_for_incremental_reads(
    sink_url: str, sql: SqlSink, database: Engine
) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)

    assert list(list_indexes(database).values()) == [True]
    assert list_problems(sink_url) == []


def test_a_route_may_have_no_index(sink_url: str, sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), UNINDEXED)
    keep_tables(sink_url, [UNINDEXED])

    assert list_indexes(database) == {}
    assert list_problems(sink_url, UNINDEXED) == []


def test_a_table_of_an_earlier_release_gets_its_index_once(
    sink_url: str, sql: SqlSink, database: Engine
) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    drop_index(database)
    [problem] = list_problems(sink_url)
    assert problem.problem == "table crm_contacts has no index on _written_at"
    assert not problem.is_blocking

    with ThreadPoolExecutor(3) as workers:
        list(workers.map(lambda _: keep_tables(sink_url, [ROUTE]), range(3)))

    assert list(list_indexes(database).values()) == [True]
    assert list_problems(sink_url) == []


def test_a_worker_builds_a_missing_index(sink_url: str, sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    drop_index(database)
    routes = Routes(sinks={"main": SqlSinkConfig(type="sql", url=sink_url)}, routes=(ROUTE,))

    SetUpMonitor(routes).run_once()

    assert list(list_indexes(database).values()) == [True]


def test_the_statement_in_the_advice_creates_the_index(sink_url: str, sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    drop_index(database)

    [problem] = list_problems(sink_url)
    [statement] = re.findall(r"run: (.*;)", problem.correction)
    with autocommit(database) as connection:
        connection.exec_driver_sql(statement)

    assert list(list_indexes(database).values()) == [True]


def test_the_index_of_a_person_is_enough(sink_url: str, sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), UNINDEXED)
    execute(database, 'CREATE INDEX theirs ON crm_contacts ("_written_at", "_version")')

    keep_tables(sink_url, [ROUTE])

    assert list(list_indexes(database)) == ["theirs"]


def test_an_index_waits_for_the_columns_of_a_route(sink_url: str, sql: SqlSink, database: Engine) -> None:
    # A column that waits for the index would make all writers wait.
    write(sql, send([{"id": "1"}]), ROUTE)
    drop_index(database)

    keep_tables(sink_url, [NAMED])
    assert list_indexes(database) == {}

    write(sql, send([{"id": "1"}], number=2), NAMED)
    keep_tables(sink_url, [NAMED])
    assert list(list_indexes(database).values()) == [True]


def test_an_interrupted_index_is_replaced_and_a_running_one_is_left_alone(postgres_url: str) -> None:
    sink, engine = SqlSink(postgres_url), open_engine(postgres_url)
    write(sink, send([{"id": "1"}]), UNINDEXED)
    with engine.connect() as blocker, engine.connect() as builder:
        # A transaction with the row makes the build wait.
        blocker.exec_driver_sql("UPDATE crm_contacts SET \"_job\" = 'x'")
        pid = builder.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        builder.rollback()
        building = threading.Thread(target=lambda: _run_and_fail(sink_url=postgres_url))
        building.start()
        wait_until(lambda: list(list_indexes(engine).values()) == [False], what="a running build")
        # Another worker does not wait for it, and does not remove it.
        keep_tables(postgres_url, [ROUTE])
        assert list(list_indexes(engine).values()) == [False]
        # Writers go on meanwhile.
        assert write(sink, send([{"id": "2"}], number=2), UNINDEXED).written == 1
        builder.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONC%%' AND pid <> {pid}"
        )
        building.join(30)
        blocker.rollback()
    assert list(list_indexes(engine).values()) == [False]

    keep_tables(postgres_url, [ROUTE])

    assert list(list_indexes(engine).values()) == [True]
    sink.close()
    engine.dispose()


def _run_and_fail(sink_url: str) -> None:
    with pytest.raises(SinkUnavailable, match="table crm_contacts: its index or view was not created"):
        keep_tables(sink_url, [ROUTE])


# The live view


def read_live(database: Engine, view: str = "crm_contacts_live") -> list[str]:
    return list(read(database, f'SELECT "_key" FROM {view} ORDER BY "_key"'))


def test_the_live_view_has_the_rows_that_are_not_deleted(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}, {"id": "2"}]), ROUTE)
    write(sql, send([{"id": "1"}], number=2, at_s=1, is_deletion=True), ROUTE)
    assert read_live(database) == ["2"]

    write(sql, send([{"id": "1"}], number=3, at_s=2), ROUTE)
    assert read_live(database) == ["1", "2"]


def test_the_live_view_has_the_columns_that_are_added(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)

    write(sql, send([{"id": "2", "full": {"name": "x"}}], number=2), NAMED)

    assert read(database, 'SELECT name FROM crm_contacts_live ORDER BY "_key"') == [None, "x"]


def test_a_view_that_a_person_dropped_stays_dropped(sink_url: str, sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    execute(database, "DROP VIEW crm_contacts_live")

    write(sql, send([{"id": "2"}], number=2), NAMED)
    keep_tables(sink_url, [NAMED])

    assert not inspect(database).get_view_names()
    assert list_problems(sink_url, NAMED) == []
    execute(database, "DROP TABLE crm_contacts")
    with pytest.raises(SinkUnavailable):
        write(sql, send([{"id": "2"}], number=2), NAMED)
    # A new table has its view again.
    write(sql, send([{"id": "2"}], number=2), NAMED)
    assert read_live(database) == ["2"]


def test_a_table_of_an_earlier_release_gets_its_view(sink_url: str, sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    execute(database, "DROP VIEW crm_contacts_live", "DROP TABLE rapidbridge_sink_views")

    keep_tables(sink_url, [ROUTE])

    assert read_live(database) == ["1"]


@pytest.mark.parametrize("resource", ["crm/contacts_live", "CRM/Contacts-Live"])
def test_the_view_gives_way_to_a_resource_of_its_name(
    sink_url: str, sql: SqlSink, database: Engine, resource: str
) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)

    write(sql, send([{"id": "2"}], resource=resource), Route(sinks=("main",)))
    keep_tables(sink_url, [ROUTE])

    assert read_live(database) == ["2"]
    assert read_live(database, "crm_contacts_live_live") == ["2"]
    problem = next(problem for problem in list_problems(sink_url) if problem.table == "crm_contacts")
    assert problem.problem.startswith("table crm_contacts has no view crm_contacts_live, because")
    assert not problem.is_blocking
    assert write(sql, send([{"id": "3"}], number=3), ROUTE).written == 1


@pytest.mark.parametrize(
    "kind", ["VIEW crm_contacts_live AS SELECT 1 AS one", "TABLE crm_contacts_live (one integer)"]
)
def test_a_thing_of_a_person_with_the_name_of_the_view_is_left_alone(
    sink_url: str, sql: SqlSink, database: Engine, kind: str
) -> None:
    execute(database, f"CREATE {kind}")

    write(sql, send([{"id": "1"}]), ROUTE)
    write(sql, send([{"id": "2"}], number=2), NAMED)
    keep_tables(sink_url, [NAMED])

    assert [column["name"] for column in inspect(database).get_columns("crm_contacts_live")] == ["one"]
    with pytest.raises(SinkRefused):
        write(sql, send([{"id": "2"}], resource="crm/contacts_live"), ROUTE)


def test_names_of_views_fit_every_database() -> None:
    names = {live_view_name("x" * length) for length in range(50, 64)}

    assert len(names) == 14
    assert max(map(len, names)) <= 63
    assert all(name.endswith("_live") for name in names)


def test_a_lock_of_the_view_does_not_hold_up_a_delivery(postgres_url: str) -> None:
    sink, engine = SqlSink(postgres_url), open_engine(postgres_url)
    write(sink, send([{"id": "1"}]), ROUTE)
    with engine.connect() as other:
        other.exec_driver_sql("COMMENT ON VIEW crm_contacts_live IS 'x'")

        assert write(sink, send([{"id": "2"}], number=2), NAMED).written == 1
        other.rollback()

    [problem] = list_problems(postgres_url, NAMED)
    assert problem.problem == "view crm_contacts_live lacks columns of table crm_contacts"
    keep_tables(postgres_url, [NAMED])
    assert list_problems(postgres_url, NAMED) == []
    sink.close()
    engine.dispose()


def test_the_correction_of_a_type_brings_the_view_back(postgres_url: str) -> None:
    sink, engine = SqlSink(postgres_url), open_engine(postgres_url)
    as_number = Route(sinks=("main",), resource="crm/*", columns={"zip": ColumnConfig(type="boolean")})
    as_text = Route(sinks=("main",), resource="crm/*", columns={"zip": ColumnConfig(type="text")})
    write(sink, send([{"id": "1", "zip": True}]), as_number)

    with pytest.raises(SinkRefused) as refusal:
        write(sink, send([{"id": "2", "zip": "00501"}], number=2), as_text)

    [statements] = re.findall(r"run: (.*;)", str(refusal.value))
    execute(engine, statements)
    write(sink, send([{"id": "2", "zip": "00501"}], number=2), as_text)
    assert read(engine, 'SELECT zip FROM crm_contacts_live ORDER BY "_key"') == ["true", "00501"]
    sink.close()
    engine.dispose()


# Comments


def read_comments(database: Engine, table: str) -> tuple[str | None, dict[str, str | None]]:
    columns = {column["name"]: column.get("comment") for column in inspect(database).get_columns(table)}
    return inspect(database).get_table_comment(table)["text"], columns


ODD = "crm/100%s 'quoted' \"x\" \\ ü \n{}"


@pytest.mark.parametrize("resource", ["crm/contacts", ODD])
def test_tables_and_columns_have_comments(sql: SqlSink, database: Engine, resource: str) -> None:
    if database.dialect.name == "sqlite":
        pytest.skip("SQLite has no comments")
    columns = {"name": ColumnConfig(type="text", path="full.%s'name")}
    route = Route(sinks=("main",), table="commented")

    write(sql, send([{"id": "1"}], resource=resource), route)
    write(
        sql, send([{"id": "1"}], resource=resource, number=2), route.model_copy(update={"columns": columns})
    )

    table, by_column = read_comments(database, "commented")
    shown = resource.replace("\n", "?")
    assert table == f"Records of {shown}, one row each, written by RapidBridge Receiver"
    assert all(by_column.values())
    assert by_column["name"] == "full.%s'name of the record"
    assert by_column["_key"] == "Identifies the record in its integrated account"


def test_a_user_without_the_right_to_create_views_writes(mariadb: MariaDbServer) -> None:
    with mariadb.database() as url:
        name = url.partition("@/")[2].partition("?")[0]
        rights = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX"
        mariadb.execute("CREATE OR REPLACE USER plain", f"GRANT {rights} ON {name}.* TO plain")
        sink, engine = SqlSink(url.replace("root@", "plain@")), open_engine(url)

        assert write(sink, send([{"id": "1"}]), ROUTE).written == 1
        assert write(sink, send([{"id": "2"}], number=2), NAMED).written == 1
        with pytest.raises(SinkUnavailable, match="the user lacks a right"):
            keep_tables(url.replace("root@", "plain@"), [NAMED])

        keep_tables(url, [NAMED])
        assert read_live(engine) == ["1", "2"]
        sink.close()
        engine.dispose()
