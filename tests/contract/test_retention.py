"""What is old and finished loses its body; all else, and every total, stays as it was."""

import gzip
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.errors import ArchiveUnavailable, BodyPruned
from app.store.archive import Archive
from app.store.models import DeliveryState
from app.store.retention import FINISHED_STATES, PruneCounts, count_prunable, prune, prune_bodies
from app.store.schema import deliveries
from tests.support.crashing_prune import STEPS
from tests.support.delivered_store import DAY, NOW, DeliveredStore
from tests.support.processes import ROOT
from tests.support.web_process import make_environment
from workers.background.retention import Pruner

BEFORE = NOW - 30 * DAY
# Named here once more: what is whole must not depend on what the code takes for finished.
UNFINISHED = ("dead", "late", "pending", "quarantined", "unrouted")


@pytest.fixture
def stock(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    made = DeliveredStore(store_url, tmp_path)
    yield made
    made.close()


def prune_all(
    stock: DeliveredStore, archive: Archive | None = None, *, before: datetime = BEFORE
) -> PruneCounts:
    pages = prune(stock.store, before=before, archive=archive, clock=lambda: NOW)
    return sum(pages, start=PruneCounts())


def rapidbridge(stock: DeliveredStore, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=make_environment(**stock.settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read_lines(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("dt=*/[0-9]*.jsonl.gz"))
    return [json.loads(line) for path in paths for line in gzip.open(path, "rt", encoding="utf-8")]


def test_totals_stay_and_bodies_go(stock: DeliveredStore) -> None:
    *old, run = stock.add_run("a1", "r1", days_ago=31)
    young = stock.add_run("a1", "r2", days_ago=29)
    before, whole, raws = stock.read_totals(["r1", "r2"]), stock.read_bodies(), stock.count_raw_records()
    counted = count_prunable(stock.store, before=BEFORE)

    pruned = prune_all(stock)

    finished = [old[0], old[1], old[3], run]
    assert pruned == counted == PruneCounts(4, sum(len(whole[each]) for each in finished), 1, 1)
    assert stock.read_totals(["r1", "r2"]) == before
    assert {id_ for id_, body in stock.read_bodies().items() if not body} == {*finished}
    assert all(stock.read_bodies()[each] == whole[each] for each in young)
    assert stock.count_raw_records() == raws - 2
    assert prune_all(stock) == count_prunable(stock.store, before=BEFORE) == PruneCounts()


def test_every_state_is_either_finished_or_kept_whole() -> None:

    assert sorted(DeliveryState) == sorted((*FINISHED_STATES, *UNFINISHED))


@pytest.mark.parametrize("state", UNFINISHED)
def test_what_is_not_finished_stays_whole_however_old(stock: DeliveredStore, state: str) -> None:
    delivery = stock.add_run("a1", "r1", days_ago=9000)[0]
    stock.set_state(delivery, state)
    whole, raws = stock.read_bodies(), stock.count_raw_records()

    prune_all(stock)
    # Also where it was finished when it was found.
    assert prune_bodies(stock.store, [delivery], now=NOW) == PruneCounts()

    assert stock.read_bodies()[delivery] == whole[delivery] != b""
    assert stock.count_raw_records() == raws - 1


def test_a_pruned_body_that_is_asked_for_says_so(stock: DeliveredStore) -> None:
    delivery = stock.deliver("1", records=[], days_ago=31)
    prune_all(stock)

    with pytest.raises(BodyPruned, match=f"{delivery}: its body was removed"):
        stock.inbox.read_body(delivery)

    stock.set_state(delivery, "pending")
    stock.worker.deliver([delivery])
    with stock.store.engine.connect() as connection:
        found = connection.execute(select(deliveries.c.state, deliveries.c.reason)).one()
    assert tuple(found) == ("dead", "pruned")


def test_what_was_pruned_comes_again_as_a_duplicate(stock: DeliveredStore) -> None:
    stock.deliver("1", records=[], days_ago=31)
    prune_all(stock)

    [receipt] = stock.inbox.put([stock.make_delivery("1", records=[])])

    assert receipt.is_duplicate
    assert stock.inbox.count_by_state() == {"settled": 1, "duplicate": 1}


def test_many_pruners_at_once_share_the_work(stock: DeliveredStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = stock.inbox.put([stock.make_delivery(str(n), days_ago=40 - n / 100, records=[]) for n in range(60)])
    stock.worker.deliver([receipt.delivery_id for receipt in ids])
    monkeypatch.setattr("app.store.retention.PAGE", 7)

    with ThreadPoolExecutor(4) as pruners:
        each = list(pruners.map(lambda _: prune_all(stock), range(4)))

    assert sum(each, start=PruneCounts()).deliveries == 60
    assert not any(stock.read_bodies().values())


def test_an_archive_holds_all_that_was_removed(stock: DeliveredStore, tmp_path: Path) -> None:
    *old, _ = stock.add_run("a1", "r1", days_ago=31)
    odd = stock.inbox.put([stock.make_delivery("x", days_ago=32)])[0].delivery_id
    stock.set_state(odd, "discarded")
    body = stock.inbox.read_body(old[0])

    pruned = prune_all(stock, Archive(f"file://{tmp_path}/archive"))

    found = {line["id"]: line for line in read_lines(tmp_path / "archive")}
    assert len(found) == pruned.deliveries == 5
    line = found[str(old[0])]
    assert line["body"].encode() == body
    assert (line["format"], line["state"]) == ("rapidbridge.delivery/1", "settled")
    assert sorted(path.name for path in (tmp_path / "archive").glob("dt=*")) == [
        "dt=2026-10-24",
        "dt=2026-10-25",
    ]
    assert not list(tmp_path.rglob("*.part"))


def test_nothing_is_removed_that_the_archive_does_not_take(stock: DeliveredStore, tmp_path: Path) -> None:
    stock.add_run("a1", "r1", days_ago=31)
    whole = stock.read_bodies()
    (tmp_path / "archive").write_text("in the way")

    with pytest.raises(ArchiveUnavailable, match="archive"):
        prune_all(stock, Archive(f"file://{tmp_path}/archive"))

    assert stock.read_bodies() == whole


def test_a_body_that_is_damaged_is_left_where_it_is(stock: DeliveredStore, tmp_path: Path) -> None:
    damaged, *_ = stock.add_run("a1", "r1", days_ago=31)
    with stock.store.engine.begin() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == damaged).values(body=b"x"))

    assert prune_all(stock, Archive(f"file://{tmp_path}/archive")).deliveries == 3
    assert stock.read_bodies()[damaged] == b"x"


def test_many_archivers_at_once_write_each_delivery_once(
    stock: DeliveredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = stock.inbox.put([stock.make_delivery(str(n), days_ago=40 - n / 100, records=[]) for n in range(60)])
    stock.worker.deliver([receipt.delivery_id for receipt in ids])
    monkeypatch.setattr("app.store.retention.PAGE", 7)

    with ThreadPoolExecutor(3) as pruners:
        archives = [Archive(f"file://{tmp_path}/archive") for _ in range(3)]
        list(pruners.map(lambda archive: prune_all(stock, archive), archives))

    assert not any(stock.read_bodies().values())
    assert sorted(line["id"] for line in read_lines(tmp_path / "archive")) == sorted(
        map(str, stock.read_bodies())
    )


@pytest.mark.parametrize("step", STEPS)
def test_one_that_is_killed_leaves_both_or_the_archive_and_the_next_goes_on(
    stock: DeliveredStore, tmp_path: Path, step: str
) -> None:
    stock.add_run("a1", "r1", days_ago=31)
    before, whole = stock.read_totals(["r1"]), stock.read_bodies()
    archive = f"file://{tmp_path}/archive"
    words = ("--older-than", "2026-10-26", "--archive", archive)

    killed = rapidbridge(stock, "tests.support.crashing_prune", step, *words)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    archived = {line["id"] for line in read_lines(tmp_path / "archive")}
    assert all(body or str(id_) in archived for id_, body in stock.read_bodies().items())
    # What settles between the two makes other chunks of the same deliveries.
    stock.deliver("late", records=[], days_ago=31.001)
    last = rapidbridge(stock, "app.cli", "prune", *words, "--json")
    assert last.returncode == 0, last.stderr
    assert not list(tmp_path.rglob("*.part"))
    counted = Counter(line["id"] for line in read_lines(tmp_path / "archive"))
    assert set(counted.values()) == {1}
    assert counted.keys() == {str(id_) for id_, body in stock.read_bodies().items() if not body}
    assert len(counted) == 5 == json.loads(last.stdout)["deliveries"] + (4 if step == "removed" else 0)
    assert len([body for body in stock.read_bodies().values() if body]) == len(whole) - 4 == 1
    assert stock.read_totals(["r1"])[0][1].record_errors == before[0][1].record_errors


def test_a_dry_run_counts_and_changes_nothing(stock: DeliveredStore) -> None:
    stock.add_run("a1", "r1", days_ago=31)
    whole = stock.read_bodies()

    ran = rapidbridge(stock, "app.cli", "prune", "--older-than", "2026-10-26", "--dry-run", "--json")

    told = json.loads(ran.stdout)
    assert (told["is_dry_run"], told["deliveries"], told["dead_records"]) == (True, 4, 1)
    assert stock.read_bodies() == whole


def test_in_the_background_a_round_takes_its_share(
    stock: DeliveredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.retention.PAGE", 2)
    stock.add_run("a1", "r1", days_ago=31)
    pruner = Pruner(stock.store, 30, max_deliveries=2, clock=lambda: NOW)

    left = []
    for _ in range(3):
        pruner.run_once()
        left.append(count_prunable(stock.store, before=BEFORE).deliveries)

    assert left == [2, 0, 0]
