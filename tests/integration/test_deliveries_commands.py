"""`rapidbridge deliveries`, on both databases."""

import base64
import gzip
import json
import select
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.database.engine import Database, open_database
from app.store.delivery_feed import DeliveryFeed
from app.store.delivery_filter import DeliveryFilter
from app.store.migrate import migrate
from app.store.models import DeliveryAttempt, DeliveryState, SinkOutcome, SinkOutcomeState
from tests.support.seeded_store import (
    NOW,
    RUN,
    SECRET_NAME,
    SeededStore,
    build_command,
    make_batch_body,
    rapidbridge,
)
from tests.support.web_process import ROOT, make_environment

HOSTILE = "crm/\x1b[2Jcontacts\nsettled \x9b31m\u202e"
BODIES = [
    make_batch_body(0),
    b"",
    b"no JSON \x1b[2J",
    b"\xef\xbb\xbf" + make_batch_body(1),
    b"\xff\xfe\x00 not UTF-8",
    '{"line": "\u2028", "raw": "\n"}'.encode(),
    b'{"payload": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"x" * (5 * 1024 * 1024),
]


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


def is_printable(text: str) -> bool:
    return all(character.isprintable() for line in text.split("\n") for character in line)


def test_list_shows_the_newest_deliveries_with_state_reason_and_id(seeded: SeededStore) -> None:
    old = seeded.put("settled", records=1_234)
    new = seeded.put("unrouted", "no_route", resource="accounting/journal_entries")
    event = seeded.put("settled", event="sync_job_run:started", resource="", method="", records=0)

    listed = seeded.rapidbridge("deliveries", "list").stdout

    lines = listed.splitlines()
    assert [line.split() for line in lines[2::2]] == [[str(event)], [str(new), "no_route"], [str(old)]]
    assert "sync_job_run:started" in lines[1]
    assert lines[3].split()[2:] == ["unrouted", "1", "accounting/journal_entries", "list"]
    assert "1,234" in lines[5]
    assert fits_80_columns(listed)
    assert SECRET_NAME not in listed
    assert seeded.rapidbridge("deliveries", "list", "--limit", "1").stdout.count("\n") == 3


def test_filters_select_deliveries_and_their_counts(seeded: SeededStore) -> None:
    for state in ("settled", "settled", "dead"):
        seeded.put(state)
    seeded.put("dead", "table_taken", resource="hris/employees")

    listed = seeded.rapidbridge("deliveries", "list", "--resource", "crm/*")
    counted = seeded.rapidbridge("deliveries", "list", "--count")
    as_json = seeded.run_json("deliveries", "list", "--state", "dead", "--reason", "table_taken")

    assert listed.stdout.splitlines()[-1] == "3 in total: 2 settled, 1 dead."
    assert counted.stdout.splitlines()[-1] == "4 in total: 2 dead, 2 settled."
    assert ["hris/employees", "list", "dead", "1", "1"] in [
        line.split() for line in counted.stdout.splitlines()
    ]
    assert fits_80_columns(counted.stdout)
    [summary] = as_json["deliveries"]
    assert (summary["resource"], summary["state"], summary["sync_job_run_id"]) == (
        "hris/employees",
        "dead",
        RUN,
    )
    assert datetime.fromisoformat(summary["received_at"]).tzinfo
    assert as_json["groups"] == [
        {"resource": "hris/employees", "method": "list", "state": "dead", "deliveries": 1, "records": 1}
    ]


def test_filters_that_match_nothing_exit_with_0(on_sqlite: SeededStore) -> None:
    on_sqlite.put()
    nothing = ("--run", str(uuid4()))

    assert on_sqlite.rapidbridge("deliveries", "list", *nothing).stdout == "No delivery.\n"
    assert on_sqlite.run_json("deliveries", "list", *nothing) == {"deliveries": [], "groups": []}
    assert on_sqlite.run_json("deliveries", "list", *nothing, "--count") == {"groups": []}
    assert on_sqlite.rapidbridge("deliveries", "export", *nothing).stdout == ""


