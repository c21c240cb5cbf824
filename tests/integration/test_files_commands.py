"""Files sinks through the commands: a worker that writes loads, and compaction."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from app.database.engine import Database, open_database
from app.store.migrate import migrate
from app.web.enqueuer import NewDelivery
from tests.support.load_site import NOW, LoadSite, lake_routes
from tests.support.processes import Command
from tests.support.redis_keys import open_queue
from tests.support.seeded_store import rapidbridge
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import make_environment


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(database)
    yield database
    database.close()


def open_site(store: Database, folder: Path, sink: str = "") -> LoadSite:
    routes = lake_routes(folder / "lake", sink=sink)
    (folder / "routes.toml").write_text(routes)
    return LoadSite(store, routes, folder / "lake")


def run(folder: Path, *words: str, code: int = 0) -> str:
    url, routes = f"sqlite:///{folder}/store.db", str(folder / "routes.toml")
    ran = rapidbridge(*words, DATABASE_URL=url, ROUTES_FILE=routes)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return " ".join((ran.stdout + ran.stderr).split())


def test_a_worker_writes_a_thousand_deliveries_to_few_files_and_one_within_the_age(
    tmp_path: Path, store: Database, redis: Redis, redis_url: str
) -> None:
    site = open_site(store, tmp_path, "max_file_age_s = 2")
    ids = site.put_pages(1000)
    settings = make_environment(
        DATABASE_URL=f"sqlite:///{tmp_path}/store.db",
        REDIS_URL=redis_url,
        ROUTES_FILE=str(tmp_path / "routes.toml"),
    )
    with Command(["app.cli", "worker"], folder=tmp_path, environment=settings) as worker:
        open_queue(redis, store).enqueue([NewDelivery(id_) for id_ in ids])
        wait_until(
            lambda: site.inbox.count_by_state().get("settled") == 1000, timeout_s=90, what=lambda: worker.log
        )
        files = len(site.list_files())
        alone = site.put({"id": "alone"}, account="other", number=1, received_at=datetime.now(UTC))
        began = datetime.now(UTC)
        open_queue(redis, store).enqueue([NewDelivery(alone)])
        wait_until(lambda: site.read_states()[alone] == "settled", what=lambda: worker.log)
        took_s = (datetime.now(UTC) - began).total_seconds()

    assert files <= 20
    assert took_s < 10 * measure_slowdown()
    rows = site.read_rows()
    assert len(rows) == len({(row["_account"], row["_key"]) for row in rows}) == 1001
    assert "load.finished" in worker.log


def test_the_list_of_sinks_counts_the_deliveries_that_wait_for_a_load(
    tmp_path: Path, store: Database
) -> None:
    site = open_site(store, tmp_path)
    site.process(site.put_pages(3))

    output = run(tmp_path, "sinks", "list")
    [lake] = json.loads(run(tmp_path, "sinks", "list", "--json"))
    details = run(tmp_path, "deliveries", "show", str(next(iter(site.read_states()))))

    assert "lake: 3 deliveries waiting for a load, the oldest for" in output
    assert (lake["state"], lake["held"]["number"], lake["loading"]["number"]) == ("ok", 0, 3)
    assert "waits for the next load" in details, details
    assert "accepts deliveries again" not in details


def test_compaction_merges_old_files_of_the_sink(tmp_path: Path, store: Database) -> None:
    site = open_site(store, tmp_path)
    for number in range(4):
        received_at = NOW + timedelta(seconds=number)
        site.process([site.put({"id": "1", "n": number}, number=number, received_at=received_at)])
        site.run_all()
    assert "Merged 0 files" in run(tmp_path, "files", "compact", "lake")
    for name in site.list_files():
        os.utime(site.folder / name, (0, 0))

    assert "Would merge 4 files into 1" in run(tmp_path, "files", "compact", "lake", "--dry-run")
    assert len(site.list_files()) == 4
    counts = json.loads(run(tmp_path, "files", "compact", "lake", "--json"))

    assert (counts["files_before"], counts["files_after"], counts["skipped"]) == (4, 1, 0)
    [row] = site.read_rows()
    assert row["data"] == {"id": "1", "n": 3}


def test_compaction_of_another_kind_of_sink_is_refused(tmp_path: Path, store: Database) -> None:
    (tmp_path / "routes.toml").write_text(
        f'[sinks.main]\ntype = "sql"\nurl = "sqlite:///{tmp_path}/m.db"\n[[routes]]\nsinks = ["main"]\n'
    )

    assert "main is a sql sink" in run(tmp_path, "files", "compact", "main", code=2)
    assert "no sink named lake; known: main." in run(tmp_path, "files", "compact", "lake", code=2)
