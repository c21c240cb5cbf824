"""`rapidbridge dead`, on both databases."""

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update

from app.database.engine import Database, open_database
from app.store.delivery_filter import DeliveryFilter
from app.store.failures import count_failed, discard_deliveries
from app.store.migrate import migrate
from app.store.schema import dead_records, deliveries
from tests.support.seeded_store import NOW, RUN, SECRET_NAME, SeededStore, build_command, rapidbridge
from tests.support.web_process import ROOT, make_environment

BECAUSE = ("--because", "not ours", "--yes")
HOSTILE = "crm/\x1b[2Jcontacts\nsettled \x9b31m\u202e"


@pytest.fixture
def shelf(store: Database, store_url: str) -> SeededStore:
    return SeededStore(store, store_url)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SeededStore]:
    """A shelf in SQLite, where the database makes no difference."""
    url = f"sqlite:///{tmp_path}/store.db"
    engine = open_database(url)
    migrate(engine)
    yield SeededStore(engine, url)
    engine.close()


def narrow(text: str) -> bool:
    return all(len(line) <= 80 for line in text.splitlines())


def states(shelf: SeededStore) -> list[tuple[str, str]]:
    statement = select(deliveries.c.state, deliveries.c.discard_reason).order_by(deliveries.c.received_at)
    with shelf.store.engine.connect() as connection:
        return [(row.state, row.discard_reason) for row in connection.execute(statement)]


def discarded_records(shelf: SeededStore) -> list[str]:
    with shelf.store.engine.connect() as connection:
        return list(connection.execute(select(dead_records.c.discard_reason)).scalars())


def test_where_all_went_well_nothing_is_dead(shelf: SeededStore) -> None:
    for state in ("settled", "pending", "refused"):
        shelf.put(state)

    assert shelf.rapidbridge("dead", "list").stdout == "Nothing is dead.\n"
    assert shelf.run_json("dead", "list") == {"failures": []}


def test_what_is_dead_is_listed_by_its_cause(shelf: SeededStore) -> None:
    shelf.put("settled")
    for _ in range(3):
        newest = shelf.put("unrouted", "no_route", resource="hris/employees")
    for state, reason in (("quarantined", "not_json"), ("late", "after_stop"), ("dead", "sink_set_up")):
        shelf.put(state, reason)
    with_records = shelf.put_with_dead_records()

    listed = shelf.rapidbridge("dead", "list", code=1).stdout
    causes = shelf.run_json("dead", "list", code=1)["failures"]

    lines = listed.splitlines()
    assert lines[0] == "3 unrouted deliveries of hris/employees: no_route"
    assert lines[1].endswith(f", as {newest}")
    assert lines[2] == ("  no route matches the delivery; add a route for it, then replay the delivery.")
    assert "2 dead records of crm/contacts, refused by main: too_deep" in lines
    assert "1 quarantined delivery of crm/contacts: not_json" in lines
    assert narrow(listed)
    assert SECRET_NAME not in listed
    assert {(each["state"], each["reason"], each["number"]) for each in causes} == {
        ("unrouted", "no_route", 3),
        ("quarantined", "not_json", 1),
        ("late", "after_stop", 1),
        ("dead", "sink_set_up", 1),
        ("record", "too_deep", 2),
    }
    assert next(each for each in causes if each["state"] == "record")["example"] == str(with_records)
    assert all(each["remedy"] for each in causes)
    assert datetime.fromisoformat(causes[0]["oldest"]) < datetime.fromisoformat(causes[0]["newest"])


def test_filters_narrow_it_down(shelf: SeededStore) -> None:
    shelf.put("unrouted", "no_route", resource="hris/employees")
    shelf.put("dead", "worker_lost")
    shelf.put_with_dead_records(sink="", reason="not_json")

    def kinds(*words: str) -> set[str]:
        return {each["state"] for each in shelf.run_json("dead", "list", *words, code=1)["failures"]}

    assert kinds() == {"unrouted", "dead", "record"}
    assert kinds("--resource", "hris/*") == {"unrouted"}
    assert kinds("--state", "dead") == {"dead"}
    assert kinds("--reason", "not_json") == {"record"}
    assert shelf.rapidbridge("dead", "list", "--run", str(uuid4())).stdout == "Nothing is dead.\n"
    assert "settled" in shelf.rapidbridge("dead", "list", "--state", "settled", code=2).stderr


