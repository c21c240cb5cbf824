"""Batches of several deliveries that a SQL sink writes together, on every database."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from app.config.routes import ColumnConfig, Route
from app.database.engine import open_engine
from app.sinks.base import JoiningSink
from app.sinks.sql.sink import SqlSink
from tests.support.sent_records import SentRecords, send

ROUTE = Route(sinks=("main",), columns={"n": ColumnConfig(type="integer")}, track_deletes=True)
# Without the times of the write.
COLUMNS = (
    '"_account", "_key", "_version", "_vseq", "_job", "_run", "_method", "_deleted_at", "n", "_seen_at", '
    '"_data_version", "_data_vseq"'
)


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


def write(sink: SqlSink, sent: Sequence[SentRecords], route: Route = ROUTE) -> list[tuple[int, list[int]]]:
    """Write deliveries together; return the written number and the rejected ordinals of each."""
    results = sink.write_batches([one.build_batch(route) for one in sent], route)
    return [(result.written, sorted(record.ordinal for record in result.rejected)) for result in results]


def read_rows(database: Engine, table: str = "crm_contacts") -> list[Any]:
    with database.connect() as connection:
        rows = connection.execute(text(f'SELECT {COLUMNS}, "data" FROM {table} ORDER BY 1, 2')).all()
    return [(*row[:-1], json.loads(row[-1]) if isinstance(row[-1], str) else row[-1]) for row in rows]


def make_deliveries(*, is_deletion: bool = False) -> list[SentRecords]:
    """Deliveries of two accounts and three runs, with records in several of them."""
    return [
        send(
            [{"id": str(key), "n": number} for key in keys],
            number=number,
            at_s=at_s,
            account=account,
            run=f"r{number % 3}",
            job=f"j{number}",
            method=f"m{number}",
            is_deletion=is_deletion,
        )
        for number, (account, at_s, keys) in enumerate(
            [
                ("a1", 5, [3, 1, 2]),
                ("a2", 4, [1, 2]),
                ("a1", 6, [5, 4]),
                ("a1", 3, [2, 6, 3]),
                ("a2", 9, [2, 2, 7]),
                ("", 1, [1]),
            ],
            1,
        )
    ]


@pytest.mark.parametrize("is_deletion", [False, True], ids=["data", "deletions"])
def test_batches_written_together_leave_the_rows_of_single_ones(
    sql: SqlSink, database: Engine, is_deletion: bool
) -> None:
    sent = make_deliveries(is_deletion=is_deletion)
    alone = ROUTE.model_copy(update={"table": "alone"})
    for one in [*make_deliveries(), *sent] if is_deletion else sent:
        sql.write(one.build_batch(alone), alone)
    if is_deletion:
        write(sql, make_deliveries())

    assert write(sql, sent) == [(len(one.values), []) for one in sent]

    assert read_rows(database) == read_rows(database, "alone")


def test_batches_with_different_records_need_one_statement(sql: SqlSink, database: Engine) -> None:
    sent = [send([{"id": f"{number}-{n}"} for n in range(4)], number=number) for number in range(1, 9)]
    write(sql, sent[:1])
    upserts = []
    listener = lambda *arguments: upserts.append(arguments[2])  # noqa: E731
    event.listen(Engine, "before_cursor_execute", listener)
    try:
        write(sql, sent)
    finally:
        event.remove(Engine, "before_cursor_execute", listener)

    assert len([statement for statement in upserts if statement.startswith("INSERT")]) == 1
    assert len(read_rows(database)) == 32


def test_a_rejected_record_is_counted_in_its_own_batch_alone(sql: SqlSink, database: Engine) -> None:
    write(sql, [send([{"id": "0"}])])
    with database.begin() as connection:
        reject_keys(connection, database.dialect.name)
    sent = [
        send([{"id": f"{account}{n}"} for n in range(3)], number=number, account=account)
        for number, account in enumerate(["a", "b", "c"], 2)
    ]

    assert write(sql, sent) == [(3, []), (2, [1]), (3, [])]

    keys = [row[1] for row in read_rows(database)]
    assert sorted(keys) == sorted(["0", "a0", "a1", "a2", "b0", "b2", "c0", "c1", "c2"])


def reject_keys(connection: Any, dialect: str) -> None:
    """Let the table refuse the key b1."""
    if dialect == "sqlite":
        body = "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        connection.execute(
            text(f"CREATE TRIGGER t BEFORE INSERT ON crm_contacts WHEN NEW._key = 'b1' {body}")
        )
    else:
        connection.execute(text("ALTER TABLE crm_contacts ADD CONSTRAINT no_b1 CHECK (_key <> 'b1')"))


def test_an_older_batch_never_overwrites_a_newer_one_beside_others(sql: SqlSink, database: Engine) -> None:
    newer, older = send([{"id": "1", "n": 2}], at_s=2, number=2), send([{"id": "1", "n": 1}], at_s=1)
    other = send([{"id": "2", "n": 3}], number=3)

    for sent in ([newer, older, other], [older, other], [other, newer, older]):
        assert write(sql, sent) == [(1, [])] * len(sent)

    assert [row[-1]["n"] for row in read_rows(database)] == [2, 3]


def test_racing_writers_of_joined_batches_agree_and_never_deadlock(sink_url: str, database: Engine) -> None:
    chance = Random(11)
    sent = [
        send(
            [{"id": str(key), "n": number} for key in chance.sample(range(40), 8)],
            at_s=chance.randrange(20),
            number=number,
            account=f"a{number % 3}",
        )
        for number in range(1, 60)
    ]

    def write_all(seed: int) -> None:
        sink = SqlSink(sink_url)
        order = Random(seed).sample(sent, len(sent))
        for start in range(0, len(order), 6):
            write(sink, order[start : start + 6])
        sink.close()

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write_all, range(4)))

    newest: dict[tuple[str, str], int] = {}
    for one in sorted(sent, key=lambda one: (one.header.version, one.header.received_at)):
        newest |= {(one.header.account, record["id"]): record["n"] for record in one.values}
    assert {(row[0], row[1]): row[-1]["n"] for row in read_rows(database)} == newest


def test_the_sql_sink_joins_batches(sql: SqlSink) -> None:
    assert isinstance(sql, JoiningSink)
