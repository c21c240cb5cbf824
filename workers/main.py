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

from app.config.load import Setup, read_setup
from app.database.engine import open_store
from app.errors import ConfigError, OutOfTime
from app.logs import set_up_logs
from app.redis.queue import JOB_TIMEOUT_S, QUEUE_NAME, connect
from app.sinks import Sinks
from workers import jobs
from workers.delivery.processor import Deliverer

# An idle worker does no maintenance while it waits for a job, which is this long less 15 s.
_WORKER_TTL_S = 30
# How often jobs that died with their worker are looked for.
_MAINTENANCE_INTERVAL_S = 30
# What a job has to settle in, once it was interrupted.
_INTERRUPT_AGAIN_S = 3

log = structlog.get_logger()


class Deadline(UnixSignalDeathPenalty):
    """Interrupts a job that takes too long, and again where it does not come to its end after that."""

    def handle_death_penalty(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupt the job, wherever it is."""
        raise OutOfTime(f"it did not answer within {JOB_TIMEOUT_S} s")

    def setup_death_penalty(self) -> None:
        """Begin to count."""
        signal.signal(signal.SIGALRM, self.handle_death_penalty)
        # RQ's alarm goes off once: what the job does after that could take for ever.
        signal.setitimer(signal.ITIMER_REAL, JOB_TIMEOUT_S, _INTERRUPT_AGAIN_S)


class ReturningWorker(SimpleWorker):
    """RQ's worker, but it is soon back when Redis is, and known again to one that was wiped."""

    max_connection_wait_time = 4.0
    death_penalty_class = Deadline

    def request_force_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Finish the job at hand all the same: a platform's SIGTERM comes before our supervisor's."""

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Say that this worker lives; after each job, and every 15 s without one."""
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]  # RQ's own
        super().heartbeat(timeout, pipeline)


def work(setup: Setup) -> None:
    """Run jobs until SIGTERM; the job at hand is finished first. Raises RedisError where Redis is away."""
    settings = setup.settings
    sinks = Sinks(setup.routes)
    store = open_store(settings.database_url)
    keep_late = settings.late_records == "keep"
    jobs.prepare(Deliverer(store, setup.routes, sinks.open, keep_late=keep_late))
    worker = ReturningWorker(
        # One queue a worker: listening on two loses the job that a killed worker had just popped.
        [QUEUE_NAME],
        connection=connect(settings.redis_url, tls_verify=settings.redis_tls_verify),
        job_class=jobs.KnownJob,
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
    set_up_logs()
    try:
        work(read_setup(needs=("REDIS_URL",)))
    except ConfigError as error:
        print(*error.complaints, sep="\n", file=sys.stderr)  # noqa: T201  # for whoever starts it
        sys.exit(2)
    except RedisError as error:
        log.error("worker.without_redis", fault=type(error).__name__, hint="is REDIS_URL right and up?")
        sys.exit(3)


if __name__ == "__main__":
    main()
