"""The contract of every sink: whole batches, exactly once, never backwards."""

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from sqlalchemy import Engine, inspect, text

from app.config.routes import ColumnConfig, Route
from app.database.engine import open_engine
from app.errors import SinkRefused, SinkUnavailable
from app.routing.keys import hash_record
from app.sinks.base import Sink
from app.sinks.files.sink import FilesSink
from app.sinks.sql import sink as sql_sink
from app.sinks.sql.columns import ColumnCaster
from app.sinks.sql.sink import SqlSink
from app.sinks.sql.tables import table_name
from app.truto.records import read_records, to_json
from tests.support.documentation import read_marked_block
from tests.support.files import open_files, read_files
from tests.support.mariadb import MariaDbServer
from tests.support.postgres import PostgresServer
from tests.support.sent_records import SentRecords, send, write

ROUTE = Route(sinks=("main",))


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


def rows(database: Engine, table: str = "crm_contacts") -> dict[str, Any]:
    """All rows of a table by key, as (data, is deleted)."""
    with database.engine.connect() as connection:
        result = connection.execute(text(f'SELECT "_key", "data", "_deleted_at" FROM {table}')).all()
    return {
        key: (json.loads(data) if isinstance(data, str) else data, deleted is not None)
        for key, data, deleted in result
    }


def read_column(database: Engine, name: str, table: str = "crm_contacts") -> list[Any]:
    """A column of all rows, by key."""
    with database.engine.connect() as connection:
        return list(connection.execute(text(f'SELECT "{name}" FROM {table} ORDER BY "_key"')).scalars())


def values(database: Engine, table: str = "crm_contacts") -> dict[str, Any]:
    return {key: data for key, (data, _) in rows(database, table).items()}


# Every sink


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "files"])
def sink_and_records(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Sink | FilesSink, Callable[[], list[Any]]]]:
    if request.param == "files":
        yield open_files(tmp_path / "lake"), lambda: read_files(tmp_path / "lake")
        return
    with open_place(request, request.param, tmp_path) as url:
        yield from open_sink(url)


