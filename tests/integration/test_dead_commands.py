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
from app.replay.operations import OperationRequest, start_discard
from app.store.delivery_filter import DeliveryFilter
from app.store.discards import DiscardableSet
from app.store.migrate import migrate
from app.store.schema import dead_records, deliveries
from tests.support.replays import BY_TEST, execute
from tests.support.seeded_store import NOW, RUN, SECRET_NAME, SeededStore, build_command, rapidbridge
from tests.support.web_process import ROOT, make_environment

BECAUSE = ("--because", "not ours", "--yes")
HOSTILE = "crm/\x1b[2Jcontacts\nsettled \x9b31m\u202e"


@pytest.fixture
def seeded(store: Database, store_url: str) -> SeededStore:
    return SeededStore(store, store_url)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[SeededStore]:
    """A store in SQLite, for tests that need only one database."""
    url = f"sqlite:///{tmp_path}/store.db"
    engine = open_database(url)
    migrate(engine)
    yield SeededStore(engine, url)
    engine.close()


def fits_80_columns(text: str) -> bool:
    return all(len(line) <= 80 for line in text.splitlines())


def states(seeded: SeededStore) -> list[tuple[str, str]]:
    statement = select(deliveries.c.state, deliveries.c.discard_reason).order_by(deliveries.c.received_at)
    with seeded.store.engine.connect() as connection:
        return [(row.state, row.discard_reason) for row in connection.execute(statement)]


def discarded_records(seeded: SeededStore) -> list[str]:
    with seeded.store.engine.connect() as connection:
        return list(connection.execute(select(dead_records.c.discard_reason)).scalars())


def test_without_failures_the_list_is_empty(seeded: SeededStore) -> None:
    for state in ("settled", "pending", "refused"):
        seeded.put(state)

    assert seeded.rapidbridge("dead", "list").stdout == "No failures.\n"
    assert seeded.run_json("dead", "list") == {"failures": []}


def test_the_lines_that_name_an_account_are_shown_once(seeded: SeededStore) -> None:
    for webhook, resource in (("w1", "crm/contacts"), ("w2", "crm/deals"), ("", "crm/deals")):
        seeded.put(
            "quarantined", "no_account", resource=resource, webhook_id=webhook, integrated_account_id=""
        )

    text = seeded.rapidbridge("dead", "list", code=1).stdout

    assert fits_80_columns(text)
    assert [text.count(f'id = "{webhook}"') for webhook in ("w1", "w2", "")] == [1, 1, 0]
    assert text.count('account = "path.in.the.record"') == text.count('account = ""') == 1
    assert text.count("--reason no_account") == 2
    # Without a routes file, the default routes must be written as well.
    assert text.count('url = "$DATABASE_URL"') == 1


def test_with_a_routes_file_only_the_rules_are_shown(on_sqlite: SeededStore, tmp_path: Path) -> None:
    on_sqlite.put("quarantined", "no_account", webhook_id="w1", integrated_account_id="")
    (tmp_path / "routes.toml").write_text('[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n')

    text = on_sqlite.rapidbridge("dead", "list", code=1, ROUTES_FILE=str(tmp_path / "routes.toml")).stdout

    assert 'id = "w1"' in text
    assert "$DATABASE_URL" not in text


