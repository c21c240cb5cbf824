"""Rows that a run did not see: the right ones are deleted, in any order of arrival."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from app.config.routes import ColumnConfig, Route
from app.errors import SinkUnavailable
from app.sinks.sql.sink import SqlSink
from app.sinks.sql.unseen_rows import RunScope
from tests.support.mariadb import MariaDbServer
from tests.support.postgres import PostgresServer
from tests.support.sent_records import NOW, SentRecords, send, write

TRACKED = Route(sinks=("main",), track_deletes=True, columns={"n": ColumnConfig(type="text")})
RESOURCE = "crm/contacts"
BEGAN_AT = NOW + timedelta(hours=1)
SCOPE = RunScope("a1", "j1", "r2", BEGAN_AT)


@pytest.fixture(scope="module")
def sinks(
    postgres: PostgresServer, mariadb: MariaDbServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, SqlSink]]:
    file = f"sqlite:///{tmp_path_factory.mktemp('unseen')}/sink.db"
    with postgres.database() as postgres_url, mariadb.database() as mariadb_url:
        urls = {"postgresql": postgres_url, "sqlite": file, "mariadb": mariadb_url}
        opened = {name: SqlSink(url) for name, url in urls.items()}
        yield opened
        for sink in opened.values():
            sink.close()


@pytest.fixture(params=["postgresql", "sqlite", "mariadb"])
def sink(request: pytest.FixtureRequest, sinks: dict[str, SqlSink]) -> SqlSink:
    sink = sinks[request.param]
    empty(sink)
    return sink


def empty(sink: SqlSink) -> None:
    write(sink, send([]), TRACKED)
    with sink._engine.begin() as connection:
        connection.execute(text("DELETE FROM crm_contacts"))


def page(ids: str, *, run: str = "r1", received_at: datetime = NOW, **changes: Any) -> SentRecords:
    records = [{"id": id_, "n": run} for id_ in ids]
    return send(records, run=run, received_at=received_at, **changes)


def mark(sink: SqlSink, scope: RunScope = SCOPE, runs: tuple[str, ...] = ()) -> int:
    return sum(sink.mark_unseen_rows(RESOURCE, TRACKED, scope, runs))


def read(sink: SqlSink, columns: str = '"_deleted_at" IS NOT NULL') -> dict[str, Any]:
    with sink._engine.begin() as connection:
        rows = connection.execute(text(f'SELECT "_key", {columns} FROM crm_contacts ORDER BY "_key"')).all()
    return {row[0]: bool(row[1]) if len(row) == 2 else tuple(row[1:]) for row in rows}


def list_deleted(sink: SqlSink) -> str:
    return "".join(key for key, is_deleted in read(sink).items() if is_deleted)


def test_rows_that_a_run_did_not_see_are_deleted_and_keep_their_values(sink: SqlSink) -> None:
    write(sink, page("abc"), TRACKED)
    write(sink, page("ac", run="r2", received_at=BEGAN_AT, at_s=1, number=2), TRACKED)

    assert [(c.run, c.live, c.unseen) for c in sink.count_live_rows(RESOURCE, TRACKED, SCOPE)] in (
        [("r1", 1, 1), ("r2", 2, 0)],
        [("r2", 2, 0), ("r1", 1, 1)],
    )
    assert mark(sink) == 1
    assert mark(sink) == 0

    assert list_deleted(sink) == "b"
    assert sink.count_marked_rows(RESOURCE, TRACKED, SCOPE) == 1
    assert read(sink, '"n", "_run"')["b"] == ("r1", "r1")


def test_a_page_with_an_older_version_is_a_sight(sink: SqlSink) -> None:
    # As with `version_field`: a webhook had sent newer data before the run fetched the record.
    write(sink, page("ab", at_s=9), TRACKED)
    write(sink, page("a", run="r2", received_at=BEGAN_AT, at_s=1, number=2), TRACKED)

    assert mark(sink) == 1

    assert list_deleted(sink) == "b"
    assert read(sink, '"n", "_run"')["a"] == ("r1", "r1")


@pytest.mark.parametrize(
    ("number", "at_s", "received_at", "is_live"),
    [
        (2, 2, BEGAN_AT, True),
        # A page of another run that is older, and was received since: the source has the record.
        (2, 0, BEGAN_AT, True),
        # An older page that was received before the run, and is processed late.
        (2, 0, NOW, False),
        # The same page again, by a replay.
        (1, 1, NOW, False),
        # Newer data that was received before the run: a person replayed a dead delivery.
        (2, 2, NOW, True),
    ],
)
def test_a_deleted_row_is_live_again_after_newer_data_or_a_sight(
    sink: SqlSink, number: int, at_s: int, received_at: datetime, is_live: bool
) -> None:
    write(sink, page("a", at_s=1, number=1), TRACKED)
    assert mark(sink) == 1

    write(sink, page("a", at_s=at_s, number=number, received_at=received_at), TRACKED)

    assert (list_deleted(sink) == "") == is_live
    versions = read(sink, '"_data_version", "_data_vseq"')["a"]
    assert (versions == (None, None)) == is_live


def test_a_deletion_after_the_mark_orders_as_without_it(sink: SqlSink) -> None:
    write(sink, page("a", at_s=1), TRACKED)
    mark(sink)

    write(sink, page("a", at_s=3, number=3, is_deletion=True), TRACKED)
    write(sink, page("a", run="r3", at_s=2, number=2, received_at=BEGAN_AT), TRACKED)

    assert list_deleted(sink) == "a"
    assert read(sink, '"n", "_run"')["a"] == ("r3", "r1")


def test_rows_of_other_accounts_jobs_and_of_no_job_stay(sink: SqlSink) -> None:
    write(sink, page("a", account="a2"), TRACKED)
    write(sink, page("b", job="j2"), TRACKED)
    write(sink, page("c", job="", run=""), TRACKED)
    write(sink, page("d"), TRACKED)

    mark(sink)

    assert list_deleted(sink) == "d"


def test_rows_that_name_no_job_belong_to_the_job_of_their_run(sink: SqlSink) -> None:
    write(sink, page("a", job="", run="r0"), TRACKED)
    write(sink, page("b", job="", run="r1"), TRACKED)
    write(sink, page("c", job="", run="x"), TRACKED)

    assert mark(sink, runs=("r0", *(f"other{n}" for n in range(1500)), "r1")) == 2

    assert list_deleted(sink) == "ab"


def test_rows_from_before_tracking_are_deleted_unless_the_run_wrote_them(sink: SqlSink) -> None:
    untracked = TRACKED.model_copy(update={"track_deletes": False})
    write(sink, page("ab"), untracked)
    # A worker with the earlier routes wrote this page of the run.
    write(sink, page("a", run="r2", received_at=BEGAN_AT, at_s=1, number=2), untracked)

    mark(sink)

    assert list_deleted(sink) == "b"


def test_accounts_and_keys_are_compared_exactly(sink: SqlSink) -> None:
    ids = ["a", "A", "ä", "a ", "a%", "a_", "aa", "'"]
    for account in ("a%", "a_", "A1", "a1 ", "ab"):
        write(sink, send([{"id": id_, "n": ""} for id_ in ids], account=account, run="r1"), TRACKED)
    seen = send([{"id": id_, "n": ""} for id_ in ("a", "a%")], account="a%", run="r2", at_s=1, number=2)
    write(sink, seen, TRACKED)

    assert mark(sink, RunScope("a%", "j1", "r2", BEGAN_AT)) == len(ids) - 2

    with sink._engine.begin() as connection:
        statement = text('SELECT "_account", "_key" FROM crm_contacts WHERE "_deleted_at" IS NOT NULL')
        deleted = sorted(tuple(row) for row in connection.execute(statement))
    assert deleted == sorted(("a%", id_) for id_ in ids if id_ not in ("a", "a%"))


def test_a_column_that_a_person_dropped_is_added_again_before_the_next_batch(sink: SqlSink) -> None:
    write(sink, page("ab"), TRACKED)
    with sink._engine.begin() as connection:
        # The view shows the column.
        connection.execute(text("DROP VIEW crm_contacts_live"))
        connection.execute(text('ALTER TABLE crm_contacts DROP COLUMN "_seen_at"'))

    seen = page("a", run="r2", received_at=BEGAN_AT, at_s=1, number=2)
    with pytest.raises(SinkUnavailable, match="lacks _seen_at; the next attempt adds the columns"):
        write(sink, seen, TRACKED)
    write(sink, seen, TRACKED)
    mark(sink)

    assert list_deleted(sink) == "b"


def test_the_live_view_shows_the_column_and_leaves_out_marked_rows(sink: SqlSink) -> None:
    tracked = TRACKED.model_copy(update={"table": "people"})
    write(sink, page("ab"), tracked.model_copy(update={"track_deletes": False}))
    # The table and its view exist: both get the column.
    write(sink, page("a", run="r2", received_at=BEGAN_AT, at_s=1, number=2), tracked)
    assert sum(sink.mark_unseen_rows(RESOURCE, tracked, SCOPE, ())) == 1

    with sink._engine.begin() as connection:
        rows = connection.execute(text('SELECT "_key", "_seen_at" FROM people_live')).all()
    assert [(key, bool(seen_at)) for key, seen_at in rows] == [("a", True)]


def test_an_interrupted_mark_is_completed_by_the_next(sink: SqlSink) -> None:
    records = [{"id": f"{n:05d}", "n": ""} for n in range(3500)]
    write(sink, send(records, run="r1", received_at=NOW), TRACKED)
    pages = sink.mark_unseen_rows(RESOURCE, TRACKED, SCOPE, ())
    assert next(pages) == 1000
    del pages
    assert sum(read(sink).values()) == 1000

    assert mark(sink) == 2500

    assert sink.count_marked_rows(RESOURCE, TRACKED, SCOPE) == 3500


# Version, whether it was received since the run began, and whether it is a deletion.
events = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=5)
ORDER_INVARIANT_COLUMNS = '"data", "_version", "_vseq", "_data_version", "_data_vseq", "_job", "_run", "_deleted_at", "_seen_at", "n"'


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(made=events, order=st.randoms(use_true_random=False))
def test_any_order_of_pages_deletions_and_the_mark_ends_with_the_same_row(
    sinks: dict[str, SqlSink], made: list[tuple[int, bool, bool]], order: Random
) -> None:
    sent = [
        page(
            "a",
            run=f"x{number}",
            at_s=at_s,
            number=number,
            received_at=(BEGAN_AT if is_later else NOW) + timedelta(microseconds=number),
            is_deletion=is_deletion,
        )
        for number, (at_s, is_later, is_deletion) in enumerate(made, start=1)
    ]
    # A mark waits for all pages that were received before the run.
    before = [s for s in sent if not s.header.is_deletion and s.header.received_at < BEGAN_AT]
    others = [s for s in sent if s not in before]
    for sink in sinks.values():
        contents = []
        for attempt in range(3):
            empty(sink)
            played: list[SentRecords | None] = [*before, None, *others]
            if attempt:
                early = order.sample(others, k=order.randint(0, len(others)))
                first = [*before, *early]
                order.shuffle(first)
                late = [*(s for s in others if s not in early), *order.choices(sent, k=2)]
                order.shuffle(late)
                played = [*first, None, *late, None]
            for each in played:
                if each:
                    write(sink, each, TRACKED)
                else:
                    mark(sink)
            contents.append(read(sink, ORDER_INVARIANT_COLUMNS))
        assert contents[0] == contents[1] == contents[2]
        data = [s.header for s in sent if not s.header.is_deletion]
        newest = max((s.header for s in sent), key=lambda h: (h.version, h.received_at))
        is_seen = any(header.received_at >= BEGAN_AT for header in data)
        assert (list_deleted(sink) == "a") == (newest.is_deletion or not is_seen)