@contextlib.contextmanager
def open_place(request: pytest.FixtureRequest, kind: str, folder: Path) -> Iterator[str]:
    """An empty database of a kind."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/sink.db"
    else:
        server = request.getfixturevalue("postgres" if kind == "postgresql" else kind)
        with server.database() as url:
            yield url


def open_sink(url: str) -> Iterator[tuple[Sink, Callable[[], list[Any]]]]:
    sink, engine = SqlSink(url), open_engine(url)
    yield sink, lambda: [data for _, data in sorted(values(engine).items())]
    sink.close()
    engine.dispose()


DECIMALS = (
    "100000000000000000.01",
    "0.92156863212585449",
    "-0.1000000000000000055511151231257827",
    "1.10",
    "1E5",
    "1.5e-400",
    "-0.0",
    "1e308",
    "123456789012345678901234567890.5",
    "18446744073709551616",
)


def test_numbers_reach_a_database_exactly_as_sent(sql: SqlSink, database: Engine) -> None:
    sent = parse_records([f'{{"id": "{n:02d}", "n": [{number}]}}' for n, number in enumerate(DECIMALS)])

    assert write(sql, send(sent), ROUTE).written == len(DECIMALS)

    with database.engine.connect() as connection:
        texts = connection.execute(text(select_as_text(database, "data"))).scalars().all()
    numbers = [json.loads(data, parse_float=str, parse_int=str)["n"][0] for data in texts]
    # jsonb writes an exponent out: it keeps the number, not its spelling.
    assert list(map(Decimal, numbers)) == list(map(Decimal, DECIMALS))
    assert database.dialect.name == "postgresql" or numbers == list(DECIMALS)


def select_as_text(database: Engine, column: str) -> str:
    as_text = f'"{column}"' if database.dialect.name == "mysql" else f'CAST("{column}" AS text)'
    return f'SELECT {as_text} FROM crm_contacts ORDER BY "_key"'


def test_a_number_with_too_many_digits_for_a_database_is_rejected_alone(
    sql: SqlSink, database: Engine
) -> None:
    sent = parse_records(['{"id": "1"}', '{"id": "2", "n": 1e-20000}', '{"id": "3"}'])

    written = write(sql, send(sent), ROUTE)

    if database.dialect.name == "postgresql":
        assert [(r.ordinal, r.reason) for r in written.rejected] == [(1, "number_out_of_range")]
    else:
        assert read_column(database, "data")[1] == '{"id":"2","n":1e-20000}'


def parse_records(texts: Sequence[str]) -> list[Any]:
    """Records as a worker reads them."""
    parsed = read_records(f'{{"payload": {{"records": [{", ".join(texts)}]}}}}'.encode())
    assert parsed is not None
    return [value for _, value in parsed.records]


def test_erasing_during_writes_ends_and_keeps_later_records(
    sink_and_records: tuple[Sink | FilesSink, Callable[[], list[Any]]],
) -> None:
    sink, _ = sink_and_records
    batches = [send([{"id": str(n)} for n in range(50)], number=n, account=f"a{n % 2}") for n in range(60)]

    def write_at_last(next_batch: SentRecords) -> None:
        # A deadlock, or a folder that was just removed, passes.
        for _ in range(20):
            with contextlib.suppress(SinkUnavailable):
                write(sink, next_batch, ROUTE)
                return
        raise AssertionError("never written")

    with ThreadPoolExecutor(3) as pool:
        written = [pool.submit(write_at_last, each) for each in batches]
        erased = [pool.submit(sink.erase, "a1") for _ in range(10)]
        for writing in written:
            writing.result(60)
        for erasing in erased:
            with contextlib.suppress(SinkUnavailable):
                erasing.result(60)
    sink.erase("a1")

    assert sink.count("a1") == 0
    assert sink.count("a0") >= 30


# The SQL sink


def test_an_older_batch_never_overwrites_a_newer_one(sql: SqlSink, database: Engine) -> None:
    newer, older = (
        send([{"id": "1", "n": "new"}], at_s=2, number=2),
        send([{"id": "1", "n": "old"}], at_s=1),
    )

    for each in (newer, older, newer, older):
        assert write(sql, each, ROUTE).written == 1

    assert values(database) == {"1": {"id": "1", "n": "new"}}


def test_of_equal_versions_the_delivery_received_later_wins(sql: SqlSink, database: Engine) -> None:
    first, second = send([{"id": "1", "n": 1}], number=1), send([{"id": "1", "n": 2}], number=2)

    for each in (second, first):
        write(sql, each, ROUTE)

    assert values(database) == {"1": {"id": "1", "n": 2}}


def test_the_last_record_of_a_key_in_a_batch_wins(sql: SqlSink, database: Engine) -> None:
    written = write(sql, send([{"id": "1", "n": 1}, {"id": "1", "n": 2}]), ROUTE)

    assert written.written == 2
    assert values(database) == {"1": {"id": "1", "n": 2}}


def test_equal_data_still_advances_the_version(sql: SqlSink, database: Engine) -> None:
    a, b = {"id": "1", "n": "a"}, {"id": "1", "n": "b"}

    for at_s, record in ((1, a), (3, a), (2, b)):
        write(sql, send([record], at_s=at_s, number=at_s), ROUTE)

    assert values(database) == {"1": a}


def test_the_query_of_the_page_finds_rows_without_an_account(sql: SqlSink, database: Engine) -> None:
    query = read_marked_block("docs/upgrades.md", "rows without an account")
    write(sql, send([{"id": "1"}, {"id": "2"}], account="", run="r1"), ROUTE)
    write(sql, send([{"id": "3"}], number=2, run="r2"), ROUTE)

    with database.connect() as connection:
        found = connection.execute(text(query.rstrip(";\n"))).all()

    assert [tuple(row) for row in found] == [("r1", 2)]


def test_accounts_do_not_share_records(sql: SqlSink, database: Engine) -> None:
    for account in ("a1", "a2", ""):
        write(sql, send([{"id": "1"}], account=account), ROUTE)

    with database.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM crm_contacts")).scalar_one() == 3


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=lambda order: "".join(map(str, order)))
def test_a_deletion_keeps_the_last_values(sql: SqlSink, database: Engine, order: tuple[int, ...]) -> None:
    route = Route(sinks=("main",), columns={"n": ColumnConfig(type="integer")})
    steps = [
        send([{"id": "1", "n": 1}], at_s=1, number=1, run="r1"),
        send([{"id": "1", "n": 2}], at_s=2, number=2, run="r2"),
        send([{"id": "1"}], at_s=3, number=3, run="", is_deletion=True),
        send([{"id": "1", "by": "x"}], at_s=4, number=4, run="", is_deletion=True),
    ]

    for place in (*order, *order):
        write(sql, steps[place], route)

    assert rows(database) == {"1": ({"id": "1", "n": 2}, True)}
    assert read_column(database, "n") == [2]
    assert read_column(database, "_run") == [""]

    write(sql, send([{"id": "1", "n": 3}], at_s=5, number=5), route)
    assert rows(database) == {"1": ({"id": "1", "n": 3}, False)}
    assert read_column(database, "_data_vseq") == [None]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_deletion_of_an_unknown_record_keeps_its_payload(
    sql: SqlSink, database: Engine, order: tuple[int, ...]
) -> None:
    deletions = [send([{"id": "1", "by": n}], at_s=n, number=n, is_deletion=True) for n in (1, 2)]

    for place in order:
        write(sql, deletions[place], ROUTE)

    assert rows(database) == {"1": ({"id": "1", "by": 2}, True)}


def test_rows_of_earlier_releases_get_their_last_values_from_a_replay(
    sink_url: str, sql: SqlSink, database: Engine
) -> None:
    kept, newer = send([{"id": "1", "n": 1}], at_s=1), send([{"id": "2", "n": 1}], at_s=3, number=3)
    deletion = send([{"id": "1"}, {"id": "2"}], at_s=2, number=2, is_deletion=True)
    for each in (deletion, newer):
        write(sql, each, ROUTE)
    execute(database, "DROP VIEW crm_contacts_live")
    for column in ("_data_version", "_data_vseq"):
        execute(database, f'ALTER TABLE crm_contacts DROP COLUMN "{column}"')
    upgraded = SqlSink(sink_url)

    for each in (deletion, newer, kept):
        write(upgraded, each, ROUTE)

    upgraded.close()
    assert rows(database) == {"1": ({"id": "1", "n": 1}, True), "2": ({"id": "2", "n": 1}, False)}


@pytest.mark.parametrize(
    ("record", "key"),
    [
        ({"id": "abc"}, "abc"),
        ({"id": 17}, "17"),
        ({"id": 1.5}, "1.5"),
        ({"id": Raw("12.50")}, "12.50"),
        ({"id": Raw("100000000000000000.01")}, "100000000000000000.01"),
        ({"id": 2**70}, str(2**70)),
        ({"id": " "}, " "),
        ({"id": "x" * 512}, "x" * 512),
    ],
)
def test_a_key_is_the_id_as_text(sql: SqlSink, database: Engine, record: Any, key: str) -> None:
    write(sql, send([record]), ROUTE)

    assert list(values(database)) == [key]


def test_keys_and_accounts_are_compared_byte_by_byte(sql: SqlSink, database: Engine) -> None:
    ids = [
        "aB1",
        "ab1",
        "AB1",
        "a",
        "a ",
        "a  ",
        " a",
        "é",
        "e\u0301",
        "e",
        "ß",
        "ss",
        "\uff41",
        "ǆ",
        "🙂",
        "🙃",
        "0",
    ]

    for account in ids:
        for number in (1, 2):
            written = write(sql, send([{"id": id_} for id_ in ids], number=number, account=account), ROUTE)
            assert written.written == len(ids)

    assert len(read_column(database, "_key")) == len(ids) ** 2
    assert [sql.count(account) for account in ids] == [len(ids)] * len(ids)
    assert (sql.erase("a "), sql.count("a"), sql.count("AB1")) == (len(ids), len(ids), len(ids))


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"id": None},
        {"id": ""},
        {"id": True},
        {"id": {"a": 1}},
        {"id": [1]},
        {"id": "x" * 513},
        {"id": "é" * 1500},
    ],
)
def test_an_id_that_cannot_be_a_key_is_hashed(sql: SqlSink, database: Engine, record: Any) -> None:
    for _ in range(2):
        write(sql, send([record]), ROUTE)

    [(key, data)] = values(database).items()
    assert key.startswith("sha256:")
    assert len(key) == 71
    assert data == record


def test_records_without_a_key_that_differ_in_the_last_digit_are_two_rows(
    sql: SqlSink, database: Engine
) -> None:
    first, second = (f'{{"amount": 100000000000000000.{cents}}}' for cents in ("01", "02"))

    for number in (1, 2):
        write(sql, send(parse_records([first, second, first]), number=number), ROUTE)

    assert len(values(database)) == 2


UNSTORABLE_IDS = [
    *(r'"a\u0000"', r'"a\ud800"', r'"a\udfff"', r'"a\uDFFF\ud800"', '"a\ufffd"', '"a\ufffd\ufffd"', '"a"'),
    # Invalid UTF-8, and the escape of the surrogate by which Python spells it.
    *('"a\udcff"', '"a\udcfe"', r'"a\udcff"', '"a\udcff\udcff"', r'"a\udcff\udcfe"', '"\udcff"'),
    # Over the length of a key.
    *(f'"{"x" * 600}{end}"' for end in (r"\u0000", r"\ud800", "\ufffd", "\udcff")),
    *("12345678901234567.1", "12345678901234567.2", "12345678901234567", '"12345678901234567.3"'),
]


@pytest.mark.parametrize(
    "template", ['{"id": ID}', '{"value": ID}', "ID", '{"id": {"id": ID}}', '{"ids": [ID]}']
)
@pytest.mark.parametrize("path", ["id", "value", "id.id", "ids.0", ""])
def test_ids_that_differ_in_an_unstorable_character_are_different_rows(
    sql: SqlSink, database: Engine, template: str, path: str
) -> None:
    route = Route(sinks=("main",), key=path, on_non_object="wrap")
    items = ", ".join(template.replace("ID", id_) for id_ in UNSTORABLE_IDS)
    body = f'{{"event": "e", "payload": {{"records": [{items}]}}}}'.encode(errors="surrogateescape")
    read = read_records(body)
    assert read
    sent = replace(send([value for _, value in read.records]), originals=read.originals)

    for _ in range(2):
        written = write(sql, sent, route)

    assert (written.written, written.rejected) == (len(UNSTORABLE_IDS), [])
    assert len(values(database)) == len(UNSTORABLE_IDS)
    assert max(len(key.encode()) for key in values(database)) <= 512


def test_an_unstorable_character_outside_the_key_leaves_the_key(sql: SqlSink, database: Engine) -> None:
    record = parse_records([r'{"id": "1", "name": "a\u0000"}'])[0]

    write(sql, replace(send([record]), originals={0: r'{"id": "1", "name": "a\u0000"}'}), ROUTE)

    assert values(database) == {"1": {"id": "1", "name": "a\ufffd"}}


@pytest.mark.parametrize("number", ["0.1", "1.10", "12.0", "1E5", "0.92156863212585449", "-0.0"])
def test_a_decimal_keeps_the_hash_of_its_float(number: str) -> None:
    [record] = parse_records([f'{{"n": {number}}}'])

    assert hash_record(record) == hash_record({"n": float(number)})


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("properties.hs_object_id", {"properties": {"hs_object_id": "7"}}),
        ("properties.hs_object_id", {"properties.hs_object_id": 7, "properties": {"hs_object_id": 8}}),
        ("properties.hs.id", {"properties": {"hs.id": 7}}),
        ("ids.1.value", {"ids": [{"value": 6}, {"value": 7}]}),
    ],
)
def test_a_key_may_be_a_path(sql: SqlSink, database: Engine, path: str, record: Any) -> None:
    route = Route(sinks=("main",), key=path)

    sent = [send([{**record, "n": n}], number=n) for n in (1, 2)]
    for each in sent:
        write(sql, each, route)

    assert values(database) == {"7": {**record, "n": 2}}
    assert [each.route(route).has_key for each in sent] == [True, True]


@pytest.mark.parametrize(
    ("sent", "has_key"),
    [
        ([{"id": "1"}, {"no": 1}], True),
        ([{"no": 1}, {"id": None}, {"id": ""}, {"id": True}, {"id": {}}], False),
        (["text", {"no": 1}], False),
        (["text"], None),
        ([], None),
    ],
)
def test_a_batch_without_any_key_is_recognized(sent: list[Any], has_key: bool | None) -> None:
    assert send(sent).route(ROUTE).has_key is has_key
    assert send(sent).route(Route(sinks=("main",), key="")).has_key


def test_a_route_may_refuse_records_without_a_key(sql: SqlSink, database: Engine) -> None:
    route = Route(sinks=("main",), on_missing_key="reject", key="email")

    written = write(sql, send([{"id": "1"}, {"email": "x@example.com"}]), route)

    assert [(refusal.ordinal, refusal.reason) for refusal in written.rejected] == [(0, "no_key")]
    assert list(values(database)) == ["x@example.com"]


def test_a_record_that_is_no_object_is_refused_or_wrapped(sql: SqlSink, database: Engine) -> None:
    odd = [None, 1, "text", [1, 2], True]

    refused = write(sql, send(odd), ROUTE)
    wrapped = write(sql, send(odd, resource="odd"), Route(sinks=("main",), on_non_object="wrap"))

    assert [refusal.reason for refusal in refused.rejected] == ["not_object"] * 5
    assert (wrapped.written, len(wrapped.rejected)) == (5, 0)
    found = [row["value"] for row in values(database, "odd").values()]
    assert sorted(found, key=str) == sorted(odd, key=str)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return {"id": str(depth), "deep": value}


def test_deeply_nested_records_are_written_or_refused(sql: SqlSink, database: Engine) -> None:
    depths = (10, 100, 500, 900)

    written = write(sql, send([nested(depth) for depth in depths]), ROUTE)

    assert written.written + len(written.rejected) == len(depths)
    assert {refusal.reason for refusal in written.rejected} <= {"too_deep"}
    assert len(values(database)) == written.written >= 2


def test_a_record_that_the_database_refuses_is_rejected_alone(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "0"}]), Route(sinks=("main",), columns={"n": ColumnConfig(type="integer")}))
    with database.engine.begin() as connection:
        connection.execute(text("CREATE UNIQUE INDEX once ON crm_contacts (n)"))
    route = Route(sinks=("main",), columns={"n": ColumnConfig(type="integer")})
    sent = [{"id": str(place), "n": 7 if place in (20, 61, 62) else place} for place in range(8, 100)]

    written = write(sql, send(sent, at_s=1, number=2), route)

    assert {sent[refusal.ordinal]["id"] for refusal in written.rejected} < {"20", "61", "62"}
    assert [refusal.reason for refusal in written.rejected] == ["constraint"] * 2
    assert len(values(database)) == 1 + written.written == 1 + len(sent) - 2
    assert "7" not in "".join(refusal.message for refusal in written.rejected).replace("23505", "")


def test_typed_columns_hold_fitting_values_and_name_the_others(sql: SqlSink, database: Engine) -> None:
    kinds = ("text", "integer", "number", "boolean", "timestamp", "date", "json")
    columns = {
        f"a_{kind}": ColumnConfig.model_validate({"type": kind, "path": f"v.{place}"})
        for place, kind in enumerate(kinds)
    }
    route = Route(sinks=("main",), columns=columns)
    time = "2026-01-02T03:04:05+01:00"
    good = {"id": "good", "v": ["x", "12", "1.5", "true", time, "2026-01-02", {"a": 1}]}
    bad = {"id": "bad", "v": [{"a": 1}, 2**63, "1e400", "yes", "soon", 7, None]}

    assert write(sql, send([good, bad, {"id": "none"}]), route).written == 3

    names = ", ".join(f'"{name}"' for name in (*columns, "_meta"))
    with database.engine.connect() as connection:
        found = {
            row[0]: tuple(row[1:])
            for row in connection.execute(text(f'SELECT "_key", {names} FROM crm_contacts')).all()
        }
    in_postgres = database.dialect.name == "postgresql"
    assert found["good"][:4] == ("x", 12, 1.5, True)
    assert read_time(found["good"][4]) == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert str(found["good"][5]) == "2026-01-02"
    assert (found["good"][6] if in_postgres else json.loads(found["good"][6])) == {"a": 1}
    assert found["none"] == (None,) * 8
    assert found["bad"][0] == '{"a":1}'
    assert found["bad"][1:7] == (None,) * 6
    reasons = found["bad"][7] if in_postgres else json.loads(found["bad"][7])
    assert reasons == {
        "a_integer": "out_of_range",
        "a_number": "out_of_range",
        "a_boolean": "not_a_boolean",
        "a_timestamp": "not_a_timestamp",
        "a_date": "not_a_date",
    }


def read_time(value: Any) -> datetime:
    """A timestamp as a driver returns it: without a time zone from MySQL, as text from SQLite."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(time, datetime)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