def test_failures_are_listed_by_cause(seeded: SeededStore) -> None:
    seeded.put("settled")
    for _ in range(3):
        newest = seeded.put("unrouted", "no_route", resource="hris/employees")
    for state, reason in (("quarantined", "not_json"), ("late", "after_stop"), ("dead", "sink_set_up")):
        seeded.put(state, reason)
    with_records = seeded.put_with_dead_records()

    listed = seeded.rapidbridge("dead", "list", code=1).stdout
    causes = seeded.run_json("dead", "list", code=1)["failures"]

    lines = listed.splitlines()
    assert lines[0] == "3 unrouted deliveries of hris/employees: no_route"
    assert lines[1].endswith(f", e.g. {newest}")
    assert lines[2:4] == [
        "  no route matches the delivery; add a route for it, then replay the delivery.",
        "  Change the route, restart the workers, then run:",
    ]
    commands = " ".join(listed.replace("\\\n", "").split())
    assert "app.cli dead replay --reason no_route" in commands
    assert f"app.cli dead show {with_records} --raw" in commands
    assert "2 dead records of crm/contacts, rejected by main: too_deep" in lines
    assert "1 quarantined delivery of crm/contacts: not_json" in lines
    assert fits_80_columns(listed)
    assert SECRET_NAME not in listed
    assert {(cause["state"], cause["reason"], cause["number"]) for cause in causes} == {
        ("unrouted", "no_route", 3),
        ("quarantined", "not_json", 1),
        ("late", "after_stop", 1),
        ("dead", "sink_set_up", 1),
        ("record", "too_deep", 2),
    }
    assert next(cause for cause in causes if cause["state"] == "record")["example"] == str(with_records)
    assert all(cause["advice"] for cause in causes)
    assert datetime.fromisoformat(causes[0]["oldest"]) < datetime.fromisoformat(causes[0]["newest"])


def test_filters_select_failures(seeded: SeededStore) -> None:
    seeded.put("unrouted", "no_route", resource="hris/employees")
    seeded.put("dead", "worker_lost")
    seeded.put_with_dead_records(sink="", reason="not_json")

    def kinds(*words: str) -> set[str]:
        return {failure["state"] for failure in seeded.run_json("dead", "list", *words, code=1)["failures"]}

    assert kinds() == {"unrouted", "dead", "record"}
    assert kinds("--resource", "hris/*") == {"unrouted"}
    assert kinds("--state", "dead") == {"dead"}
    assert kinds("--reason", "not_json") == {"record"}
    assert seeded.rapidbridge("dead", "list", "--run", str(uuid4())).stdout == "No failures.\n"
    assert "settled" in seeded.rapidbridge("dead", "list", "--state", "settled", code=2).stderr


def test_only_raw_prints_the_data_of_dead_records(seeded: SeededStore) -> None:
    delivery = str(seeded.put_with_dead_records())

    shown = seeded.rapidbridge("dead", "show", delivery).stdout
    raw = seeded.rapidbridge("dead", "show", delivery, "--raw").stdout
    as_json = seeded.run_json("dead", "show", delivery)
    as_json_raw = seeded.run_json("dead", "show", delivery, "--raw")

    assert (
        shown.splitlines()[2]
        == "  2 records (0, 1), rejected by main: too_deep, nested deeper than it can be"
    )
    assert fits_80_columns(shown)
    assert SECRET_NAME not in shown + json.dumps(as_json)
    assert raw == f'{{"name": "{SECRET_NAME}"}}\n' * 2
    assert [record["ordinal"] for record in as_json["records"]] == [0, 1]
    assert [json.loads(record["raw"])["name"] for record in as_json_raw["records"]] == [SECRET_NAME] * 2


def test_show_reports_no_dead_records_and_unknown_ids(on_sqlite: SeededStore) -> None:
    unknown = str(uuid4())

    assert "No dead records" in on_sqlite.rapidbridge("dead", "show", str(on_sqlite.put())).stdout
    assert unknown in on_sqlite.rapidbridge("dead", "show", unknown, code=1).stderr


def test_discarded_deliveries_keep_the_reason_and_others_do_not_change(seeded: SeededStore) -> None:
    for state in ("settled", "pending", "unrouted", "dead", "quarantined", "late", "refused"):
        seeded.put(state, "why")

    discarded = seeded.rapidbridge("dead", "discard", "--run", RUN, *BECAUSE)

    assert discarded.stdout == "4 deliveries discarded.\n"
    assert states(seeded) == [
        ("settled", ""),
        ("pending", ""),
        *[("discarded", "not ours")] * 4,
        ("refused", ""),
    ]
    assert seeded.rapidbridge("dead", "list").stdout == "No failures.\n"
    listed = seeded.rapidbridge("dead", "list", "--discarded").stdout
    assert listed.startswith("4 discarded deliveries of crm/contacts: why\n")
    assert "an operator discarded the delivery; discarded: not ours." in listed
    assert seeded.run_json("dead", "discard", "--run", RUN, *BECAUSE) == {"deliveries": 0}


