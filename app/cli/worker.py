"""rapidbridge worker: worker processes and the background tasks beside them."""

import sys

import click

from app.cli.local.supervisor import Supervisor
from app.config.load import read_config
from app.config.settings import build_child_environment
from app.database.engine import open_database
from app.logs import configure_logging
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from workers.background.monitor import Monitor
from workers.background.notification_sender import NotificationDispatcher
from workers.background.retention import Pruner
from workers.background.sweeper import Sweeper
from workers.delivery.processor import format_worker_name


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
    notifications, monitors runs and prunes old bodies. Any number of these commands may run, on any number of
    machines.
    """
    configure_logging()
    config = read_config(required=("REDIS_URL",))
    settings = config.settings
    database = open_database(settings.database_url, schema=settings.database_schema)
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    sweeper = Sweeper(database, DeliveryQueue(redis), Spool(redis))
    sweeper.start()
    Monitor(database, config, Spool(redis)).start()
    NotificationDispatcher(database, config.routes.notify).start()
    Pruner(database, settings.retention_days).start()
    with Supervisor() as supervisor:
        for index in range(number or settings.worker_concurrency):
            command = [sys.executable, "-m", "workers.main"]
            supervisor.start(
                f"worker-{index + 1}",
                command,
                build_child_environment(),
                on_exit=lambda pid: sweeper.release_worker(format_worker_name(pid)),
            )
        supervisor.run()
