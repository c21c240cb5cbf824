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

from app.cli.deliveries.tail import Follower
from app.database.engine import Database, open_database
from app.store.delivery_filter import DeliveryFilter
from app.store.migrate import migrate
from app.store.models import SinkOutcome, SinkOutcomeState
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


def is_printable(text: str) -> bool:
    return all(character.isprintable() for line in text.split("\n") for character in line)


def test_the_newest_are_listed_with_state_reason_and_id(shelf: SeededStore) -> None:
    old = shelf.put("settled", records=1_234)
    new = shelf.put("unrouted", "no_route", resource="accounting/journal_entries")
    event = shelf.put("settled", event="sync_job_run:started", resource="", method="", records=0)

    listed = shelf.rapidbridge("deliveries", "list").stdout

    lines = listed.splitlines()
    assert [line.split() for line in lines[2::2]] == [[str(event)], [str(new), "no_route"], [str(old)]]
    assert "sync_job_run:started" in lines[1]
    assert lines[3].split()[2:] == ["unrouted", "1", "accounting/journal_entries", "list"]
    assert "1,234" in lines[5]
    assert narrow(listed)
    assert SECRET_NAME not in listed
    assert shelf.rapidbridge("deliveries", "list", "--limit", "1").stdout.count("\n") == 3


def test_filters_choose_and_are_summed_up(shelf: SeededStore) -> None:
    for state in ("settled", "settled", "dead"):
        shelf.put(state)
    shelf.put("dead", "table_taken", resource="hris/employees")

    listed = shelf.rapidbridge("deliveries", "list", "--resource", "crm/*")
    counted = shelf.rapidbridge("deliveries", "list", "--count")
    as_json = shelf.run_json("deliveries", "list", "--state", "dead", "--reason", "table_taken")

    assert listed.stdout.splitlines()[-1] == "3 in all: 2 settled, 1 dead."
    assert counted.stdout.splitlines()[-1] == "4 in all: 2 dead, 2 settled."
    assert ["hris/employees", "list", "dead", "1", "1"] in [
        line.split() for line in counted.stdout.splitlines()
    ]
    assert narrow(counted.stdout)
    [found] = as_json["deliveries"]
    assert (found["resource"], found["state"], found["sync_job_run_id"]) == ("hris/employees", "dead", RUN)
    assert datetime.fromisoformat(found["received_at"]).tzinfo
    assert as_json["groups"] == [
        {"resource": "hris/employees", "method": "list", "state": "dead", "deliveries": 1, "records": 1}
    ]


def test_filters_that_match_nothing_are_no_failure(small: SeededStore) -> None:
    small.put()
    nothing = ("--run", str(uuid4()))

    assert small.rapidbridge("deliveries", "list", *nothing).stdout == "No delivery.\n"
    assert small.run_json("deliveries", "list", *nothing) == {"deliveries": [], "groups": []}
    assert small.run_json("deliveries", "list", *nothing, "--count") == {"groups": []}
    assert small.rapidbridge("deliveries", "export", *nothing).stdout == ""


def test_a_delivery_is_shown_with_what_to_do_about_it(shelf: SeededStore) -> None:
    delivery = shelf.put("pending")
    message = "table contacts holds hris/contacts; name another `table` for crm/contacts in a route"
    outcomes = [
        SinkOutcome(delivery, "lake", SinkOutcomeState.DONE, 7, 0, "", "", NOW),
        SinkOutcome(delivery, "main", SinkOutcomeState.DEAD, 0, 7, "table_collision", message, NOW),
    ]
    shelf.settle(delivery, "dead", "table_collision", records=7, outcomes=outcomes)

    shown = shelf.rapidbridge("deliveries", "show", str(delivery)).stdout
    as_json = shelf.run_json("deliveries", "show", str(delivery))

    assert shown.startswith(f"delivery {delivery}  dead\n")
    assert "  to do       set another `table` in its route, then replay the delivery\n" in shown
    assert any(
        line.split()[:5] == ["main", "dead", "0", "7", "table_collision"] for line in shown.splitlines()
    )
    assert "main: table contacts holds hris/contacts" in shown
    assert narrow(shown)
    assert SECRET_NAME not in shown + json.dumps(as_json)
    assert as_json["id"] == str(delivery)
    assert [each["state"] for each in as_json["outcomes"]] == ["done", "dead"]
    assert as_json["remedy"]


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
def test_every_state_is_explained(small: SeededStore, state: Any, reason: str) -> None:
    delivery = small.put(state, reason)

    shown = small.rapidbridge("deliveries", "show", str(delivery)).stdout

    assert "  means       " in shown
    assert ("  to do       " in shown) == (state not in ("settled", "refused"))
    assert narrow(shown)


