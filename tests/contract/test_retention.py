"""Pruning empties old, finished deliveries and changes no total."""

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
# Repeated here, so that the test does not depend on the states that the code prunes.
UNFINISHED = ("dead", "late", "pending", "quarantined", "unrouted")


@pytest.fixture
def delivered(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    made = DeliveredStore(store_url, tmp_path)
    yield made
    made.close()


def prune_all(
    delivered: DeliveredStore, archive: Archive | None = None, *, before: datetime = BEFORE
) -> PruneCounts:
    pages = prune(delivered.store, before=before, archive=archive, clock=lambda: NOW)
    return sum(pages, start=PruneCounts())


def rapidbridge(delivered: DeliveredStore, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=make_environment(**delivered.settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read_lines(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("dt=*/[0-9]*.jsonl.gz"))
    return [json.loads(line) for path in paths for line in gzip.open(path, "rt", encoding="utf-8")]


def test_pruning_removes_bodies_and_keeps_totals(delivered: DeliveredStore) -> None:
    *old, run = delivered.add_run("a1", "r1", days_ago=31)
    young = delivered.add_run("a1", "r2", days_ago=29)
    before, whole, raws = (
        delivered.read_totals(["r1", "r2"]),
        delivered.read_bodies(),
        delivered.count_raw_records(),
    )
    counted = count_prunable(delivered.store, before=BEFORE)

    pruned = prune_all(delivered)

    finished = [old[0], old[1], old[3], run]
    assert pruned == counted == PruneCounts(4, sum(len(whole[item]) for item in finished), 2, 1)
    assert delivered.read_totals(["r1", "r2"]) == before
    assert {id_ for id_, body in delivered.read_bodies().items() if not body} == {*finished}
    assert all(delivered.read_bodies()[item] == whole[item] for item in young)
    assert delivered.count_raw_records() == raws - 3
    assert prune_all(delivered) == count_prunable(delivered.store, before=BEFORE) == PruneCounts()


def test_every_state_is_either_finished_or_never_pruned() -> None:

    assert sorted(DeliveryState) == sorted((*FINISHED_STATES, *UNFINISHED))


@pytest.mark.parametrize("state", UNFINISHED)
def test_unfinished_deliveries_are_never_pruned(delivered: DeliveredStore, state: str) -> None:
    delivery = delivered.add_run("a1", "r1", days_ago=9000)[0]
    delivered.set_state(delivery, state)
    whole, raws = delivered.read_bodies(), delivered.count_raw_records()

    prune_all(delivered)
    # Also if it was finished when the page was read.
    assert prune_bodies(delivered.store, [delivery], now=NOW) == PruneCounts()

    assert delivered.read_bodies()[delivery] == whole[delivery] != b""
    assert delivered.count_raw_records() == raws - 1


def test_reading_a_pruned_body_raises_body_pruned(delivered: DeliveredStore) -> None:
    delivery = delivered.deliver("1", records=[], days_ago=31)
    prune_all(delivered)

    with pytest.raises(BodyPruned, match=f"{delivery}: its body was removed"):
        delivered.inbox.read_body(delivery)

    delivered.set_state(delivery, "pending")
    delivered.worker.deliver([delivery])
    with delivered.store.engine.connect() as connection:
        rows = connection.execute(select(deliveries.c.state, deliveries.c.reason)).one()
    assert tuple(rows) == ("dead", "pruned")


def test_a_pruned_delivery_that_arrives_again_is_a_duplicate(delivered: DeliveredStore) -> None:
    delivered.deliver("1", records=[], days_ago=31)
    prune_all(delivered)

    [receipt] = delivered.inbox.put([delivered.make_delivery("1", records=[])])

    assert receipt.is_duplicate
    assert delivered.inbox.count_by_state() == {"settled": 1, "duplicate": 1}


def test_concurrent_pruners_share_the_work(
    delivered: DeliveredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = delivered.inbox.put(
        [delivered.make_delivery(str(n), days_ago=40 - n / 100, records=[]) for n in range(60)]
    )
    delivered.worker.deliver([receipt.delivery_id for receipt in ids])
    monkeypatch.setattr("app.store.retention.PAGE", 7)

    with ThreadPoolExecutor(4) as pruners:
        item = list(pruners.map(lambda _: prune_all(delivered), range(4)))

    assert sum(item, start=PruneCounts()).deliveries == 60
    assert not any(delivered.read_bodies().values())


def test_the_archive_holds_every_pruned_delivery(delivered: DeliveredStore, tmp_path: Path) -> None:
    *old, _ = delivered.add_run("a1", "r1", days_ago=31)
    odd = delivered.inbox.put([delivered.make_delivery("x", days_ago=32)])[0].delivery_id
    delivered.set_state(odd, "discarded")
    body = delivered.inbox.read_body(old[0])

    pruned = prune_all(delivered, Archive(f"file://{tmp_path}/archive"))

    rows = {line["id"]: line for line in read_lines(tmp_path / "archive")}
    assert len(rows) == pruned.deliveries == 5
    line = rows[str(old[0])]
    assert line["body"].encode() == body
    assert (line["format"], line["state"]) == ("rapidbridge.delivery/1", "settled")
    assert sorted(path.name for path in (tmp_path / "archive").glob("dt=*")) == [
        "dt=2026-10-24",
        "dt=2026-10-25",
    ]
    assert not list(tmp_path.rglob("*.part"))


def test_nothing_is_pruned_if_the_archive_fails(delivered: DeliveredStore, tmp_path: Path) -> None:
    delivered.add_run("a1", "r1", days_ago=31)
    whole = delivered.read_bodies()
    (tmp_path / "archive").write_text("in the way")

    with pytest.raises(ArchiveUnavailable, match="archive"):
        prune_all(delivered, Archive(f"file://{tmp_path}/archive"))

    assert delivered.read_bodies() == whole


def test_a_damaged_body_is_not_pruned(delivered: DeliveredStore, tmp_path: Path) -> None:
    damaged, *_ = delivered.add_run("a1", "r1", days_ago=31)
    with delivered.store.engine.begin() as connection:
        connection.execute(deliveries.update().where(deliveries.c.id == damaged).values(body=b"x"))

    assert prune_all(delivered, Archive(f"file://{tmp_path}/archive")).deliveries == 3
    assert delivered.read_bodies()[damaged] == b"x"


def test_concurrent_archivers_write_every_delivery_once(
    delivered: DeliveredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = delivered.inbox.put(
        [delivered.make_delivery(str(n), days_ago=40 - n / 100, records=[]) for n in range(60)]
    )
    delivered.worker.deliver([receipt.delivery_id for receipt in ids])
    monkeypatch.setattr("app.store.retention.PAGE", 7)

    with ThreadPoolExecutor(3) as pruners:
        archives = [Archive(f"file://{tmp_path}/archive") for _ in range(3)]
        list(pruners.map(lambda archive: prune_all(delivered, archive), archives))

    assert not any(delivered.read_bodies().values())
    assert sorted(line["id"] for line in read_lines(tmp_path / "archive")) == sorted(
        map(str, delivered.read_bodies())
    )


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_prune_loses_no_body_and_can_be_repeated(
    delivered: DeliveredStore, tmp_path: Path, step: str
) -> None:
    delivered.add_run("a1", "r1", days_ago=31)
    before, whole = delivered.read_totals(["r1"]), delivered.read_bodies()
    archive = f"file://{tmp_path}/archive"
    words = ("--older-than", "2026-10-26", "--yes", "--archive", archive)

    killed = rapidbridge(delivered, "tests.support.crashing_prune", step, *words)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    archived = {line["id"] for line in read_lines(tmp_path / "archive")}
    assert all(body or str(id_) in archived for id_, body in delivered.read_bodies().items())
    # Deliveries settled in between change the chunks.
    delivered.deliver("late", records=[], days_ago=31.001)
    last = rapidbridge(delivered, "app.cli", "prune", *words, "--json")
    assert last.returncode == 0, last.stderr
    assert not list(tmp_path.rglob("*.part"))
    counted = Counter(line["id"] for line in read_lines(tmp_path / "archive"))
    assert set(counted.values()) == {1}
    assert counted.keys() == {str(id_) for id_, body in delivered.read_bodies().items() if not body}
    assert len(counted) == 5 == json.loads(last.stdout)["deliveries"] + (4 if step == "removed" else 0)
    assert len([body for body in delivered.read_bodies().values() if body]) == len(whole) - 4 == 1
    assert delivered.read_totals(["r1"])[0][1].record_errors == before[0][1].record_errors


def test_a_dry_run_counts_and_changes_nothing(delivered: DeliveredStore) -> None:
    delivered.add_run("a1", "r1", days_ago=31)
    whole = delivered.read_bodies()

    ran = rapidbridge(delivered, "app.cli", "prune", "--older-than", "2026-10-26", "--dry-run", "--json")

    fields = json.loads(ran.stdout)
    assert (fields["is_dry_run"], fields["deliveries"], fields["dead_records"]) == (True, 4, 2)
    assert delivered.read_bodies() == whole


def test_a_background_round_is_limited_to_its_share(
    delivered: DeliveredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.retention.PAGE", 2)
    delivered.add_run("a1", "r1", days_ago=31)
    pruner = Pruner(delivered.store, 30, max_deliveries=2, clock=lambda: NOW)

    left = []
    for _ in range(3):
        pruner.run_once()
        left.append(count_prunable(delivered.store, before=BEFORE).deliveries)

    assert left == [2, 0, 0]