def test_dead_records_are_shown_with_their_data_only_when_asked(shelf: SeededStore) -> None:
    delivery = str(shelf.put_with_dead_records())

    shown = shelf.rapidbridge("dead", "show", delivery).stdout
    raw = shelf.rapidbridge("dead", "show", delivery, "--raw").stdout
    as_json = shelf.run_json("dead", "show", delivery)
    as_json_raw = shelf.run_json("dead", "show", delivery, "--raw")

    assert shown.splitlines()[2] == "  record 0, refused by main: too_deep, nested deeper than it can be"
    assert narrow(shown)
    assert SECRET_NAME not in shown + json.dumps(as_json)
    assert raw == f'{{"name": "{SECRET_NAME}"}}\n' * 2
    assert [each["ordinal"] for each in as_json["records"]] == [0, 1]
    assert [json.loads(each["raw"])["name"] for each in as_json_raw["records"]] == [SECRET_NAME] * 2


def test_a_delivery_without_dead_records_and_one_that_is_not_there(small: SeededStore) -> None:
    unknown = str(uuid4())

    assert "No single record" in small.rapidbridge("dead", "show", str(small.put())).stdout
    assert unknown in small.rapidbridge("dead", "show", unknown, code=1).stderr


def test_what_is_given_up_is_kept_with_the_reason_and_nothing_else_is_touched(shelf: SeededStore) -> None:
    for state in ("settled", "pending", "unrouted", "dead", "quarantined", "late", "refused"):
        shelf.put(state, "why")

    given_up = shelf.rapidbridge("dead", "discard", "--run", RUN, *BECAUSE)

    assert given_up.stdout == "4 deliveries discarded.\n"
    assert states(shelf) == [
        ("settled", ""),
        ("pending", ""),
        *[("discarded", "not ours")] * 4,
        ("refused", ""),
    ]
    assert shelf.rapidbridge("dead", "list").stdout == "Nothing is dead.\n"
    listed = shelf.rapidbridge("dead", "list", "--discarded").stdout
    assert listed.startswith("4 discarded deliveries of crm/contacts: why\n")
    assert "an operator discarded the delivery; discarded: not ours." in listed
    assert shelf.run_json("dead", "discard", "--run", RUN, *BECAUSE) == {"deliveries": 0}


def test_what_is_given_up_stays_dead_in_its_run(shelf: SeededStore) -> None:
    delivery = shelf.put("unrouted", "no_route", records=7)
    settled_at = shelf.read_row(delivery)["settled_at"]
    shelf.rapidbridge("dead", "discard", str(delivery), *BECAUSE)
    shelf.put("settled", event="sync_job_run:completed", resource="", method="", records=0)

    row = shelf.read_row(delivery)
    with shelf.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO rapidbridge_runs (sync_job_run_id, status, status_rank, first_seen_at) "
            f"VALUES ('{RUN}', 'completed', 2, '2026-11-25 10:00:00')"
        )
    [line] = shelf.run_json("runs", "show", RUN)["resources"]

    assert (row["state"], row["reason"], row["settled_at"]) == ("discarded", "no_route", settled_at)
    assert (line["arrived"], line["dead"], line["gap_reasons"]) == (
        7,
        7,
        [{"code": "discarded", "records": 7}],
    )


def test_ids_choose_and_those_that_are_not_dead_are_named(shelf: SeededStore) -> None:
    dead, other, settled = shelf.put("dead", "x"), shelf.put("dead", "x"), shelf.put("settled")

    ran = shelf.rapidbridge("dead", "discard", str(dead), str(settled), *BECAUSE, code=1)

    assert ran.stdout == "1 delivery discarded.\n"
    assert "left as they are" in ran.stderr
    assert [shelf.read_row(each)["state"] for each in (dead, other, settled)] == [
        "discarded",
        "dead",
        "settled",
    ]


def test_single_records_are_given_up_of_settled_deliveries_only(shelf: SeededStore) -> None:
    shelf.put_with_dead_records()
    other = shelf.put_with_dead_records(reason="not_object", count=1)
    shelf.put("dead", "x")

    ran = shelf.rapidbridge("dead", "discard", "--records", "--reason", "too_deep", *BECAUSE)

    assert ran.stdout == "2 dead records discarded.\n"
    assert sorted(discarded_records(shelf)) == ["", "not ours", "not ours"]
    causes = shelf.run_json("dead", "list", code=1)["failures"]
    assert {(each["state"], each["reason"]) for each in causes} == {("record", "not_object"), ("dead", "x")}
    assert len(shelf.run_json("dead", "list", "--discarded", code=1)["failures"]) == 3
    with shelf.store.engine.begin() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == other).values(state="pending"))
    assert shelf.run_json("dead", "discard", "--records", "--run", RUN, *BECAUSE) == {"records": 0}