def test_dead_records_are_counted_without_what_is_in_them(shelf: SeededStore) -> None:
    delivery = shelf.put_with_dead_records()

    shown = shelf.rapidbridge("deliveries", "show", str(delivery)).stdout

    assert "  2 dead records refused by main: too_deep\n" in shown
    assert SECRET_NAME not in shown


@pytest.mark.parametrize("body", BODIES[:7])
def test_a_body_is_shown_only_when_asked_for(small: SeededStore, body: bytes) -> None:
    delivery = str(small.put(body=body or b" "))

    shown = small.rapidbridge("deliveries", "show", delivery, "--body").stdout
    raw = subprocess.run(
        build_command("deliveries", "show", delivery, "--raw"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=small.url),
        capture_output=True,
        check=True,
    )

    assert raw.stdout == (body or b" ")
    assert is_printable(shown)
    if SECRET_NAME.encode() in body:
        assert f'      "name": "{SECRET_NAME}"\n' in shown
    if b"no JSON" in body:
        assert "no JSON \\u001b[2J\n" in shown


def test_a_pruned_body_is_refused_politely(shelf: SeededStore) -> None:
    delivery = shelf.put()
    shelf.prune(delivery)

    for option in ("--body", "--raw"):
        assert (
            "it was pruned on 20"
            in shelf.rapidbridge("deliveries", "show", str(delivery), option, code=1).stderr
        )
    assert "its body is gone" in shelf.rapidbridge("deliveries", "show", str(delivery)).stdout


def test_an_export_gives_every_body_back(shelf: SeededStore, tmp_path: Path) -> None:
    ids = [shelf.put(body=body or b" ") for body in BODIES]
    pruned = shelf.put()
    shelf.prune(pruned)
    file, packed = tmp_path / "all.jsonl", tmp_path / "all.jsonl.gz"

    printed = shelf.rapidbridge("deliveries", "export")
    shelf.rapidbridge("deliveries", "export", "--output", str(file))
    shelf.rapidbridge("deliveries", "export", "--output", str(packed))

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
    assert "1 left out: their bodies were pruned." in printed.stderr
    assert file.stat().st_mode & 0o077 == 0
    assert sorted(each.name for each in tmp_path.glob("*.jsonl*")) == ["all.jsonl", "all.jsonl.gz"]


def test_an_export_never_leaves_half_a_file(small: SeededStore, tmp_path: Path) -> None:
    small.put()
    file = tmp_path / "all.jsonl"
    file.write_text("before")

    refused = small.rapidbridge("deliveries", "export", "--output", str(file), code=2)
    elsewhere = small.rapidbridge("deliveries", "export", "--output", str(tmp_path / "no" / "where"), code=2)
    with small.store.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE rapidbridge_deliveries RENAME TO elsewhere")
    small.rapidbridge("deliveries", "export", "--output", str(file), "--force", code=3)

    assert "--force" in refused.stderr
    assert "cannot be written: No such file or directory" in elsewhere.stderr
    assert file.read_text() == "before"
    assert not list(tmp_path.glob("*.part"))


