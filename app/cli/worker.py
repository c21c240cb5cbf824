"""rapidbridge worker: worker processes and the background tasks beside them."""

import os
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import click
import structlog

from app.cli.local.supervisor import Supervisor
from app.cli.local.temporary_folder import temporary_folder
from app.config.load import read_config
from app.config.settings import (
    ROUTES_SNAPSHOT_VARIABLE,
    WORKER_VARIABLE,
    build_child_environment,
    forget_routes_snapshot,
)
from app.config.summary import log_dangerous_settings, log_start
from app.errors import ConfigError, StoreUnavailable
from app.logs import configure_logging
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.sinks.probe import find_unloadable_sinks
from app.store.encryption_keys import refuse_missing_keys
from app.store.store_database import open_store
from workers.background.delete_marker import DeleteMarker
from workers.background.feeder import Feeder
from workers.background.load_planner import LoadPlanner
from workers.background.monitor import Monitor
from workers.background.notification_sender import NotificationDispatcher
from workers.background.operation_runner import OperationRunner
from workers.background.other_spools import OtherSpools
from workers.background.releaser import Releaser
from workers.background.retention import Pruner
from workers.background.routes_watcher import RoutesWatcher
from workers.background.sink_monitor import SetUpMonitor
from workers.background.sweeper import Sweeper
from workers.delivery.processor import format_worker_name, make_worker_token

log = structlog.get_logger()


@click.command()
@click.option(
    "-n",
    "--number",
    type=click.IntRange(1, 64),
    help="Number of worker processes.  [default: WORKER_CONCURRENCY]",
)
def worker(number: int | None) -> None:
    """Write received deliveries to their sinks.

    The command runs until SIGTERM or Ctrl-C; deliveries in progress are finished first. It also sends
    notifications, carries out replays and discards, monitors runs and prunes old bodies. Any number of these
    commands may run, on any number of machines. A changed routes file is used as soon as it is valid.
    """
    config = read_config(required=("REDIS_URL",))
    forget_routes_snapshot()
    settings = config.settings
    configure_logging(settings.log_format)
    if problems := list(find_unloadable_sinks(config.routes)):
        raise ConfigError([f"{config.routes_file}: {problem}" for problem in problems])
    number = number or settings.worker_concurrency
    log_start("background", config, workers=number)
    log_dangerous_settings(config)
    database = open_store(settings)
    # While the database is away, deliveries are retried until it answers.
    with suppress(StoreUnavailable):
        refuse_missing_keys(database)
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    spool = Spool(redis, settings.namespace, settings)
    queue = DeliveryQueue(redis, settings.namespace)
    sweeper = Sweeper(database, queue, spool)
    routes_watcher = RoutesWatcher(config)
    dispatcher = NotificationDispatcher(database, config.routes.notify, public_url=settings.public_url)
    tasks = [
        sweeper,
        Feeder(database, queue),
        Releaser(database),
        LoadPlanner(database, queue, config.routes),
        OtherSpools(database, redis, settings),
        SetUpMonitor(config.routes),
        *dispatcher.tasks,
        Pruner(database, settings.retention_days),
        OperationRunner(database, owner=format_worker_name(os.getpid(), make_worker_token())),
        DeleteMarker(database, config.routes, owner=format_worker_name(os.getpid(), make_worker_token())),
        routes_watcher,
    ]
    for task in (*tasks, Monitor(database, config, spool, tasks=tasks)):
        task.start()
    # Signals first: a folder that is made before would be left behind by one.
    with Supervisor() as supervisor, temporary_folder("rapidbridge-") as folder, ExitStack() as cleanup:
        cleanup.callback(supervisor.stop)
        snapshot = _write_snapshot(folder / "routes.toml", config.routes_text) if config.routes_file else ""
        for index in range(number):
            process = _WorkerProcess(sweeper, snapshot)
            supervisor.start(
                f"worker-{index + 1}",
                [sys.executable, "-m", "workers.main"],
                process.build_environment,
                on_exit=process.release,
            )
        supervisor.run(until=lambda: routes_watcher.changed_text is not None)
    if routes_watcher.changed_text is not None and not supervisor.has_signal:
        _restart(routes_watcher.changed_text)


def _write_snapshot(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def _restart(routes_text: str) -> None:
    """Replace this process, whose workers have ended, by a new one with these routes.

    It reads a copy of them: the file may have changed again, and need not be valid any more.
    """
    descriptor, snapshot = tempfile.mkstemp(prefix="rapidbridge-routes-")
    os.close(descriptor)
    log.info("background.restarting", reason="the routes file has changed")
    environment = build_child_environment() | {
        ROUTES_SNAPSHOT_VARIABLE: _write_snapshot(Path(snapshot), routes_text)
    }
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606  # no shell


class _WorkerProcess:
    """A worker process with a new name at each start.

    After a restart it leases deliveries before the leases of the dead process are released.
    """

    def __init__(self, sweeper: Sweeper, routes_snapshot: str) -> None:
        self._sweeper = sweeper
        self._snapshot = routes_snapshot
        self._token = ""

    def build_environment(self) -> dict[str, str]:
        """Return the variables for the next start."""
        self._token = make_worker_token()
        variables = {WORKER_VARIABLE: self._token}
        if self._snapshot:
            variables[ROUTES_SNAPSHOT_VARIABLE] = self._snapshot
        return build_child_environment() | variables

    def release(self, pid: int) -> None:
        """Release the leases of the process that ended."""
        self._sweeper.release_worker(format_worker_name(pid, self._token))
