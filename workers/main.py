"""Starts one RQ worker in this process: `python -m workers.main`, as `rapidbridge worker` does N times."""

import signal
import sys
from types import FrameType

import structlog
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.timeouts import UnixSignalDeathPenalty

from app.config.load import Config, read_config
from app.database.engine import open_database
from app.errors import ConfigError, JobTimeout
from app.logs import configure_logging
from app.redis.queue import JOB_TIMEOUT_S, QUEUE_NAME, connect_redis
from app.sinks import SinkRegistry
from workers import jobs
from workers.delivery.processor import DeliveryProcessor

# An idle worker does no maintenance while it waits for a job, which is this long less 15 s.
_WORKER_TTL_S = 30
# How often jobs that died with their worker are looked for.
_MAINTENANCE_INTERVAL_S = 30
# What a job has to settle in, once it was interrupted.
_INTERRUPT_INTERVAL_S = 3

log = structlog.get_logger()


class RepeatingTimeout(UnixSignalDeathPenalty):
    """Interrupts a job that takes too long, and again where it does not come to its end after that."""

    def handle_death_penalty(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupt the job, wherever it is."""
        raise JobTimeout(f"it did not answer within {JOB_TIMEOUT_S} s")

    def setup_death_penalty(self) -> None:
        """Begin to count."""
        signal.signal(signal.SIGALRM, self.handle_death_penalty)
        # RQ's alarm goes off once: what the job does after that could take for ever.
        signal.setitimer(signal.ITIMER_REAL, JOB_TIMEOUT_S, _INTERRUPT_INTERVAL_S)


class ReconnectingWorker(SimpleWorker):
    """RQ's worker, but it is soon back when Redis is, and known again to one that was wiped."""

    max_connection_wait_time = 4.0
    death_penalty_class = RepeatingTimeout

    def request_force_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Finish the job at hand all the same: a platform's SIGTERM comes before our supervisor's."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say that this worker lives; after each job, and every 15 s without one."""
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]  # RQ's own
        super().heartbeat(timeout, pipeline)


def run_worker(config: Config) -> None:
    """Run jobs until SIGTERM; the job at hand is finished first. Raises RedisError where Redis is away."""
    settings = config.settings
    sinks = SinkRegistry(config.routes)
    store = open_database(settings.database_url)
    keep_late = settings.late_records == "keep"
    jobs.set_processor(DeliveryProcessor(store, config.routes, sinks.open, keep_late=keep_late))
    worker = ReconnectingWorker(
        # One queue a worker: listening on two loses the job that a killed worker had just popped.
        [QUEUE_NAME],
        connection=connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify),
        job_class=jobs.DeliveryJob,
        serializer=JSONSerializer,
        worker_ttl=_WORKER_TTL_S,
        maintenance_interval=_MAINTENANCE_INTERVAL_S,
        log_job_description=False,
    )
    try:
        # RQ's scheduler stays off: what is to be tried later stands in the inbox, where it outlives Redis,
        # and the sweeper wakes it.
        worker.work(logging_level="WARNING")
    finally:
        sinks.close()


def main() -> None:
    """Check the set-up, then work. Without Redis it ends, and whoever started it starts it again."""
    configure_logging()
    try:
        run_worker(read_config(required=("REDIS_URL",)))
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)  # noqa: T201  # for whoever starts it
        sys.exit(2)
    except RedisError as error:
        log.error("worker.without_redis", fault=type(error).__name__, hint="is REDIS_URL right and up?")
        sys.exit(3)


if __name__ == "__main__":
    main()
