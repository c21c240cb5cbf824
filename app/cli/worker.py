"""rapidbridge worker: workers, the sweeper that wakes them for what was missed, and the notifier."""

import sys

import click

from app.cli.local.supervisor import Supervisor
from app.config.load import read_setup
from app.config.settings import child_environment
from app.database.engine import open_store
from app.logs import set_up_logs
from app.redis.queue import DeliveryQueue, connect
from app.redis.spool import Spool
from workers.background.monitor import Overseer
from workers.background.notification_sender import Notifier
from workers.background.retention import Pruner
from workers.background.sweeper import Sweeper
from workers.delivery.processor import worker_name


@click.command()
@click.option(
    "-n",
    "--number",
    type=click.IntRange(1, 64),
    help="How many worker processes.  [default: WORKER_CONCURRENCY, or 1]",
)
def worker(number: int | None) -> None:
    """Take deliveries from the inbox to their sinks, until SIGTERM or Ctrl-C.

    The job at hand is finished first. Any number of these may run, on any number of machines.
    """
    set_up_logs()
    setup = read_setup(needs=("REDIS_URL",))
    settings = setup.settings
    store = open_store(settings.database_url)
    redis = connect(settings.redis_url, tls_verify=settings.redis_tls_verify)
    sweeper = Sweeper(store, DeliveryQueue(redis), Spool(redis))
    sweeper.start()
    Overseer(store, setup, Spool(redis)).start()
    Notifier(store, setup.routes.notify).start()
    Pruner(store, settings.retention_days).start()
    with Supervisor() as supervisor:
        for place in range(number or settings.worker_concurrency):
            command = [sys.executable, "-m", "workers.main"]
            supervisor.start(
                f"worker-{place + 1}",
                command,
                child_environment(),
                on_end=lambda pid: sweeper.release(worker_name(pid)),
            )
        supervisor.run()