def test_an_export_whose_reader_is_gone_ends_quietly(small: SeededStore) -> None:
    for _ in range(3):
        small.put(body=b"x" * 1_000_000)
    process = subprocess.Popen(
        build_command("deliveries", "export"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=small.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    process.stdout.read(10)
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()

    assert process.wait(30) == 1
    assert said == ""


def test_an_export_names_what_is_damaged_and_goes_on(small: SeededStore) -> None:
    damaged, good = small.put(), small.put()
    with small.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE rapidbridge_deliveries SET body = x'00' WHERE event_id = 'event-1'"
        )

    exported = small.rapidbridge("deliveries", "export", code=1)

    assert [json.loads(line)["id"] for line in exported.stdout.splitlines()] == [str(good)]
    assert f"{damaged} left out: its body is damaged" in exported.stderr
    small.rapidbridge("deliveries", "show", str(damaged), "--raw", code=1)


def test_what_arrives_is_followed_until_ctrl_c(shelf: SeededStore) -> None:
    old = shelf.put("pending")
    process = subprocess.Popen(
        build_command("deliveries", "tail", "--resource", "crm/*", "--since", "2h", "--json"),
        cwd=ROOT,
        env=make_environment(DATABASE_URL=shelf.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    first = json.loads(_line(process))
    shelf.put("pending", resource="hris/employees")
    new = shelf.put("pending", received_at=datetime.now(UTC))
    second = json.loads(_line(process))
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=30)

    assert [first["id"], second["id"]] == [str(old), str(new)]
    assert (process.returncode, rest, said) == (0, "", "")


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    assert select.select([process.stdout], [], [], 30)[0], "nothing was printed"
    return process.stdout.readline()


def test_what_is_committed_late_is_followed_too_and_nothing_twice(shelf: SeededStore) -> None:
    now = datetime.now(UTC)
    follower = Follower(shelf.store, DeliveryFilter(), since=now - timedelta(seconds=60))
    first = shelf.put(received_at=now)
    assert [each.id for each in follower.find_new_deliveries(now=now)] == [first]
    late = shelf.put(received_at=now - timedelta(seconds=3))
    same_moment = shelf.put(received_at=now)

    assert [each.id for each in follower.find_new_deliveries(now=now)] == [late, same_moment]
    assert list(follower.find_new_deliveries(now=now)) == []
    # Another machine's clock is ahead.
    ahead = shelf.put(received_at=now + timedelta(minutes=5))
    assert [each.id for each in follower.find_new_deliveries(now=now)] == [ahead]
    next_one = shelf.put(received_at=now + timedelta(seconds=1))
    assert [each.id for each in follower.find_new_deliveries(now=now)] == [next_one]


@pytest.mark.parametrize("words", [("--state", "dead"), ("--until", "1h")])
def test_what_cannot_be_followed_is_wrong_usage(small: SeededStore, words: tuple[str, ...]) -> None:
    assert "deliveries list" in small.rapidbridge("deliveries", "tail", *words, code=2).stderr


def test_hostile_names_move_no_cursor(shelf: SeededStore) -> None:
    delivery = shelf.put("quarantined", "not_json", resource=HOSTILE, event=HOSTILE, method=HOSTILE)
    told = [
        shelf.rapidbridge("deliveries", "list").stdout,
        shelf.rapidbridge("deliveries", "list", "--count").stdout,
        shelf.rapidbridge("deliveries", "show", str(delivery)).stdout,
        shelf.rapidbridge("deliveries", "list", "--json").stdout,
        shelf.rapidbridge("deliveries", "export").stdout.replace("\u202e", "").replace("\x9b", ""),
    ]

    assert all(map(is_printable, told))
    assert [text.count("\n") for text in told[:2]] == [3, 3]


def test_ids_that_are_none_and_ids_of_nothing(small: SeededStore) -> None:
    unknown = str(uuid4())

    assert "UUID" in small.rapidbridge("deliveries", "show", "no-uuid", code=2).stderr
    assert unknown in small.rapidbridge("deliveries", "show", unknown, code=1).stderr
    assert small.rapidbridge("deliveries", "list", "--id", unknown).stdout == "No delivery.\n"


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
def test_a_store_that_is_away_or_not_set_up_is_exit_code_3(words: tuple[str, ...], tmp_path: Path) -> None:
    empty = rapidbridge(*words, DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")
    away = rapidbridge(*words, DATABASE_URL=f"postgresql://nobody@/none?host={tmp_path}")

    assert (empty.returncode, away.returncode) == (3, 3)
    assert "rapidbridge migrate" in empty.stderr
    assert "DATABASE_URL" in away.stderr
    assert "Traceback" not in empty.stderr + away.stderr
