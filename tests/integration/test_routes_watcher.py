"""Workers take over a changed routes file, and keep the old one while the new one is not valid."""

import os
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from redis import Redis

from app.config.current_config import CurrentConfig
from app.config.load import read_config
from app.config.settings import forget_routes_snapshot
from app.database.engine import open_database
from app.errors import ConfigError, RoutesRefused
from app.store.inbox import Inbox
from app.store.migrate import migrate
from tests.integration.test_shared_redis import make_delivery
from tests.support.files import read_files
from tests.support.processes import Command, find_descendants
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment
from workers.background.routes_watcher import RoutesWatcher

MAIN = '[sinks.main]\ntype = "files"\nurl = "file://{folder}/main"\nmax_file_age_s = 1\n[[routes]]\nsinks = ["main"]\n'
LAKE = '[sinks.lake]\ntype = "files"\nurl = "file://{folder}/lake"\nmax_file_age_s = 1\n[[routes]]\nsinks = ["lake"]\n'
BROKEN = MAIN.replace('sinks = ["main"]', 'sinks = ["mian"]')


class Site:
    """A store, a routes file, and a running `rapidbridge worker`."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/store.db"
        self.store = open_database(self.url)
        migrate(self.store)
        self.inbox = Inbox(self.store)
        self._numbers = count()
        for name in ("main", "lake"):
            (folder / name).mkdir()
        self.route(MAIN)
        self.worker = Command(
            ["app.cli", "worker", "-n", "2"],
            folder=folder,
            environment=make_environment(DATABASE_URL=self.url, REDIS_URL=redis_url),
        )

    def route(self, text: str) -> None:
        (self.folder / "routes.toml").write_text(text.format(folder=self.folder))

    def deliver(self, number: int = 1) -> None:
        """Put deliveries, and wait until they are settled."""
        self.put(number)
        wait_until(
            lambda: not self.inbox.count_by_state().get("pending"), timeout_s=60, what=lambda: self.worker.log
        )

    def put(self, number: int) -> None:
        self.inbox.put([make_delivery(next(self._numbers)) for _ in range(number)])

    def count_records(self, sink: str) -> int:
        return len(read_files(self.folder / sink))


@pytest.fixture
def site(tmp_path: Path, redis_url: str, redis: Redis) -> Iterator[Site]:
    made = Site(tmp_path, redis_url)
    with made.worker:
        made.deliver()
        yield made
    made.store.close()


def test_a_changed_file_is_taken_over_without_losing_a_delivery(site: Site) -> None:
    pid = site.worker.pid
    site.put(300)
    site.route(LAKE)
    site.worker.wait_for("background.restarting", timeout_s=60)
    site.deliver(20)

    assert site.worker.pid == pid
    assert site.worker.process.poll() is None
    assert site.inbox.count_by_state() == {"settled": 321, "duplicate": 0}
    assert site.count_records("main") + site.count_records("lake") == 321
    assert site.count_records("lake") >= 20


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda site: site.route(BROKEN), "no sink named mian"),
        (lambda site: (site.folder / "routes.toml").unlink(), "the file is missing"),
    ],
    ids=["invalid", "missing"],
)
def test_a_file_that_is_not_valid_is_reported_and_not_used(
    site: Site,
    spoil: Callable[[Site], None],
    problem: str,
) -> None:
    spoil(site)
    site.worker.wait_for(problem, timeout_s=60)
    # A worker process that dies meanwhile starts with the routes in use.
    for worker in find_descendants(site.worker.pid):
        os.kill(worker, signal.SIGKILL)
    site.deliver(5)
    site.route(LAKE)
    site.worker.wait_for("background.restarting", timeout_s=60)
    site.deliver(3)

    assert "the previous routes stay in use" in site.worker.log
    assert (site.count_records("main"), site.count_records("lake")) == (6, 3)


def test_an_equal_file_restarts_nothing(site: Site) -> None:
    site.route(MAIN)
    site.route(BROKEN)
    site.worker.wait_for("no sink named mian", timeout_s=60)
    site.route(MAIN)
    site.worker.wait_for("task.recovered", timeout_s=60)
    site.deliver(3)

    assert "background.restarting" not in site.worker.log
    assert site.count_records("main") == 4


def test_a_stop_during_the_restart_ends_the_workers(site: Site) -> None:
    site.put(300)
    site.route(LAKE)
    site.worker.wait_for("background.restarting", timeout_s=60)

    assert site.worker.stop() in (0, -signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_file_is_used_when_two_readings_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "routes.toml"
    text = MAIN.format(folder=tmp_path)
    file.write_text(text)
    monkeypatch.setenv("ROUTES_FILE", str(file))
    watcher = RoutesWatcher(read_config())
    watcher.run_once()
    # The beginning of a file that is being written is valid too.
    changed = LAKE.format(folder=tmp_path)
    file.write_text(changed.partition("[[routes]]")[0])
    watcher.run_once()
    file.write_text(changed)
    watcher.run_once()
    assert watcher.changed_text is None
    for spoiled in (b"\xff", b"", b"[sinks"):
        file.write_bytes(spoiled)
        watcher.run_once()
        assert [step for step, _ in watcher.list_faults()] == ["routes file"]
    file.write_text(changed)
    watcher.run_once()
    assert watcher.changed_text is None
    assert watcher.list_faults() == []
    watcher.run_once()

    assert watcher.changed_text == changed


def test_processes_of_one_command_read_the_same_routes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, snapshot = tmp_path / "routes.toml", tmp_path / "snapshot"
    snapshot.write_text(MAIN.format(folder=tmp_path))
    monkeypatch.setenv("ROUTES_FILE", str(file))
    monkeypatch.setenv("ROUTES_SNAPSHOT", str(snapshot))
    config = read_config()
    snapshot.write_text(BROKEN.format(folder=tmp_path))
    with pytest.raises(ConfigError) as caught:
        read_config()
    forget_routes_snapshot()

    assert (list(config.routes.sinks), config.routes_file) == (["main"], str(file))
    assert caught.value.problems[0].startswith(f"{file}:6: [[routes]] 1, sinks")
    assert not snapshot.exists()
    with pytest.raises(ConfigError, match="there is no file"):
        read_config()


def test_a_web_process_shows_the_current_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(MAIN.format(folder=tmp_path))
    monkeypatch.setenv("ROUTES_FILE", str(file))
    current = CurrentConfig(read_config())
    before = current.get()
    for spoiled in (BROKEN.format(folder=tmp_path), "", "[sinks", None):
        file.write_text(spoiled) if spoiled is not None else file.unlink()
        for _ in range(3):
            with pytest.raises(RoutesRefused, match="the previous routes stay in use"):
                current.refresh()
        assert current.get() is before
    file.write_text(LAKE.format(folder=tmp_path))
    monkeypatch.setenv("PORT", "9999")
    assert not current.refresh()
    assert current.get() is before
    assert current.refresh()
    changed = current.get()

    assert list(changed.routes.sinks) == ["lake"]
    assert changed.delivery_config.digest == read_config().delivery_config.digest
    assert changed.settings == before.settings
    assert not current.refresh()
    assert current.get() is changed
