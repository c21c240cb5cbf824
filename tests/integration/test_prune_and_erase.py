"""`rapidbridge prune`, `rapidbridge erase`, and pruning by the worker."""

import fcntl
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app.store.schema import deliveries
from app.truto.signature import parse_signature_header, sign
from tests.support.commands import run_command
from tests.support.delivered_store import DeliveredStore
from tests.support.processes import ROOT, Command
from tests.support.redis_keys import open_spool
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment


@pytest.fixture
def delivered(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    delivered_store = DeliveredStore(store_url, tmp_path)
    yield delivered_store
    delivered_store.close()


def rapidbridge(delivered: DeliveredStore, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return run_command(*words, cwd=ROOT, environment=make_environment(**delivered.settings, **settings))


def run_on_terminal(
    delivered: DeliveredStore, terminal: int, *words: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=make_environment(**delivered.settings, **settings),
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(delivered: DeliveredStore, text: bytes, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a terminal and answer its prompt."""
    ours, theirs = pty.openpty()
    os.write(ours, text)
    try:
        return run_on_terminal(delivered, theirs, *words)
    finally:
        os.close(ours)
        os.close(theirs)


def test_prune_uses_the_setting_or_the_option(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    totals = delivered.read_totals(["r1"])

    without_age = rapidbridge(delivered, "prune")
    dry = rapidbridge(delivered, "prune", "--dry-run", RETENTION_DAYS="7")
    bad = rapidbridge(delivered, "prune", "--older-than", "7d", "--archive", "s3://bucket")
    done = rapidbridge(
        delivered, "prune", "--older-than", "1d", "--yes", "--archive", f"file://{tmp_path}/archive"
    )
    again = rapidbridge(delivered, "prune", "--json", RETENTION_DAYS="7")

    assert (without_age.returncode, dry.returncode, bad.returncode) == (2, 0, 2)
    assert "--older-than 30d, or set RETENTION_DAYS" in without_age.stderr
    assert "file:///srv/archive" in bad.stderr
    assert dry.stdout.startswith("Would delete the bodies of 4 deliveries")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Deleted the bodies of 4 deliveries")
    assert ("VACUUM" in done.stdout) == delivered.url.startswith("sqlite")
    assert len(list((tmp_path / "archive").glob("dt=*/*.jsonl.gz"))) == 1
    assert json.loads(again.stdout)["deliveries"] == 0
    assert delivered.read_totals(["r1"]) == totals


def test_prune_asks_before_it_deletes(delivered: DeliveredStore) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    words = ("prune", "--older-than", "30d")

    unconfirmed = rapidbridge(delivered, *words)
    declined = answer(delivered, b"n\n", *words)
    kept = delivered.read_bodies()
    confirmed = answer(delivered, b"y\n", *words)
    nothing_left = rapidbridge(delivered, *words)

    assert unconfirmed.returncode == 2
    assert "pass --yes" in unconfirmed.stderr
    assert declined.returncode == 1
    assert "Delete the bodies of 4 deliveries received before" in declined.stderr
    assert all(kept.values())
    assert confirmed.returncode == 0, confirmed.stderr
    assert confirmed.stdout.startswith("Deleted the bodies of 4 deliveries")
    assert nothing_left.returncode == 0
    assert nothing_left.stdout.startswith("Deleted the bodies of 0 deliveries")


@pytest.mark.parametrize("age", ["1m", "90min", "23h", "today", "2999-01-01"])
def test_an_age_under_a_day_needs_yes(delivered: DeliveredStore, age: str) -> None:
    delivered.add_run("a1", "r1", days_ago=0.01)

    refused = answer(delivered, b"y\n", "prune", "--older-than", age)
    counted = rapidbridge(delivered, "prune", "--older-than", age, "--dry-run")

    assert refused.returncode == 2
    assert f"--older-than {age}: that is " in refused.stderr
    assert "for a month, write 30d" in " ".join(refused.stderr.split())
    assert counted.returncode == 0
    assert all(delivered.read_bodies().values())
    assert rapidbridge(delivered, "prune", "--older-than", "2999-01-01", "--yes").returncode == 0
    assert list(delivered.read_bodies().values()).count(b"") == 4


def test_an_interrupted_prune_reports_what_it_deleted(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    (tmp_path / "archive").mkdir()
    words = ["prune", "--older-than", "1d", "--yes", "--archive", f"file://{tmp_path}/archive"]
    with (tmp_path / "archive" / ".lock").open("w") as lock:
        # Another process writes to the archive.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Command(
            ["app.cli", *words], folder=tmp_path, environment=make_environment(**delivered.settings)
        ) as prune:
            wait_until(lambda: count_open_files(prune.pid, tmp_path / "archive" / ".lock") == 1)
            assert prune.stop(signal.SIGINT) == 1

    assert prune.log.startswith("Deleted the bodies of 0 deliveries")
    assert "Interrupted. Run the same command again to delete the rest." in prune.log
    assert all(delivered.read_bodies().values())


def count_open_files(pid: int, path: Path) -> int:
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(link.readlink())
    return targets.count(path)


def test_prune_names_the_damaged_bodies_that_it_keeps(delivered: DeliveredStore, tmp_path: Path) -> None:
    damaged, *_ = delivered.add_run("a1", "r1", days_ago=40)
    with delivered.store.engine.begin() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == damaged).values(body=b"x"))
    words = ("prune", "--older-than", "1d", "--yes", "--json", "--archive", f"file://{tmp_path}/archive")

    ran = rapidbridge(delivered, *words)

    assert ran.returncode == 1
    assert json.loads(ran.stdout)["deliveries"] == 3
    assert f"because the body is damaged: 1 delivery\n  {damaged}\n" in ran.stderr


def test_prune_deletes_nothing_if_the_archive_fails(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    (tmp_path / "archive").write_text("in the way")

    ran = rapidbridge(
        delivered, "prune", "--older-than", "1d", "--yes", "--archive", f"file://{tmp_path}/archive"
    )

    assert ran.returncode == 3
    assert "no body of this chunk was removed" in ran.stderr
    assert all(delivered.read_bodies().values())


def import_archive(
    delivered: DeliveredStore, archive: Path, *words: str, **settings: Any
) -> subprocess.CompletedProcess[str]:
    [file] = archive.glob("dt=*/*.jsonl.gz")
    return rapidbridge(delivered, "replay", "--from", str(file), *words, **settings)


def test_pruned_bodies_come_back_from_their_archive(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    before, totals = delivered.read_bodies(), delivered.read_totals(["r1"])
    archive = tmp_path / "archive"
    rapidbridge(delivered, "prune", "--older-than", "1d", "--yes", "--archive", f"file://{archive}")
    pruned = delivered.read_bodies()

    dry = import_archive(delivered, archive, "--dry-run")
    unchanged = delivered.read_bodies()
    restored = import_archive(delivered, archive, RETENTION_DAYS="7")
    again = import_archive(delivered, archive, "--json")
    preview = rapidbridge(delivered, "replay", "--all", "--dry-run", "--json")

    assert list(pruned.values()).count(b"") == 4
    assert (
        dry.stdout == "Dry run: 0 new deliveries, 4 pruned bodies restored, 0 duplicates, 0 lines skipped.\n"
    )
    assert unchanged == pruned
    assert (restored.returncode, restored.stdout) == (
        0,
        "0 new deliveries, 4 pruned bodies restored, 0 duplicates, 0 lines skipped.\n",
    )
    assert "RETENTION_DAYS=7 prunes the old ones again" in " ".join(restored.stderr.split())
    assert delivered.read_bodies() == before
    assert delivered.read_totals(["r1"]) == totals
    assert json.loads(again.stdout) | {"duplicates": 4, "restored": 0} == json.loads(again.stdout)
    assert json.loads(preview.stdout)["deliveries"] == 5


def test_a_changed_body_or_an_unknown_secret_restores_nothing(
    delivered: DeliveredStore, tmp_path: Path
) -> None:
    delivery = delivered.make_delivery("signed", records=[{"id": "1", "name": "Ada"}], days_ago=40)
    mac = parse_signature_header(sign(delivery.body, "old-secret"))
    [receipt] = delivered.inbox.put([replace(delivery, digest=mac)])
    delivered.worker.deliver([receipt.delivery_id])
    archive = tmp_path / "archive"
    rapidbridge(delivered, "prune", "--older-than", "1d", "--yes", "--archive", f"file://{archive}")
    [file] = archive.glob("dt=*/*.jsonl.gz")
    changed = tmp_path / "changed.jsonl"
    line = gzip.decompress(file.read_bytes())
    changed.write_bytes(line.replace(b"Ada", b"Eve"))
    both = tmp_path / "both.jsonl"
    both.write_bytes(line.replace(b"Ada", b"Eve") + line + line)

    unknown = import_archive(delivered, archive, TRUTO_WEBHOOK_SECRET="new-secret")
    forged = rapidbridge(delivered, "replay", "--from", str(changed), "--secret", "old-secret")
    still_pruned = delivered.read_bodies()[receipt.delivery_id]
    words = ("replay", "--from", str(both))
    known = rapidbridge(delivered, *words, TRUTO_WEBHOOK_SECRET="new-secret,old-secret")

    assert (unknown.returncode, forged.returncode, known.returncode) == (1, 1, 1)
    assert known.stdout == "0 new deliveries, 1 pruned body restored, 1 duplicate, 1 line skipped.\n"
    assert unknown.stderr.startswith("line 1: no known secret signed this body")
    assert "--secret" in unknown.stderr
    assert still_pruned == b""
    assert delivered.inbox.read_body(receipt.delivery_id) == delivery.body


@pytest.mark.parametrize("order", ["pruned first", "erased first"])
def test_erased_deliveries_stay_erased(delivered: DeliveredStore, tmp_path: Path, order: str) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    delivered.add_run("a2", "r2", days_ago=40)
    archive = tmp_path / "archive"
    prune = ("prune", "--older-than", "1d", "--yes", "--archive", f"file://{archive}")
    rapidbridge(delivered, *prune)
    if order == "erased first":
        import_archive(delivered, archive)
    erase = ("erase", "--account", "a1", "--yes", "--json")
    erased = rapidbridge(delivered, *erase)
    again = rapidbridge(delivered, *erase)

    restored = import_archive(delivered, archive)

    assert json.loads(erased.stdout)["erased"]["pruned"] == (4 if order == "pruned first" else 0)
    assert not any(json.loads(again.stdout)["found"].values())
    others = "4 pruned bodies restored, 0 duplicates" if order == "pruned first" else "4 duplicates"
    assert restored.stdout == f"0 new deliveries, {others}, 4 erased (stays erased), 0 lines skipped.\n"
    assert not any(
        b"a1@example.com" in delivered.inbox.read_body(id_)
        for id_, body in delivered.read_bodies().items()
        if body
    )


def test_workers_prune_in_the_background(
    delivered: DeliveredStore, tmp_path: Path, redis_url: str, redis: Redis
) -> None:
    old = delivered.add_run("a1", "r1", days_ago=40)
    settings = {**delivered.settings, "REDIS_URL": redis_url, "RETENTION_DAYS": "7"}

    with Command(["app.cli", "worker"], folder=tmp_path, environment=make_environment(**settings)) as worker:
        wait_until(lambda: "inbox.pruned deliveries=4" in worker.log, what=lambda: worker.log)

    assert [bool(delivered.read_bodies()[delivery_id]) for delivery_id in old] == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_erase_needs_a_confirmation(delivered: DeliveredStore, redis_url: str, redis: Redis) -> None:
    delivered.add_run("a1", "r1")
    delivered.add_run("a2", "r2")
    open_spool(redis, delivered.store).put(delivered.make_delivery("waiting", records=[]))
    words = ("erase", "--account", "a1")

    dry = rapidbridge(delivered, *words, "--dry-run", "--json", REDIS_URL=redis_url)
    unconfirmed = rapidbridge(delivered, *words, REDIS_URL=redis_url)
    empty_account = rapidbridge(delivered, "erase", "--account", " ", "--yes", REDIS_URL=redis_url)
    assert delivered.count_rows_by_account() == {"a1": 2, "a2": 2}
    master, slave = pty.openpty()
    os.write(master, b"y\n")
    done = run_on_terminal(delivered, slave, *words, REDIS_URL=redis_url)
    os.close(master)
    os.close(slave)
    again = rapidbridge(delivered, *words, "--yes", "--json", REDIS_URL=redis_url)

    numbers = json.loads(dry.stdout)["found"]
    assert (numbers["spool"], numbers["bodies"], numbers["sink lake"], numbers["sink main"]) == (1, 5, 2, 2)
    assert (unconfirmed.returncode, empty_account.returncode) == (2, 2)
    assert "pass --yes" in unconfirmed.stderr
    assert done.returncode == 0, done.stderr
    assert "Erased: deliveries in Redis 1, bodies of deliveries 5" in done.stdout
    assert "backups, archives" in done.stdout
    assert (delivered.count_rows_by_account(), delivered.count_files("a1"), delivered.count_files("a2")) == (
        {"a2": 2},
        0,
        2,
    )
    assert again.returncode == 0
    assert not any(json.loads(again.stdout)["found"].values())


def test_erase_reports_unreachable_places_and_exits_with_1(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1")
    delivered.lake.rename(tmp_path / "away")

    ran = rapidbridge(
        delivered, "erase", "--account", "a1", "--yes", "--json", REDIS_URL=f"unix://{tmp_path}/none.sock"
    )

    assert ran.returncode == 1
    assert json.loads(ran.stdout)["unreached"].keys() == {"spool", "sink lake"}
    assert "Not reached: sink lake: the sink's folder is missing" in ran.stderr
    assert delivered.count_rows_by_account() == {}
