"""`rapidbridge prune`, `rapidbridge erase`, and pruning by the worker."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

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


def rapidbridge(
    delivered: DeliveredStore, *words: str, stdin: int = subprocess.DEVNULL, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=make_environment(**delivered.settings, **settings),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_prune_uses_the_setting_or_the_option(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    totals = delivered.read_totals(["r1"])

    without_age = rapidbridge(delivered, "prune")
    dry = rapidbridge(delivered, "prune", "--dry-run", RETENTION_DAYS="7")
    bad = rapidbridge(delivered, "prune", "--older-than", "7d", "--archive", "s3://bucket")
    done = rapidbridge(delivered, "prune", "--older-than", "1d", "--archive", f"file://{tmp_path}/archive")
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


def test_prune_deletes_nothing_if_the_archive_fails(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1", days_ago=40)
    (tmp_path / "archive").write_text("in the way")

    ran = rapidbridge(delivered, "prune", "--older-than", "1d", "--archive", f"file://{tmp_path}/archive")

    assert ran.returncode == 3
    assert "no body of this chunk was removed" in ran.stderr
    assert all(delivered.read_bodies().values())


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
    done = rapidbridge(delivered, *words, stdin=slave, REDIS_URL=redis_url)
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