def test_discarded_deliveries_count_as_dead_in_their_run(seeded: SeededStore) -> None:
    delivery = seeded.put("unrouted", "no_route", records=7)
    settled_at = seeded.read_row(delivery)["settled_at"]
    seeded.rapidbridge("dead", "discard", str(delivery), *BECAUSE)
    seeded.put("settled", event="sync_job_run:completed", resource="", method="", records=0)

    row = seeded.read_row(delivery)
    with seeded.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO rapidbridge_runs (sync_job_run_id, status, status_rank, first_seen_at) "
            f"VALUES ('{RUN}', 'completed', 2, '2026-11-25 10:00:00')"
        )
    [line] = seeded.run_json("runs", "show", RUN)["resources"]

    assert (row["state"], row["reason"], row["settled_at"]) == ("discarded", "no_route", settled_at)
    assert (line["arrived"], line["dead"], line["gap_reasons"]) == (
        7,
        7,
        [{"code": "discarded", "records": 7}],
    )


def test_ids_of_deliveries_that_did_not_fail_are_reported(seeded: SeededStore) -> None:
    dead, other, settled = seeded.put("dead", "x"), seeded.put("dead", "x"), seeded.put("settled")

    ran = seeded.rapidbridge("dead", "discard", str(dead), str(settled), *BECAUSE, code=1)

    assert ran.stdout == "1 delivery discarded.\n"
    assert "1 delivery not changed" in ran.stderr
    assert [seeded.read_row(delivery_id)["state"] for delivery_id in (dead, other, settled)] == [
        "discarded",
        "dead",
        "settled",
    ]


def test_ids_of_deliveries_without_dead_records_are_reported(seeded: SeededStore) -> None:
    with_records, without = seeded.put_with_dead_records(), seeded.put("settled")
    words = ("dead", "discard", "--records", *BECAUSE)

    half = seeded.rapidbridge(*words, str(with_records), str(without), code=1)
    none = seeded.rapidbridge(*words, str(without), code=1)

    assert half.stdout == "2 dead records discarded.\n"
    assert none.stdout == "0 dead records discarded.\n"
    assert half.stderr == none.stderr == "1 delivery not changed: without dead records.\n"


def test_only_dead_records_of_settled_deliveries_are_discarded(seeded: SeededStore) -> None:
    seeded.put_with_dead_records()
    other = seeded.put_with_dead_records(reason="not_object", count=1)
    seeded.put("dead", "x")

    ran = seeded.rapidbridge("dead", "discard", "--records", "--reason", "too_deep", *BECAUSE)

    assert ran.stdout == "2 dead records discarded.\n"
    assert sorted(discarded_records(seeded)) == ["", "not ours", "not ours"]
    causes = seeded.run_json("dead", "list", code=1)["failures"]
    assert {(cause["state"], cause["reason"]) for cause in causes} == {
        ("record", "not_object"),
        ("dead", "x"),
    }
    assert len(seeded.run_json("dead", "list", "--discarded", code=1)["failures"]) == 3
    with seeded.store.engine.begin() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == other).values(state="pending"))
    assert seeded.run_json("dead", "discard", "--records", "--run", RUN, *BECAUSE) == {"records": 0}