ANY_JSON = [
    '"1"',
    '"007"',
    '"1e5"',
    '"true"',
    '"null"',
    '""',
    "1",
    "0",
    "-0.0",
    "1.10",
    "1e5",
    "true",
    "false",
]
ANY_JSON += [
    "null",
    "[]",
    "{}",
    '["1", 1, true]',
    '{"a": "1"}',
    "12345678901234567.1",
    "18446744073709551616",
]
ANY_JSON += ['"2026-11-24"', '"2026-11-24T12:00:00Z"', "9007199254740993", '"\\ud83d\\ude42"']


@pytest.mark.parametrize(
    "type_", ["text", "integer", "number", "decimal", "boolean", "timestamp", "date", "json"]
)
def test_a_typed_column_reads_back_as_it_was_cast(sql: SqlSink, database: Engine, type_: Any) -> None:
    config = {"v": ColumnConfig(type=type_)}
    sent = parse_records([f'{{"id": "{n:02d}", "v": {value}}}' for n, value in enumerate(ANY_JSON)])

    write(sql, send(sent), Route(sinks=("main",), columns=config))
    # A deletion and newer data pass through the conflict clause.
    write(sql, send(sent, number=2, at_s=1), Route(sinks=("main",), columns=config))
    write(sql, send(sent, number=3, at_s=2, is_deletion=True), Route(sinks=("main",), columns=config))

    expected = [ColumnCaster(config).cast(record)[0]["v"] for record in sent]
    found = read_column(database, "v")
    if type_ == "decimal":
        found, expected = (list(map(read_decimal, column)) for column in (found, expected))
    if type_ == "json":
        with database.connect() as connection:
            texts = connection.execute(text(select_as_text(database, "v"))).scalars().all()
        expected = [None if value is None else to_json(value) for value in expected]
        if database.dialect.name != "postgresql":
            assert texts == expected
        # jsonb keeps the type and every digit, and not the spelling.
        assert [repr(parse_exactly(value)) for value in texts] == [repr(parse_exactly(v)) for v in expected]
    elif type_ in ("timestamp", "date"):
        days = [value if isinstance(value, str) else value and value.isoformat() for value in found]
        assert [day and day[:10] for day in days] == [value and value[:10] for value in expected]
    else:
        assert found == expected
        kinds = {int, bool} if type_ == "boolean" else {type(value) for value in expected}
        assert {type(value) for value in found} <= kinds | {type(None)}