def test_many_are_given_up_in_pages_and_what_is_taken_up_meanwhile_is_left(shelf: SeededStore) -> None:
    first = shelf.put("dead", "x")
    with shelf.store.engine.begin() as connection:
        row = connection.execute(deliveries.select()).mappings().one()
        copies = [
            dict(row) | {"id": uuid4(), "received_at": NOW + timedelta(hours=1 + number)}
            for number in range(1200)
        ]
        connection.execute(deliveries.insert(), copies)
    pages = discard_deliveries(
        shelf.store, DeliveryFilter(resource="crm/*"), reason="many", now=datetime.now(UTC)
    )

    sizes = [next(pages)]
    _set_state(shelf, copies[1199]["id"], "pending")
    sizes += pages

    assert sizes == [500, 500, 200]
    assert count_failed(shelf.store, DeliveryFilter()) == 0
    assert shelf.read_row(first)["discard_reason"] == "many"
    assert shelf.read_row(copies[1199]["id"])["state"] == "pending"


def _set_state(shelf: SeededStore, delivery: UUID, state: str) -> None:
    with shelf.store.engine.begin() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == delivery).values(state=state))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--because", "x", "--yes"), "Say which"),
        (("--state", "dead", "--yes"), "--because"),
        (("--state", "dead", "--because", " ", "--yes"), "say why"),
        (("--state", "settled", "--because", "x", "--yes"), "--state settled"),
        (("--state", "dead", "--records", "--because", "x", "--yes"), "leave --state out"),
        (("--state", "dead", "--because", "x"), "--yes"),
        (("no-uuid", "--because", "x", "--yes"), "UUID"),
    ],
)
def test_wrong_usage_discards_nothing(small: SeededStore, words: tuple[str, ...], hint: str) -> None:
    small.put("dead", "x")

    assert hint in small.rapidbridge("dead", "discard", *words, code=2).stderr
    assert states(small) == [("dead", "")]


@pytest.mark.parametrize(("answer", "state"), [(b"y\n", "discarded"), (b"n\n", "dead")])
def test_at_a_terminal_it_asks_with_the_number(small: SeededStore, answer: bytes, state: str) -> None:
    small.put("dead", "x")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        build_command("dead", "discard", "--run", RUN, "--because", "not ours"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=small.url),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    os.write(ours, answer)
    _, asked = process.communicate(timeout=30)
    os.close(ours)

    assert b"Discard 1 delivery?" in asked
    assert [each for each, _ in states(small)] == [state]


def test_hostile_names_move_no_cursor(shelf: SeededStore) -> None:
    delivery = shelf.put("dead", HOSTILE, resource=HOSTILE)
    with_records = shelf.put_with_dead_records(sink=HOSTILE, reason=HOSTILE)
    told = [
        shelf.rapidbridge("dead", "list", code=1).stdout,
        *(shelf.rapidbridge("dead", "show", str(each)).stdout for each in (delivery, with_records)),
        shelf.rapidbridge("deliveries", "show", str(with_records)).stdout,
        shelf.rapidbridge("dead", "list", "--json", code=1).stdout,
    ]

    assert all(each.isprintable() for text in told for line in text.split("\n") for each in line)


@pytest.mark.parametrize(
    "words",
    [
        ("dead", "list"),
        ("dead", "show", str(uuid4())),
        ("dead", "discard", str(uuid4()), "--because", "x", "--yes"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_store_that_is_away_or_not_set_up_is_exit_code_3(words: tuple[str, ...], tmp_path: Path) -> None:
    empty = rapidbridge(*words, DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")
    away = rapidbridge(*words, DATABASE_URL=f"postgresql://nobody@/none?host={tmp_path}")

    assert (empty.returncode, away.returncode) == (3, 3)
    assert "rapidbridge migrate" in empty.stderr
    assert "DATABASE_URL" in away.stderr
    assert "Traceback" not in empty.stderr + away.stderr