def test_discarding_in_pages_skips_deliveries_that_are_requeued_meanwhile(seeded: SeededStore) -> None:
    first = seeded.put("dead", "x")
    with seeded.store.engine.begin() as connection:
        row = connection.execute(deliveries.select()).mappings().one()
        copies = [
            dict(row) | {"id": uuid4(), "received_at": NOW - timedelta(hours=1200 - number)}
            for number in range(1200)
        ]
        connection.execute(deliveries.insert(), copies)
    everything = DeliveryFilter(resource="crm/*")
    operation = start_discard(seeded.store, everything, because="many", requester=BY_TEST)

    request = OperationRequest.from_json(operation.request)
    failed = DiscardableSet(seeded.store, request.delivery_filter, of_records=False)
    failed.discard_page(operation, reason="many", now=datetime.now(UTC))
    after_one_page = states(seeded).count(("discarded", "many"))
    _set_state(seeded, copies[1199]["id"], "pending")
    ended = execute(seeded.store, operation)

    assert after_one_page == 500
    assert (ended.state, ended.total, ended.done) == ("finished", 1200, 1200)
    assert seeded.read_row(first)["discard_reason"] == "many"
    assert seeded.read_row(copies[1199]["id"])["state"] == "pending"


def _set_state(seeded: SeededStore, delivery: UUID, state: str) -> None:
    with seeded.store.engine.begin() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == delivery).values(state=state))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--because", "x", "--yes"), "pass ids"),
        (("--state", "dead", "--yes"), "--because"),
        (("--state", "dead", "--because", " ", "--yes"), "give a reason"),
        (("--state", "settled", "--because", "x", "--yes"), "'settled' is not one of"),
        (("--state", "dead", "--records", "--because", "x", "--yes"), "leave --state out"),
        (("--state", "dead", "--because", "x"), "--yes"),
        (("no-uuid", "--because", "x", "--yes"), "UUID"),
    ],
)
def test_wrong_usage_discards_nothing(on_sqlite: SeededStore, words: tuple[str, ...], hint: str) -> None:
    on_sqlite.put("dead", "x")

    assert hint in on_sqlite.rapidbridge("dead", "discard", *words, code=2).stderr
    assert states(on_sqlite) == [("dead", "")]


@pytest.mark.parametrize(("answer", "state"), [(b"y\n", "discarded"), (b"n\n", "dead")])
def test_on_a_terminal_discard_prompts_with_the_number(
    on_sqlite: SeededStore, answer: bytes, state: str
) -> None:
    on_sqlite.put("dead", "x")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        build_command("dead", "discard", "--run", RUN, "--because", "not ours"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=on_sqlite.url),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    os.write(ours, answer)
    _, prompt = process.communicate(timeout=30)
    os.close(ours)

    assert b"Discard 1 delivery?" in prompt
    assert [state for state, _ in states(on_sqlite)] == [state]


def test_hostile_names_do_not_control_the_terminal(seeded: SeededStore) -> None:
    delivery = seeded.put("dead", HOSTILE, resource=HOSTILE)
    with_records = seeded.put_with_dead_records(sink=HOSTILE, reason=HOSTILE)
    outputs = [
        seeded.rapidbridge("dead", "list", code=1).stdout,
        *(
            seeded.rapidbridge("dead", "show", str(delivery_id)).stdout
            for delivery_id in (delivery, with_records)
        ),
        seeded.rapidbridge("deliveries", "show", str(with_records)).stdout,
        seeded.rapidbridge("dead", "list", "--json", code=1).stdout,
    ]

    assert all(character.isprintable() for text in outputs for line in text.split("\n") for character in line)


@pytest.mark.parametrize(
    "words",
    [
        ("dead", "list"),
        ("dead", "show", str(uuid4())),
        ("dead", "discard", str(uuid4()), "--because", "x", "--yes"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_an_unreachable_or_unmigrated_store_exits_with_3(words: tuple[str, ...], tmp_path: Path) -> None:
    empty = rapidbridge(*words, DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")
    away = rapidbridge(*words, DATABASE_URL=f"postgresql://nobody@/none?host={tmp_path}")

    assert (empty.returncode, away.returncode) == (3, 3)
    assert "app.cli migrate" in empty.stderr
    assert "DATABASE_URL" in away.stderr
    assert "Traceback" not in empty.stderr + away.stderr
