"""The receiver as it is installed: web processes, workers, Valkey and PostgreSQL, from POST to settled."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from app.database.engine import open_database
from app.redis.queue import DeliveryQueue
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.pending import PendingDeliveries
from benchmarks.load import send_all
from benchmarks.round import Round, RoundTimer
from tests.chaos.site import Program
from tests.support.processes import ROOT
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, read_procfile_command

_CONNECTIONS = 8
_ASK_EVERY_S = 0.05
# Nothing is lost, so it ends some time; where it does not, the benchmark should.
_PATIENCE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Installation:
    """What is started anew on an empty database for each turn. web, workers: how many processes.

    postgres: the server's process id. folder: takes the logs.
    """

    folder: Path
    valkey: ValkeyServer
    postgres: int
    web: int
    workers: int

    def receive(self, url: str, requests: Sequence[bytes], records: int) -> Round:
        """Take the time from the first POST until the last delivery is settled, all processes up before."""
        with ExitStack() as stack:
            self._prepare(url)
            web = stack.enter_context(self._serving(url))
            workers = stack.enter_context(self._working(url))
            self._wait_for_workers(self.workers)
            pids = {"web": web.pid, "workers": workers.pid, "valkey": self.valkey.pid}
            watch, sender = RoundTimer(postgres=self.postgres, **pids), time.process_time()
            send_all(web.port, requests, connections=_CONNECTIONS)
            sender = time.process_time() - sender
            _wait_until_settled(url)
            turn = watch.stop(records, client=sender)
        _check(url, len(requests))
        return turn

    def drain(self, url: str, requests: Sequence[bytes], records: int) -> Round:
        """Take the time from when the first worker is up until it has all settled that was stored before."""
        with ExitStack() as stack:
            self._prepare(url)
            with self._serving(url) as web:
                send_all(web.port, requests, connections=_CONNECTIONS)
            workers = stack.enter_context(self._working(url))
            self._wait_for_workers(1)
            watch = RoundTimer(postgres=self.postgres, workers=workers.pid, valkey=self.valkey.pid)
            _wait_until_settled(url)
            turn = watch.stop(records)
        _check(url, len(requests))
        return turn

    def _prepare(self, url: str) -> None:
        with Redis.from_url(self.valkey.url) as redis:
            redis.flushall()
        store = open_database(url)
        migrate(store)
        store.close()

    def _serving(self, url: str) -> WebProcess:
        return WebProcess(
            self.folder, database_url=url, redis_url=self.valkey.url, WEB_CONCURRENCY=str(self.web)
        )

    @contextmanager
    def _working(self, url: str) -> Iterator[Program]:
        settings = {
            "DATABASE_URL": url,
            "REDIS_URL": self.valkey.url,
            "WORKER_CONCURRENCY": str(self.workers),
        }
        program = Program(read_procfile_command("worker"), ROOT, settings, self.folder / "workers.log")
        program.start()
        try:
            yield program
        finally:
            program.terminate()

    def _wait_for_workers(self, number: int) -> None:
        with Redis.from_url(self.valkey.url) as redis:
            queue = DeliveryQueue(redis)
            log = self.folder / "workers.log"
            wait_until(
                lambda: queue.count_workers() >= number, timeout_s=60, what=lambda: f"it\n{log.read_text()}"
            )


def _wait_until_settled(url: str) -> None:
    store, deadline = open_database(url), time.monotonic() + _PATIENCE_S
    worklist = PendingDeliveries(store)
    while worklist.find_oldest_received_at() is not None:
        assert time.monotonic() < deadline, f"not settled within {_PATIENCE_S} s"
        time.sleep(_ASK_EVERY_S)
    store.close()


def _check(url: str, deliveries: int) -> None:
    store = open_database(url)
    counts = Inbox(store).count_by_state()
    store.close()
    assert counts == {"settled": deliveries, "duplicate": 0}, counts
