"""Ids shortened to their first characters, on both databases."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from app.database.engine import Database
from app.store.id_prefixes import find_delivery_ids, find_run_ids
from app.store.models import RunUpdate
from app.store.runs import Runs
from tests.support.seeded_store import SeededStore

DELIVERY = UUID("019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5")
NEIGHBOUR = UUID("019a7f2c-1c45-8000-8000-000000000000")
OTHER = UUID("ffffffff-ffff-8fff-bfff-ffffffffffff")
RUN = "1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5"
SIMILAR_RUN = "1f276317-2000-4ae8-b2e2-f7b8bc0f6aa5"


@pytest.fixture
def seeded(store: Database, store_url: str) -> SeededStore:
    seeded = SeededStore(store, store_url)
    for delivery_id in (DELIVERY, NEIGHBOUR, OTHER):
        seeded.put("dead", "worker_lost", id=delivery_id)
    for run_id in (RUN, SIMILAR_RUN, "1f27-not-a-uuid", "face"):
        Runs(store).upsert(RunUpdate(run_id, "job", "account", "", datetime.now(UTC)))
    return seeded


def test_a_prefix_finds_exactly_the_ids_that_begin_with_it(seeded: SeededStore) -> None:
    store = seeded.store

    assert find_delivery_ids(store, "019a", limit=5) == [DELIVERY, NEIGHBOUR]
    assert find_delivery_ids(store, "019a", limit=1) == [DELIVERY]
    assert find_delivery_ids(store, "019a", limit=1, newest_first=True) == [NEIGHBOUR]
    assert find_delivery_ids(store, "019a7f2c1c44", limit=5) == [DELIVERY]
    assert find_delivery_ids(store, "ffff", limit=5) == [OTHER]
    assert find_delivery_ids(store, "019b", limit=5) == []
    assert find_run_ids(store, "1f276317", limit=5) == [RUN, SIMILAR_RUN]
    assert find_run_ids(store, "1f276317", limit=1, newest_first=True) == [SIMILAR_RUN]
    assert find_run_ids(store, "1f2763171", limit=5) == [RUN]
    assert find_run_ids(store, "face", typed="face", limit=5) == ["face"]
    assert find_run_ids(store, "1f28", limit=5) == []


@pytest.mark.parametrize("find", [find_delivery_ids, find_run_ids])
def test_a_prefix_is_looked_up_in_an_index(seeded: SeededStore, find: Any) -> None:
    statements: list[tuple[str, Any]] = []
    event.listen(
        seeded.store.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, parameters, *_: statements.append((statement, parameters)),
    )
    find(seeded.store, "019a", limit=5)
    statement, parameters = next(item for item in statements if item[0].startswith("SELECT"))
    is_sqlite = seeded.store.dialect.name == "sqlite"

    with seeded.store.engine.begin() as connection:
        if not is_sqlite:
            # A sequential scan of a few rows is always cheaper.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
        plan = str(connection.exec_driver_sql(f"{explain} {statement}", parameters).all())

    assert ("SEARCH" if is_sqlite else "Index Cond") in plan
    assert "SCAN " not in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("prefix", ["019A7F2C-1C44", "019a7f2c1c44", "019a7f2c-1c44-", str(DELIVERY).upper()])
def test_a_delivery_is_shown_by_its_first_digits(seeded: SeededStore, prefix: str) -> None:
    assert seeded.rapidbridge("deliveries", "show", prefix).stdout.startswith(f"delivery {DELIVERY}  dead\n")


def test_first_digits_choose_deliveries_in_every_command(seeded: SeededStore) -> None:
    listed = seeded.run_json("deliveries", "list", "--id", "ffff", "--id", "019a7f2c1c45")
    shown = seeded.rapidbridge("dead", "show", "ffff").stdout
    discarded = seeded.rapidbridge("dead", "discard", "019a7f2c1c44", "--because", "a test", "--yes").stdout

    assert {delivery["id"] for delivery in listed["deliveries"]} == {str(OTHER), str(NEIGHBOUR)}
    assert shown.startswith(f"delivery {OTHER}  dead\n")
    assert discarded == "1 delivery discarded.\n"
    assert seeded.read_row(DELIVERY)["state"] == "discarded"


def test_an_ambiguous_prefix_is_wrong_usage_and_lists_the_candidates(seeded: SeededStore) -> None:
    for number in range(5):
        seeded.put(id=UUID(int=DELIVERY.int + 1 + number))

    few = seeded.rapidbridge("deliveries", "show", "019A7F2C-1C45-8", code=0).stdout
    many = seeded.rapidbridge("deliveries", "show", "019a", code=2).stderr
    run = seeded.rapidbridge("runs", "show", "1F27", code=2).stderr

    assert few.startswith(f"delivery {NEIGHBOUR}")
    assert "'019a' is ambiguous: add more characters" in many
    assert [line.strip() for line in many.splitlines()[-6:]] == [
        *(str(UUID(int=DELIVERY.int + number)) for number in range(5)),
        "…",
    ]
    assert run.splitlines()[-2:] == [f"  {RUN}", f"  {SIMILAR_RUN}"]


def test_a_run_is_found_by_its_first_digits(seeded: SeededStore) -> None:
    shown = seeded.run_json("runs", "show", "1F276317-1")
    reconciled = seeded.run_json("runs", "reconcile", "1f2763172")
    exact = seeded.run_json("runs", "show", "face")
    listed = seeded.run_json("deliveries", "list", "--run", "1f276317-1", "--count")

    assert shown["sync_job_run_id"] == RUN
    assert [run["sync_job_run_id"] for run in reconciled] == [SIMILAR_RUN]
    assert exact["sync_job_run_id"] == "face"
    assert sum(group["deliveries"] for group in listed["groups"]) == 3


def test_unknown_and_too_short_prefixes_are_refused(seeded: SeededStore) -> None:
    unknown = seeded.rapidbridge("deliveries", "show", "abcd1234", code=1).stderr
    too_short = seeded.rapidbridge("deliveries", "show", "019", code=2).stderr
    unknown_run = seeded.rapidbridge("runs", "show", "abcd1234", code=1).stderr
    short_run = seeded.rapidbridge("runs", "show", "1f2", code=2).stderr
    whole_run = seeded.rapidbridge("runs", "show", str(OTHER), code=1).stderr
    not_stopped = seeded.rapidbridge("runs", "stop", "abcd1234", "--yes", code=2, TRUTO_API_TOKEN="x").stderr

    assert unknown == "There is no delivery abcd1234 here.\n"
    assert "at least its first 4 characters" in too_short
    assert unknown_run == "There is no run abcd1234 here.\n"
    assert "at least its first 4 characters" in short_run
    assert f"runs reconcile {OTHER}" in whole_run
    assert "UUID" in not_stopped
