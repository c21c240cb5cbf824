"""rapidbridge worker: worker processes and the background tasks beside them."""

import os
import sys

import click

from app.cli.local.supervisor import Supervisor
from app.config.load import read_config
from app.config.settings import WORKER_VARIABLE, build_child_environment
from app.config.summary import log_start
from app.database.engine import open_database
from app.errors import ConfigError
from app.logs import configure_logging
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.sinks.probe import find_unloadable_functions
from workers.background.monitor import Monitor
from workers.background.notification_sender import NotificationDispatcher
from workers.background.operation_runner import OperationRunner
from workers.background.other_spools import OtherSpools
from workers.background.releaser import Releaser
from workers.background.replay_feeder import ReplayFeeder
from workers.background.retention import Pruner
from workers.background.sink_monitor import SetUpMonitor
from workers.background.sweeper import Sweeper
from workers.delivery.processor import format_worker_name, make_worker_token


@click.command()
@click.option(
    "-n",
    "--number",
    type=click.IntRange(1, 64),
    help="Number of worker processes.  [default: WORKER_CONCURRENCY, or 1]",
)
def worker(number: int | None) -> None:
    """Write received deliveries to their sinks.

    The command runs until SIGTERM or Ctrl-C; deliveries in progress are finished first. It also sends
    notifications, carries out replays and discards, monitors runs and prunes old bodies. Any number of these
    commands may run, on any number of machines.
    """
    config = read_config(required=("REDIS_URL",))
    settings = config.settings
    configure_logging(settings.log_format)
    if problems := list(find_unloadable_functions(config.routes)):
        raise ConfigError([f"{config.routes_file}: {problem}" for problem in problems])
    number = number or settings.worker_concurrency
    log_start("background", config, workers=number)
    database = open_database(settings.database_url, schema=settings.database_schema)
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    spool = Spool(redis, settings.namespace, settings)
    queue = DeliveryQueue(redis, settings.namespace)
    sweeper = Sweeper(database, queue, spool)
    dispatcher = NotificationDispatcher(database, config.routes.notify, public_url=settings.public_url)
    tasks = [
        sweeper,
        Releaser(database),
        OtherSpools(database, redis, settings),
        SetUpMonitor(config.routes),
        *dispatcher.tasks,
        Pruner(database, settings.retention_days),
        OperationRunner(database, owner=format_worker_name(os.getpid(), make_worker_token())),
        ReplayFeeder(database, queue),
    ]
    for task in (*tasks, Monitor(database, config, spool, tasks=tasks)):
        task.start()
    with Supervisor() as supervisor:
        for index in range(number):
            process = _WorkerProcess(sweeper)
            supervisor.start(
                f"worker-{index + 1}",
                [sys.executable, "-m", "workers.main"],
                process.build_environment,
                on_exit=process.release,
            )
        supervisor.run()


class _WorkerProcess:
    """A worker process with a new name at each start.

    After a restart it leases deliveries before the leases of the dead process are released.
    """

    def __init__(self, sweeper: Sweeper) -> None:
        self._sweeper = sweeper
        self._token = ""

    def build_environment(self) -> dict[str, str]:
        """Return the variables for the next start."""
        self._token = make_worker_token()
        return build_child_environment() | {WORKER_VARIABLE: self._token}

    def release(self, pid: int) -> None:
        """Release the leases of the process that ended."""
        self._sweeper.release_worker(format_worker_name(pid, self._token))