def test_show_gives_the_next_step(seeded: SeededStore) -> None:
    delivery = seeded.put("pending")
    message = "table contacts holds hris/contacts; name another `table` for crm/contacts in a route"
    outcomes = [
        SinkOutcome(delivery, "lake", SinkOutcomeState.DONE, 7, 0, "", "", NOW),
        SinkOutcome(delivery, "main", SinkOutcomeState.DEAD, 0, 7, "table_collision", message, NOW),
    ]
    seeded.settle(delivery, "dead", "table_collision", records=7, outcomes=outcomes)

    shown = seeded.rapidbridge("deliveries", "show", str(delivery)).stdout
    as_json = seeded.run_json("deliveries", "show", str(delivery))

    assert shown.startswith(f"delivery {delivery}  dead\n")
    assert "  to do       set another `table` in its route, then replay the delivery\n" in shown
    assert any(
        line.split()[:5] == ["main", "dead", "0", "7", "table_collision"] for line in shown.splitlines()
    )
    assert "main: table contacts holds hris/contacts" in shown
    assert fits_80_columns(shown)
    assert SECRET_NAME not in shown + json.dumps(as_json)
    assert as_json["id"] == str(delivery)
    assert [outcome["state"] for outcome in as_json["outcomes"]] == ["done", "dead"]
    assert as_json["advice"]


def test_show_lists_the_attempts(seeded: SeededStore) -> None:
    delivery = seeded.put("pending")
    message = "main: the database is down \x1b[2J; start it"
    attempts = [
        DeliveryAttempt(
            delivery, number, "host:1", NOW, at, DeliveryState.PENDING, "sink_unavailable", message, at
        )
        for number, at in ((1, NOW), (2, NOW + timedelta(minutes=1)))
    ]
    for attempt in attempts:
        seeded.settle(delivery, "pending", "sink_unavailable", attempt=attempt)
    seeded.settle(delivery, "settled")

    shown = seeded.rapidbridge("deliveries", "show", str(delivery)).stdout
    as_json = seeded.run_json("deliveries", "show", str(delivery))

    lines = shown.splitlines()
    [header] = [place for place, line in enumerate(lines) if line.split()[:1] == ["attempt"]]
    assert [line.split()[0] for line in lines[header + 1 : header + 3]] == ["1", "2"]
    assert "sink_unavailable" in lines[header + 1]
    assert shown.count("the database is down") == 1
    assert fits_80_columns(shown)
    assert is_printable(shown)
    assert [attempt["attempt"] for attempt in as_json["attempts"]] == [1, 2]
    assert as_json["attempts"][0]["message"] == message


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("pending", ""),
        ("settled", ""),
        ("unrouted", "no_route"),
        ("dead", "worker_lost"),
        ("dead", "of_a_sink_nobody_knows"),
        ("quarantined", "not_json"),
        ("refused", "sandbox accounts are not synced, because nobody ever looks at what is in them"),
        ("late", "after_stop"),
    ],
)
def test_every_state_is_explained(on_sqlite: SeededStore, state: Any, reason: str) -> None:
    delivery = on_sqlite.put(state, reason)

    shown = on_sqlite.rapidbridge("deliveries", "show", str(delivery)).stdout

    assert "  means       " in shown
    assert ("  to do       " in shown) == (state not in ("settled", "refused"))
    assert fits_80_columns(shown)


def test_show_counts_dead_records_without_their_content(seeded: SeededStore) -> None:
    delivery = seeded.put_with_dead_records()

    shown = seeded.rapidbridge("deliveries", "show", str(delivery)).stdout

    assert "  2 dead records, rejected by main: too_deep\n" in shown
    assert SECRET_NAME not in shown


