"""One RQ worker process: `python -m workers.main`, started by `rapidbridge worker`."""

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
from app.redis.connection import connect_redis, queue_unavailable
from app.redis.queue import JOB_TIMEOUT_S, QUEUE_NAME
from app.sinks.registry import SinkRegistry
from workers import jobs
from workers.delivery.processor import DeliveryProcessor

# An idle worker waits for a job this long less 15 s, and does no maintenance meanwhile.
_WORKER_TTL_S = 30
# The interval at which RQ searches for jobs of dead workers.
_MAINTENANCE_INTERVAL_S = 30
# The time between two interruptions of the same job.
_INTERRUPT_INTERVAL_S = 3

log = structlog.get_logger()


class RepeatingTimeout(UnixSignalDeathPenalty):
    """Interrupts a job at its timeout, and again every few seconds until it ends."""

    def handle_death_penalty(self, _number: int, _frame: FrameType | None) -> None:
        """Raise JobTimeout in the running job."""
        raise JobTimeout(f"the job timed out after {JOB_TIMEOUT_S} s")

    def setup_death_penalty(self) -> None:
        """Start the timer."""
        signal.signal(signal.SIGALRM, self.handle_death_penalty)
        # RQ's own alarm fires once: the job could hang again after that.
        signal.setitimer(signal.ITIMER_REAL, JOB_TIMEOUT_S, _INTERRUPT_INTERVAL_S)


class ReconnectingWorker(SimpleWorker):
    """RQ's worker with a short reconnect wait, which registers again after Redis was wiped."""

    max_connection_wait_time = 4.0
    death_penalty_class = RepeatingTimeout

    def request_force_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ignore a second SIGTERM: the platform and the supervisor each send one."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Register this worker again if Redis lost it, then renew its heartbeat."""
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]  # RQ's own
        super().heartbeat(timeout, pipeline)


def run_worker(config: Config) -> None:
    """Run jobs until SIGTERM, and finish the current one first; raises RedisError without Redis."""
    settings = config.settings
    sinks = SinkRegistry(config.routes)
    database = open_database(settings.database_url, schema=settings.database_schema)
    keep_late = settings.late_records == "keep"
    jobs.set_processor(DeliveryProcessor(database, config.routes, sinks, keep_late=keep_late))
    worker = ReconnectingWorker(
        # One queue for each worker: with two, RQ loses a job whose worker is killed just after popping it.
        [QUEUE_NAME],
        connection=connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify),
        job_class=jobs.DeliveryJob,
        serializer=JSONSerializer,
        worker_ttl=_WORKER_TTL_S,
        maintenance_interval=_MAINTENANCE_INTERVAL_S,
        log_job_description=False,
    )
    try:
        # RQ's scheduler stays off: retries are scheduled in the inbox, which survives a loss of Redis.
        worker.work(logging_level="WARNING")
    finally:
        sinks.close()


def main() -> None:
    """Read the configuration and run the worker; exit if Redis is unreachable."""
    configure_logging()
    try:
        run_worker(read_config(required=("REDIS_URL",)))
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)  # noqa: T201  # an entry point
        sys.exit(2)
    except RedisError as error:
        log.error("worker.disconnected", error=str(queue_unavailable(error)))
        sys.exit(3)


if __name__ == "__main__":
    main()