def read_decimal(value: Any) -> Decimal | None:
    return None if value is None else Decimal(value)


def test_a_decimal_is_exact_or_a_misfit_that_is_counted(sql: SqlSink, database: Engine) -> None:
    route = Route(sinks=("main",), columns={"v": ColumnConfig(type="decimal")})
    numbers = ["67.17411800000001", f"-{'9' * 35}.{'9' * 30}", "1e-30", f"{10**35}", "1e-31", "0.1"]
    sent = parse_records([f'{{"id": "{n}", "v": {number}}}' for n, number in enumerate(numbers)])

    written = write(sql, send(sent), route)

    # MySQL rounds further digits without an error.
    misfits = {"3": "out_of_range", "4": "too_many_digits"} if database.dialect.name == "mysql" else {}
    assert written.misfits == ({"v": len(misfits)} if misfits else {})
    expected = [None if str(n) in misfits else Decimal(number) for n, number in enumerate(numbers)]
    assert list(map(read_decimal, read_column(database, "v"))) == expected
    metas = [json.loads(meta) if isinstance(meta, str) else meta for meta in read_column(database, "_meta")]
    assert {str(n): meta["v"] for n, meta in enumerate(metas) if meta} == misfits


def parse_exactly(document: str | None) -> Any:
    """JSON with numbers as normalized decimals, so that 1 and "1" and true differ."""
    if document is None:
        return None
    return json.loads(document, parse_float=normalize, parse_int=normalize)


