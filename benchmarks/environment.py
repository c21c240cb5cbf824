"""The servers of a benchmark: durable PostgreSQL, Valkey, a migrated database; and workers."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.store.migrate import migrate
from app.store.schema import deliveries
from tests.support.postgres import PostgresServer
from tests.support.processes import Command
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, make_environment


@dataclass(frozen=True, slots=True)
class BenchmarkEnvironment:
    """The running servers, and ways to start web processes and workers on them.

    folder: for logs, deleted at the end.
    """

    folder: Path
    postgres: PostgresServer
    valkey: ValkeyServer
    database_url: str
    database: Database
    redis: Redis

    def web(self, processes: int, **settings: str) -> WebProcess:
        """Prepare gunicorn with a number of worker processes; a context manager that starts it."""
        return WebProcess(
            self.folder,
            database_url=self.database_url,
            redis_url=self.valkey.url,
            WEB_CONCURRENCY=str(processes),
            **settings,
        )

    def worker_command(self, processes: int) -> Command:
        """Prepare `rapidbridge worker` with a number of processes; a context manager that starts it."""
        settings = make_environment(DATABASE_URL=self.database_url, REDIS_URL=self.valkey.url)
        return Command(["app.cli", "worker", "-n", str(processes)], folder=self.folder, environment=settings)

    def delete_deliveries(self) -> None:
        """Delete every delivery."""
        self.database.execute(text(f"TRUNCATE {deliveries.name}"))

    @contextmanager
    def running_workers(self, processes: int) -> Iterator[Command]:
        """Start workers; yield once all of them wait for jobs."""
        # RQ still lists the workers of earlier rounds.
        self.redis.flushall()
        with self.worker_command(processes) as command:
            wait_until(lambda: self.redis.scard("rq:workers") == processes, what=lambda: command.log)
            yield command


@contextmanager
def running_environment() -> Iterator[BenchmarkEnvironment]:
    """Start the servers, and stop them at the end."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(3)]
        valkey = ValkeyServer(folders[0])
        stack.callback(valkey.stop)
        postgres = PostgresServer(folders[1], is_durable=True)
        stack.callback(postgres.stop)
        url = stack.enter_context(postgres.database())
        migrate_database(url)
        database = open_database(url)
        stack.callback(database.close)
        redis = stack.enter_context(Redis.from_url(valkey.url))
        yield BenchmarkEnvironment(folders[2], postgres, valkey, url, database, redis)


def migrate_database(url: str) -> None:
    """Create the store's tables in a database."""
    database = open_database(url)
    migrate(database)
    database.close()