@pytest.mark.parametrize("body", BODIES[:7])
def test_only_body_and_raw_print_a_body(on_sqlite: SeededStore, body: bytes) -> None:
    delivery = str(on_sqlite.put(body=body or b" "))

    shown = on_sqlite.rapidbridge("deliveries", "show", delivery, "--body").stdout
    raw = subprocess.run(
        build_command("deliveries", "show", delivery, "--raw"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=on_sqlite.url),
        capture_output=True,
        check=True,
    )

    assert raw.stdout == (body or b" ")
    assert is_printable(shown)
    if SECRET_NAME.encode() in body:
        assert f'      "name": "{SECRET_NAME}"\n' in shown
    if b"no JSON" in body:
        assert "no JSON \\u001b[2J\n" in shown


def test_a_pruned_body_is_reported_as_deleted(seeded: SeededStore) -> None:
    delivery = seeded.put()
    seeded.prune(delivery)

    for option in ("--body", "--raw"):
        assert (
            "The body was deleted: pruned at 20"
            in seeded.rapidbridge("deliveries", "show", str(delivery), option, code=1).stderr
        )
    assert ": the body was deleted" in seeded.rapidbridge("deliveries", "show", str(delivery)).stdout


def test_an_export_holds_every_body_byte_for_byte(seeded: SeededStore, tmp_path: Path) -> None:
    ids = [seeded.put(body=body or b" ") for body in BODIES]
    pruned = seeded.put()
    seeded.prune(pruned)
    file, packed = tmp_path / "all.jsonl", tmp_path / "all.jsonl.gz"

    printed = seeded.rapidbridge("deliveries", "export")
    seeded.rapidbridge("deliveries", "export", "--output", str(file))
    seeded.rapidbridge("deliveries", "export", "--output", str(packed))

    assert gzip.decompress(packed.read_bytes()) == file.read_bytes() == printed.stdout.encode()
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [line["id"] for line in lines] == list(map(str, ids))
    assert [
        base64.b64decode(line["body_base64"]) if "body_base64" in line else line["body"].encode()
        for line in lines
    ] == [body or b" " for body in BODIES]
    assert {line["format"] for line in lines} == {"rapidbridge.delivery/1"}
    assert (lines[0]["state"], lines[0]["sync_job_run_id"], lines[0]["event_id"]) == (
        "settled",
        RUN,
        "event-1",
    )
    assert "8 deliveries exported." in printed.stderr
    assert "1 delivery left out: the bodies were pruned." in printed.stderr
    assert file.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == ["all.jsonl", "all.jsonl.gz"]


def test_a_failed_export_leaves_no_partial_file(on_sqlite: SeededStore, tmp_path: Path) -> None:
    on_sqlite.put()
    file = tmp_path / "all.jsonl"
    file.write_text("before")

    refused = on_sqlite.rapidbridge("deliveries", "export", "--output", str(file), code=2)
    elsewhere = on_sqlite.rapidbridge(
        "deliveries", "export", "--output", str(tmp_path / "no" / "where"), code=2
    )
    with on_sqlite.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rapidbridge_deliveries RENAME TO elsewhere")
    on_sqlite.rapidbridge("deliveries", "export", "--output", str(file), "--force", code=3)

    assert "--force" in refused.stderr
    assert "cannot be written: No such file or directory" in elsewhere.stderr
    assert file.read_text() == "before"
    assert not list(tmp_path.glob("*.part"))