def normalize(number: str) -> Decimal:
    return Decimal(number) + 0 if Decimal(number) == 0 else Decimal(number).normalize()


@pytest.fixture
def chicago(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clocks of this process in another time zone, as those of the servers are."""
    monkeypatch.setenv("TZ", "America/Chicago")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# In Chicago, the first two of these days have an hour that does not exist, and an hour that exists twice.
@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01", "2026-07-01"])
def test_the_time_zones_of_the_process_and_the_server_change_no_time(
    chicago: None, sql: SqlSink, database: Engine, day: str
) -> None:
    assert datetime(2026, 1, 1).astimezone().utcoffset() == timedelta(hours=-6)  # the local one
    columns = {"at": ColumnConfig(type="timestamp"), "day": ColumnConfig(type="date", path="at")}
    hours = [datetime.fromisoformat(f"{day}T{hour:02d}:30:00.123456+00:00") for hour in range(24)]
    sent = [{"id": f"{n:02d}", "at": hour.isoformat()} for n, hour in enumerate(hours)]
    before = datetime.now(UTC)

    for hour in hours:
        write(sql, send(sent, version=hour), Route(sinks=("main",), columns=columns))
    for hour in reversed(hours):
        deletion = send([{"id": "00"}], version=hour, is_deletion=True, number=2)
        write(sql, deletion, Route(sinks=("main",), columns=columns))

    assert list(map(read_time, read_column(database, "at"))) == hours
    assert [str(value) for value in read_column(database, "day")] == [day] * 24
    assert set(map(read_time, read_column(database, "_version"))) == {hours[-1]}
    assert read_time(read_column(database, "_deleted_at")[0]) == hours[-1]
    assert before <= read_time(read_column(database, "_written_at")[0]) <= datetime.now(UTC)


def test_the_time_of_a_change_notices_case_and_spaces(sql: SqlSink, database: Engine) -> None:
    changed = []
    for number, name in enumerate(["a", "a", "A", "A "], start=1):
        write(sql, send([{"id": "1", "name": name}], number=number), ROUTE)
        changed += read_column(database, "_changed_at")

    assert len(set(changed)) == 3


def test_columns_are_added_to_an_existing_table(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1", "n": 1}]), ROUTE)

    write(
        sql,
        send([{"id": "2", "n": 2}], number=2),
        Route(sinks=("main",), columns={"n": ColumnConfig(type="integer")}),
    )
    write(sql, send([{"id": "3", "n": 3}], number=3), ROUTE)

    with database.engine.connect() as connection:
        found = connection.execute(text('SELECT "_key", n FROM crm_contacts ORDER BY "_key"')).all()
    assert [tuple(row) for row in found] == [("1", None), ("2", 2), ("3", None)]


@pytest.mark.parametrize(
    ("resource", "table"),
    [
        ("crm/contacts", "crm_contacts"),
        ("contacts", "contacts"),
        ("CRM/Deal-Stages", "crm_deal_stages"),
        ("rapidbridge/deliveries", "r_rapidbridge_deliveries"),
        ("pg_class", "r_pg_class"),
        ("2024", "2024"),
        ('a"; DROP TABLE x; --', "a_drop_table_x"),
    ],
)
def test_a_table_is_named_after_its_resource(
    sql: SqlSink, database: Engine, resource: str, table: str
) -> None:
    write(sql, send([{"id": "1"}], resource=resource), ROUTE)

    assert inspect(database).has_table(table)


def test_long_and_non_ascii_resources_get_their_own_table() -> None:
    names = {table_name(resource, ROUTE) for resource in ("x" * 100, "x" * 101, "客户", "订单", "")}

    assert len(names) == 5
    assert max(len(name.encode()) for name in names) <= 63


def test_two_resources_never_share_a_table(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)

    with pytest.raises(SinkRefused, match="crm_contacts belongs to crm/contacts") as refusal:
        write(sql, send([{"id": "1"}], resource="CRM/contacts"), ROUTE)

    assert refusal.value.reason == "table_collision"
    assert write(
        sql, send([{"id": "1"}], resource="CRM/contacts"), Route(sinks=("main",), table="other")
    ).written
    assert len(values(database)) == 1


def test_a_table_of_another_program_is_not_written(sql: SqlSink, database: Engine) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE crm_contacts (id integer)"))

    with pytest.raises(SinkRefused, match="was not created by this sink"):
        write(sql, send([{"id": "1"}]), ROUTE)

    assert [column["name"] for column in inspect(database).get_columns("crm_contacts")] == ["id"]


def test_reserved_names_are_refused(sql: SqlSink) -> None:
    with pytest.raises(SinkRefused, match="reserved"):
        write(sql, send([{"id": "1"}]), Route(sinks=("main",), table="rapidbridge_deliveries"))


def test_a_dropped_table_is_created_again(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    drop_table(database)

    with pytest.raises(SinkUnavailable):
        write(sql, send([{"id": "1"}]), ROUTE)
    # Its place in the registry is kept: it is the same resource's.
    assert write(sql, send([{"id": "1"}]), ROUTE).written == 1


def test_a_changed_table_is_an_error_with_its_reason(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    with database.engine.begin() as connection:
        connection.execute(text('ALTER TABLE crm_contacts RENAME COLUMN "_job" TO job'))

    with pytest.raises(SinkRefused, match="table crm_contacts does not fit: column _job is missing"):
        write(sql, send([{"id": "2"}]), ROUTE)


WIDE = Route(
    sinks=("main",),
    columns={
        "name": ColumnConfig(type="text"),
        "n": ColumnConfig(type="number"),
        "j": ColumnConfig(type="json"),
    },
)
WIDE_RECORD = {"id": "2", "name": "twelve characters", "n": 70000.5, "j": {"a": 1}}


@pytest.mark.parametrize(
    ("change", "named", "correction"),
    [
        ("ALTER COLUMN name TYPE integer USING 0", ("name", "integer", "text"), ""),
        ("ALTER COLUMN name TYPE varchar(5) USING ''", ("name", "character varying(5)", "text"), ""),
        ("ALTER COLUMN name TYPE uuid USING NULL", ("name", "uuid", "text"), ""),
        ("ALTER COLUMN n TYPE smallint USING 0", ("n", "smallint", "double precision"), ""),
        ("ALTER COLUMN n TYPE numeric(4,2) USING 0", ("n", "numeric(4,2)", "double precision"), ""),
        ("ALTER COLUMN n TYPE boolean USING true", ("n", "boolean", "double precision"), "DROP COLUMN n"),
        ("ALTER COLUMN j TYPE integer USING 0", ("j", "integer", "jsonb"), ""),
        ("ALTER COLUMN j TYPE text[] USING NULL", ("j", "text[]", "jsonb"), ""),
        ('ALTER COLUMN "data" TYPE json', ("data", "json", "jsonb"), ""),
        ("ADD COLUMN extra integer NOT NULL", ("extra", "NOT NULL"), ""),
        ('DROP COLUMN "_job"', ("_job", "missing"), ""),
        ("DROP CONSTRAINT crm_contacts_pkey", ("primary key",), ""),
        ("ADD COLUMN name text GENERATED ALWAYS AS ('x') STORED", ("name", "generated"), "DROP COLUMN name"),
    ],
)
@pytest.mark.parametrize("restarted", [True, False])
def test_a_table_with_a_wrong_set_up_waits_for_its_correction(
    postgres_url: str, change: str, named: Sequence[str], correction: str, *, restarted: bool
) -> None:
    sink, engine = SqlSink(postgres_url), open_engine(postgres_url)
    write(sink, send([{"id": "1"}]), WIDE)
    execute(engine, "DROP VIEW crm_contacts_live")
    if change.startswith("ADD COLUMN name"):
        execute(engine, "ALTER TABLE crm_contacts DROP COLUMN name")
    if change.startswith("ADD"):
        execute(engine, "DELETE FROM crm_contacts")
    execute(engine, f"ALTER TABLE crm_contacts {change}")
    if restarted:
        sink.close()
        sink = SqlSink(postgres_url)

    for _ in range(2):
        with pytest.raises(SinkRefused) as refusal:
            write(sink, send([{"id": "3"}, WIDE_RECORD], number=2), WIDE)
        assert refusal.value.reason == "sink_set_up"
        assert all(name in str(refusal.value) for name in ("table crm_contacts", *named))
        assert set(values(engine)) <= {"1"}

    if correction:
        execute(engine, f"ALTER TABLE crm_contacts {correction}")
    else:
        # The statement of the message.
        execute(engine, *re.findall(r": (ALTER TABLE .*?;)", str(refusal.value)))
    assert write(sink, send([{"id": "3"}, WIDE_RECORD], number=2), WIDE).rejected == []
    assert values(engine)["2"] == WIDE_RECORD
    sink.close()
    engine.dispose()


@pytest.mark.parametrize(
    ("change", "correction", "named"),
    [
        ("REVOKE UPDATE ON crm_contacts FROM writer", "", "the role lacks a right"),
        ("REVOKE ALL ON crm_contacts FROM writer", "", "the role lacks a right"),
        ("ALTER TABLE crm_contacts DROP COLUMN name", "", "column name is missing"),
        (
            "ALTER TABLE crm_contacts ENABLE ROW LEVEL SECURITY",
            "",
            "its row-level security rejects records",
        ),
        (
            "REVOKE CREATE ON SCHEMA public FROM writer",
            "GRANT CREATE ON SCHEMA public TO writer",
            "the role lacks a right",
        ),
    ],
)
def test_a_missing_right_waits_for_its_grant(
    postgres_url: str, change: str, correction: str, named: str
) -> None:
    engine = open_engine(postgres_url)
    execute(engine, "DROP ROLE IF EXISTS writer", "CREATE ROLE writer LOGIN")
    try:
        execute(engine, "GRANT ALL ON SCHEMA public TO writer")
        owner, sink = SqlSink(postgres_url), SqlSink(postgres_url.replace("postgres@", "writer@"))
        write(owner, send([{"id": "1"}]), WIDE)
        execute(engine, "GRANT ALL ON ALL TABLES IN SCHEMA public TO writer")
        execute(engine, "DROP VIEW crm_contacts_live", change)

        with pytest.raises(SinkRefused, match=named) as refusal:
            write(sink, send([WIDE_RECORD], number=2), WIDE)

        assert refusal.value.reason == "sink_set_up"
        execute(
            engine,
            *([correction] if correction else re.findall(r": ((?:ALTER|GRANT) .*?;)", str(refusal.value))),
        )
        assert write(sink, send([WIDE_RECORD], number=2), WIDE).rejected == []
        owner.close()
        sink.close()
    finally:
        execute(engine, "DROP OWNED BY writer", "DROP ROLE writer")
        engine.dispose()


def test_a_dropped_column_is_added_again(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), WIDE)
    execute(database, "DROP VIEW crm_contacts_live", "ALTER TABLE crm_contacts DROP COLUMN name")

    with pytest.raises(SinkUnavailable) as failure:
        write(sql, send([WIDE_RECORD], number=2), WIDE)

    assert not isinstance(failure.value, SinkRefused)
    assert write(sql, send([WIDE_RECORD], number=2), WIDE).written == 1
    assert read_column(database, "name") == [None, "twelve characters"]


def test_a_view_in_place_of_the_table_is_written_or_named(sql: SqlSink, database: Engine) -> None:
    write(sql, send([{"id": "1"}]), WIDE)
    execute(
        database,
        "ALTER TABLE crm_contacts RENAME TO real_contacts",
        "CREATE VIEW crm_contacts AS SELECT * FROM real_contacts",
    )

    for number in (2, 3):
        if database.dialect.name != "sqlite":
            write(sql, send([WIDE_RECORD], number=number), WIDE)
            continue
        with pytest.raises(SinkRefused, match=r"table crm_contacts .* it is no ordinary table"):
            write(sql, send([WIDE_RECORD], number=number), WIDE)


def test_a_record_that_a_constraint_rejects_is_dead_and_the_others_are_written(
    postgres_url: str,
) -> None:
    sink, engine = SqlSink(postgres_url), open_engine(postgres_url)
    write(sink, send([{"id": "1"}]), WIDE)
    # Types of the owner's choice do not make a record's own fault one of the table.
    execute(
        engine,
        "DROP VIEW crm_contacts_live",
        "ALTER TABLE crm_contacts ADD CHECK (n < 10), ALTER COLUMN name TYPE varchar(99)",
        "CREATE FUNCTION check_name() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.name = 'bad' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER check_name BEFORE INSERT ON crm_contacts FOR EACH ROW EXECUTE FUNCTION check_name()",
    )
    # The owner's trigger fills a column.
    execute(
        engine,
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.filled = 1; IF NEW.name = 'null' THEN NEW.j = NULL; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER fill BEFORE INSERT ON crm_contacts FOR EACH ROW EXECUTE FUNCTION fill()",
        "DELETE FROM crm_contacts",
        "ALTER TABLE crm_contacts ADD COLUMN filled integer NOT NULL, ALTER COLUMN j SET NOT NULL",
    )
    tiny = parse_records(['{"id": "4", "x": 1e-20000, "j": 1}'])

    sent = [
        {"id": "1", "n": 1, "j": 1},
        {"id": "2", "n": 11, "j": 1},
        {"id": "3", "name": "bad", "j": 1},
        *tiny,
        {"id": "5", "n": 5, "j": 1},
        {"id": "6", "name": "null", "j": 1},
    ]
    written = write(sink, send(sent, number=2), WIDE)

    assert [(r.ordinal, r.reason) for r in written.rejected] == [
        (1, "constraint"),
        (2, "constraint"),
        (3, "number_out_of_range"),
        (5, "constraint"),
    ]
    assert sorted(values(engine)) == ["1", "5"]
    sink.close()
    engine.dispose()


def test_a_batch_that_takes_too_long_to_split_is_not_written_at_all(
    sql: SqlSink, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(sql, send([{"id": "0"}]), Route(sinks=("main",)))
    if database.dialect.name != "sqlite":
        execute(database, "ALTER TABLE crm_contacts ADD CHECK (\"_key\" <> 'bad')")
    else:
        execute(
            database,
            "CREATE TRIGGER no_bad BEFORE INSERT ON crm_contacts WHEN NEW.\"_key\" = 'bad' "
            "BEGIN SELECT RAISE(ABORT, 'bad'); END",
        )
    # As if each statement took long.
    monkeypatch.setattr(sql_sink, "_SPLIT_TIMEOUT_S", 0.0)

    with pytest.raises(SinkUnavailable, match="smaller batches") as failure:
        write(sql, send([{"id": "1"}, {"id": "bad"}], number=2), Route(sinks=("main",)))

    assert failure.value.is_batch_timeout
    assert sorted(values(database)) == ["0"]


def test_a_column_of_sqlite_that_would_change_text_waits_for_its_correction(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sink.db"
    sink, engine = SqlSink(url), open_engine(url)
    write(
        sink,
        send([{"id": "1", "zip": 12}]),
        Route(sinks=("main",), columns={"zip": ColumnConfig(type="integer")}),
    )
    as_text = Route(sinks=("main",), columns={"zip": ColumnConfig(type="text")})

    with pytest.raises(SinkRefused, match="column zip has the type INTEGER instead of TEXT") as refusal:
        write(sink, send([{"id": "2", "zip": "00501"}]), as_text)

    execute(engine, *re.findall(r": (ALTER TABLE .*?;)", str(refusal.value)))
    write(sink, send([{"id": "2", "zip": "00501"}]), as_text)
    assert read_column(engine, "zip") == [None, "00501"]
    sink.close()
    engine.dispose()


def test_a_column_of_sqlite_that_needs_a_value_waits_for_its_correction(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sink.db"
    sink, engine = SqlSink(url), open_engine(url)
    write(sink, send([]), ROUTE)
    [(created,)] = read_all(engine, "SELECT sql FROM sqlite_master WHERE name = 'crm_contacts'")
    execute(
        engine,
        "DROP TABLE crm_contacts",
        created.replace('"_account" TEXT', '"Extra" INTEGER NOT NULL, "_account" TEXT'),
    )

    for _ in range(2):
        with pytest.raises(SinkRefused, match="column extra is NOT NULL without a default") as refusal:
            write(sink, send([{"id": "1"}]), ROUTE)

    execute(engine, *re.findall(r": (ALTER TABLE .*?;)", str(refusal.value)))
    assert write(sink, send([{"id": "1"}]), ROUTE).written == 1
    sink.close()
    engine.dispose()


def read_all(engine: Engine, statement: str) -> Sequence[Any]:
    with engine.begin() as connection:
        return connection.execute(text(statement)).all()


@pytest.mark.parametrize(
    ("relation", "kind"),
    [
        ("INDEX theirs ON base (id)", "index"),
        ("VIEW theirs AS SELECT * FROM base", "view"),
        ("SEQUENCE theirs", "sequence"),
        ("MATERIALIZED VIEW theirs AS SELECT * FROM base", "view"),
        ("TYPE theirs AS (id integer)", "type"),
        ("TYPE theirs AS ENUM ('a')", "type"),
        ("DOMAIN theirs AS integer", "type"),
        ("FOREIGN DATA WRAPPER none", ""),
    ],
)
def test_a_name_that_something_else_has_is_refused_with_its_kind(
    sql: SqlSink, database: Engine, relation: str, kind: str
) -> None:
    known = {"sqlite": ("INDEX", "VIEW"), "mysql": ("VIEW", "SEQUENCE")}.get(database.dialect.name)
    if known and not relation.startswith(known):
        pytest.skip("this database has no such thing, or it has names of its own")
    execute(database, "CREATE TABLE base (id integer)", f"CREATE {relation}")

    def write_by(route: Route) -> int:
        return write(sql, send([{"id": "1"}], resource="theirs"), route).written

    for _ in range(2) if kind else ():
        with pytest.raises(SinkRefused, match=f"the database has an? {kind} of this name") as refusal:
            write_by(ROUTE)
        assert refusal.value.reason == "table_taken"
    assert write_by(Route(sinks=("main",), table="ours")) == 1


def test_a_resource_named_like_the_index_of_another_is_refused_by_name(
    sql: SqlSink, database: Engine
) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)

    if database.dialect.name == "postgresql":
        with pytest.raises(SinkRefused, match="set another `table` for crm/contacts_pkey"):
            write(sql, send([{"id": "1"}], resource="crm/contacts_pkey"), ROUTE)
    for resource in ("sqlite_autoindex_crm_contacts_1", "pg_catalog"):
        assert write(sql, send([{"id": "1"}], resource=resource), ROUTE).written == 1


def drop_table(database: Engine) -> None:
    execute(database, "DROP VIEW crm_contacts_live", "DROP TABLE crm_contacts")


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_missing_database_is_unavailable(tmp_path: Path) -> None:
    sink = SqlSink(f"postgresql://nobody@/none?host={tmp_path}")

    with pytest.raises(SinkUnavailable) as fault:
        write(sink, send([{"id": "secret"}]), ROUTE)

    assert "secret" not in str(fault.value)
    for ask in (sink.count, sink.erase):
        with pytest.raises(SinkUnavailable):
            ask("a1")
    sink.close()


def test_more_rows_than_fit_one_transaction_are_erased(sql: SqlSink, database: Engine) -> None:
    for account in ("a1", "a2"):
        write(sql, send([{"id": str(n)} for n in range(2100)], account=account), ROUTE)

    assert (sql.erase("a1"), sql.count("a2")) == (2100, 2100)


def test_a_missing_table_holds_no_record_of_an_account(sql: SqlSink, database: Engine) -> None:
    assert sql.erase("a1") == 0
    write(sql, send([{"id": "1"}]), ROUTE)
    drop_table(database)

    assert (sql.count("a1"), sql.erase("a1")) == (0, 0)


def test_racing_writers_agree_and_never_deadlock(sink_url: str, database: Engine) -> None:
    chance = Random(7)
    keys = [str(key) for key in range(40)]
    batches = [
        send(
            [{"id": key, "n": number} for key in chance.sample(keys, 25)],
            at_s=chance.randrange(20),
            number=number,
            is_deletion=number % 7 == 0,
        )
        for number in range(1, 80)
    ]

    def write_all(seed: int) -> None:
        sink = SqlSink(sink_url)
        for each in Random(seed).sample(batches, len(batches)):
            write(sink, each, ROUTE)
        sink.close()

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write_all, range(4)))

    assert rows(database) == merge(batches)


def merge(batches: Sequence[SentRecords]) -> dict[str, Any]:
    """The rows that these batches should lead to, by key, as (data, is deleted)."""
    rows: dict[str, Any] = {}
    has_data: set[str] = set()
    for each in sorted(batches, key=lambda b: (b.header.version, b.header.received_at)):
        for record in each.values:
            key = record["id"]
            keeps_data = each.header.is_deletion and key in has_data
            rows[key] = (rows[key][0] if keeps_data else record, each.header.is_deletion)
            if not each.header.is_deletion:
                has_data.add(key)
    return rows


deliveries = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans()),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def all_databases(
    request: pytest.FixtureRequest, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tuple[SqlSink, Engine]]]:
    servers: list[PostgresServer | MariaDbServer] = [postgres]
    # Without MariaDB, the others are tested.
    with contextlib.suppress(pytest.skip.Exception):
        servers.append(request.getfixturevalue("mariadb"))
    with contextlib.ExitStack() as databases:
        urls = [databases.enter_context(server.database()) for server in servers]
        urls.append(f"sqlite:///{tmp_path_factory.mktemp('model')}/sink.db")
        pairs = [(SqlSink(url), open_engine(url)) for url in urls]
        yield pairs
        for sink, engine in pairs:
            sink.close()
            engine.dispose()


TYPED = Route(
    sinks=("main",), columns={"n": ColumnConfig(type="number"), "i": ColumnConfig(type="integer", path="n")}
)
# All but the times of processing.
ORDER_INVARIANT_COLUMNS = (
    "_key, data, _version, _vseq, _data_version, _data_vseq, _job, _run, _method, _deleted_at, _meta, n, i"
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=deliveries, order=st.randoms(use_true_random=False))
def test_any_order_and_any_replays_end_with_the_same_rows(
    all_databases: list[tuple[SqlSink, Engine]], made: list[tuple[int, list[int], bool]], order: Random
) -> None:
    batches = [
        send(
            [{"id": str(key), "n": f"{number}.{place}"} for place, key in enumerate(keys)],
            run=str(number),
            at_s=at_s,
            number=number,
            is_deletion=is_deletion,
        )
        for number, (at_s, keys, is_deletion) in enumerate(made, start=1)
    ]
    by_version = sorted(batches, key=lambda b: (b.header.version, b.header.received_at))
    played = [*batches, *order.choices(batches, k=len(batches))]
    order.shuffle(played)

    for sink, engine in all_databases:
        contents = []
        for ordered in (by_version, played):
            write(sink, send([]), TYPED)
            with engine.begin() as connection:
                connection.execute(text("DELETE FROM crm_contacts"))
            for each in ordered:
                write(sink, each, TYPED)
            assert rows(engine) == merge(batches)
            with engine.connect() as connection:
                statement = text(f"SELECT {ORDER_INVARIANT_COLUMNS} FROM crm_contacts ORDER BY _key")
                contents.append(connection.execute(statement).all())
        assert contents[0] == contents[1]
