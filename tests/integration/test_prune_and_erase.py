"""`rapidbridge prune` and `rapidbridge erase` as they are typed, and the worker that prunes by itself."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.redis.spool import Spool
from tests.support.delivered_store import DeliveredStore
from tests.support.processes import ROOT, Command
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment


@pytest.fixture
def stock(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    made = DeliveredStore(store_url, tmp_path)
    yield made
    made.close()


def rapidbridge(
    stock: DeliveredStore, *words: str, stdin: int = subprocess.DEVNULL, **settings: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=make_environment(**stock.settings, **settings),
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_old_is_pruned_by_the_setting_or_as_it_is_said(stock: DeliveredStore, tmp_path: Path) -> None:
    stock.add_run("a1", "r1", days_ago=40)
    totals = stock.read_totals(["r1"])

    unsaid = rapidbridge(stock, "prune")
    dry = rapidbridge(stock, "prune", "--dry-run", RETENTION_DAYS="7")
    bad = rapidbridge(stock, "prune", "--older-than", "7d", "--archive", "s3://bucket")
    done = rapidbridge(stock, "prune", "--older-than", "1d", "--archive", f"file://{tmp_path}/archive")
    again = rapidbridge(stock, "prune", "--json", RETENTION_DAYS="7")

    assert (unsaid.returncode, dry.returncode, bad.returncode) == (2, 0, 2)
    assert "--older-than 30d, or set RETENTION_DAYS" in unsaid.stderr
    assert "file:///srv/archive" in bad.stderr
    assert dry.stdout.startswith("Would remove the bodies of 4 deliveries")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Removed the bodies of 4 deliveries")
    assert ("VACUUM" in done.stdout) == stock.url.startswith("sqlite")
    assert len(list((tmp_path / "archive").glob("dt=*/*.jsonl.gz"))) == 1
    assert json.loads(again.stdout)["deliveries"] == 0
    assert stock.read_totals(["r1"]) == totals


def test_an_archive_that_cannot_be_written_ends_it(stock: DeliveredStore, tmp_path: Path) -> None:
    stock.add_run("a1", "r1", days_ago=40)
    (tmp_path / "archive").write_text("in the way")

    ran = rapidbridge(stock, "prune", "--older-than", "1d", "--archive", f"file://{tmp_path}/archive")

    assert ran.returncode == 3
    assert "no body of this chunk was removed" in ran.stderr
    assert all(stock.read_bodies().values())


def test_workers_prune_by_themselves(
    stock: DeliveredStore, tmp_path: Path, redis_url: str, redis: Redis
) -> None:
    old = stock.add_run("a1", "r1", days_ago=40)
    settings = {**stock.settings, "REDIS_URL": redis_url, "RETENTION_DAYS": "7"}

    with Command(["app.cli", "worker"], folder=tmp_path, environment=make_environment(**settings)) as worker:
        wait_until(lambda: "inbox.pruned deliveries=4" in worker.log, what=lambda: worker.log)

    assert [bool(stock.read_bodies()[each]) for each in old] == [False, False, True, False, False]


def test_an_account_is_erased_once_somebody_says_yes(
    stock: DeliveredStore, redis_url: str, redis: Redis
) -> None:
    stock.add_run("a1", "r1")
    stock.add_run("a2", "r2")
    Spool(redis).put(stock.make_delivery("waiting", records=[]))
    words = ("erase", "--account", "a1")

    dry = rapidbridge(stock, *words, "--dry-run", "--json", REDIS_URL=redis_url)
    unasked = rapidbridge(stock, *words, REDIS_URL=redis_url)
    nobody = rapidbridge(stock, "erase", "--account", " ", "--yes", REDIS_URL=redis_url)
    assert stock.count_rows_by_account() == {"a1": 2, "a2": 2}
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n")
    done = rapidbridge(stock, *words, stdin=theirs, REDIS_URL=redis_url)
    os.close(ours)
    os.close(theirs)
    again = rapidbridge(stock, *words, "--yes", "--json", REDIS_URL=redis_url)

    numbers = json.loads(dry.stdout)["found"]
    assert (numbers["spool"], numbers["bodies"], numbers["sink lake"], numbers["sink main"]) == (1, 5, 2, 2)
    assert (unasked.returncode, nobody.returncode) == (2, 2)
    assert "pass --yes" in unasked.stderr
    assert done.returncode == 0, done.stderr
    assert "Erased: 1 deliveries waiting in Redis, 5 bodies of deliveries" in done.stdout
    assert "backups, archives" in done.stdout
    assert (stock.count_rows_by_account(), stock.count_files("a1"), stock.count_files("a2")) == (
        {"a2": 2},
        0,
        2,
    )
    assert again.returncode == 0
    assert not any(json.loads(again.stdout)["found"].values())


def test_what_is_away_is_named_and_makes_it_bad_news(stock: DeliveredStore, tmp_path: Path) -> None:
    stock.add_run("a1", "r1")
    stock.lake.rename(tmp_path / "away")

    ran = rapidbridge(
        stock, "erase", "--account", "a1", "--yes", "--json", REDIS_URL=f"unix://{tmp_path}/none.sock"
    )

    assert ran.returncode == 1
    assert json.loads(ran.stdout)["unreached"].keys() == {"spool", "sink lake"}
    assert "Not reached: sink lake: the folder of the sink is not there" in ran.stderr
    assert stock.count_rows_by_account() == {}