def test_an_export_into_a_closed_pipe_ends_without_a_message(on_sqlite: SeededStore) -> None:
    for _ in range(3):
        on_sqlite.put(body=b"x" * 1_000_000)
    process = subprocess.Popen(
        build_command("deliveries", "export"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=on_sqlite.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()

    assert process.wait(30) == 1
    assert errors == ""


def test_an_export_names_damaged_bodies_and_continues(on_sqlite: SeededStore) -> None:
    damaged, good = on_sqlite.put(), on_sqlite.put()
    with on_sqlite.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE rapidbridge_deliveries SET body = x'00' WHERE event_id = 'event-1'"
        )

    exported = on_sqlite.rapidbridge("deliveries", "export", code=1)

    assert [json.loads(line)["id"] for line in exported.stdout.splitlines()] == [str(good)]
    assert f"{damaged} left out: the body is damaged" in exported.stderr
    on_sqlite.rapidbridge("deliveries", "show", str(damaged), "--raw", code=1)


def test_tail_prints_new_deliveries_until_ctrl_c(seeded: SeededStore) -> None:
    old = seeded.put("pending")
    process = subprocess.Popen(
        build_command("deliveries", "tail", "--resource", "crm/*", "--since", "2h", "--json"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=seeded.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    first = json.loads(_line(process))
    seeded.put("pending", resource="hris/employees")
    new = seeded.put("pending", received_at=datetime.now(UTC))
    second = json.loads(_line(process))
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)

    assert [first["id"], second["id"]] == [str(old), str(new)]
    assert (process.returncode, rest, errors) == (0, "", "")


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    assert select.select([process.stdout], [], [], 30)[0], "nothing was printed"
    return process.stdout.readline()


def test_the_feed_finds_late_commits_and_repeats_no_delivery(seeded: SeededStore) -> None:
    now = datetime.now(UTC)
    feed = DeliveryFeed(seeded.store, DeliveryFilter(), since=now - timedelta(seconds=60))
    first = seeded.put(received_at=now)
    assert [delivery.id for delivery in feed.find_new_deliveries(now=now)] == [first]
    late = seeded.put(received_at=now - timedelta(seconds=3))
    same_moment = seeded.put(received_at=now)

    assert [delivery.id for delivery in feed.find_new_deliveries(now=now)] == [late, same_moment]
    assert list(feed.find_new_deliveries(now=now)) == []
    # Received by a machine whose clock is ahead.
    ahead = seeded.put(received_at=now + timedelta(minutes=5))
    assert [delivery.id for delivery in feed.find_new_deliveries(now=now)] == [ahead]
    next_one = seeded.put(received_at=now + timedelta(seconds=1))
    assert [delivery.id for delivery in feed.find_new_deliveries(now=now)] == [next_one]


@pytest.mark.parametrize("words", [("--state", "dead"), ("--until", "1h")])
def test_tail_refuses_filters_that_no_new_delivery_matches(
    on_sqlite: SeededStore, words: tuple[str, ...]
) -> None:
    assert "deliveries list" in on_sqlite.rapidbridge("deliveries", "tail", *words, code=2).stderr


def test_hostile_names_do_not_control_the_terminal(seeded: SeededStore) -> None:
    delivery = seeded.put("quarantined", "not_json", resource=HOSTILE, event=HOSTILE, method=HOSTILE)
    outputs = [
        seeded.rapidbridge("deliveries", "list").stdout,
        seeded.rapidbridge("deliveries", "list", "--count").stdout,
        seeded.rapidbridge("deliveries", "show", str(delivery)).stdout,
        seeded.rapidbridge("deliveries", "list", "--json").stdout,
        seeded.rapidbridge("deliveries", "export").stdout.replace("\u202e", "").replace("\x9b", ""),
    ]

    assert all(map(is_printable, outputs))
    assert [text.count("\n") for text in outputs[:2]] == [3, 3]


def test_malformed_and_unknown_ids_are_reported(on_sqlite: SeededStore) -> None:
    unknown = str(uuid4())

    assert "UUID" in on_sqlite.rapidbridge("deliveries", "show", "no-uuid", code=2).stderr
    assert unknown in on_sqlite.rapidbridge("deliveries", "show", unknown, code=1).stderr
    assert on_sqlite.rapidbridge("deliveries", "list", "--id", unknown).stdout == "No delivery.\n"


@pytest.mark.parametrize(
    "words",
    [
        ("deliveries", "list"),
        ("deliveries", "list", "--count"),
        ("deliveries", "show", str(uuid4())),
        ("deliveries", "export"),
        ("deliveries", "tail"),
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
