"""One RQ worker process: `python -m workers.main`, started by `rapidbridge worker`."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from types import FrameType

import structlog
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.timeouts import UnixSignalDeathPenalty

from app.clock import utc_now
from app.config.load import Config, read_config
from app.config.settings import read_worker_token
from app.database.engine import Database, open_database
from app.errors import ConfigError, JobTimeout, StoreUnavailable
from app.logs import FaultLog, configure_logging
from app.redis.connection import connect_redis, queue_unavailable
from app.redis.queue import JOB_TIMEOUT_S, DeliveryQueue
from app.sinks.registry import SinkRegistry
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from workers import jobs
from workers.delivery.processor import DeliveryProcessor, format_worker_name, make_worker_token

# An idle worker waits for a job this long less 15 s, and does no maintenance meanwhile.
_WORKER_TTL_S = 30
# The interval at which RQ searches for jobs of dead workers.
_MAINTENANCE_INTERVAL_S = 30
_PUBLISH_INTERVAL_S = 10.0
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

    # Set before `work`.
    publish: Callable[[], None]

    def register_birth(self) -> None:
        """Register this worker in the database, then in Redis."""
        # In this order: a worker that only Redis knows looks like another receiver's.
        self.publish()
        super().register_birth()  # type: ignore[no-untyped-call]  # RQ's own

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Register this worker again if Redis lost it, then renew its heartbeats."""
        if pipeline is None and not self.connection.hexists(self.key, "birth"):
            self.connection.delete(self.key)
            self.register_birth()
        super().heartbeat(timeout, pipeline)
        if pipeline is None:
            self.publish()


class Publisher:
    """Writes a worker's heartbeat and configuration to the database, every few seconds at most."""

    def __init__(self, database: Database, worker: WorkerRecord) -> None:
        self._registry = WorkerRegistry(database)
        self._worker = worker
        self._due_at_s = 0.0
        self._fault = FaultLog("worker.unpublished", "worker.published", worker=worker.name)

    def publish(self) -> None:
        """Renew the heartbeat if it is due; an unavailable database is logged."""
        if time.monotonic() < self._due_at_s:
            return
        try:
            self._registry.record_heartbeat(self._worker, now=utc_now())
        except StoreUnavailable as error:
            self._fault.add(str(error))
            # Until the next heartbeat, only Redis knows this worker: it looks like another receiver's.
            return
        self._fault.end()
        self._due_at_s = time.monotonic() + _PUBLISH_INTERVAL_S

    def remove(self) -> None:
        """Remove the worker, which ends; otherwise it counts as live for a minute more."""
        with suppress(StoreUnavailable):
            self._registry.remove(self._worker.name)


def run_worker(config: Config, *, started_at: datetime) -> None:
    """Run jobs until SIGTERM, and finish the current one first; raises RedisError without Redis.

    started_at: a time before the configuration was read.
    """
    settings = config.settings
    sinks = SinkRegistry(config.routes)
    database = open_database(settings.database_url, schema=settings.database_schema)
    name = format_worker_name(os.getpid(), read_worker_token() or make_worker_token())
    processor = DeliveryProcessor(
        database,
        config.routes,
        sinks,
        name=name,
        keep_late=settings.late_records == "keep",
        to_open_run=settings.attribute_to_open_run,
        started_at=started_at,
    )
    jobs.set_processor(processor)
    delivery_config = config.delivery_config
    record = WorkerRecord(name, started_at, delivery_config.to_json(), delivery_config.digest)
    publisher = Publisher(database, record)
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    worker = ReconnectingWorker(
        # One queue for each worker: with two, RQ loses a job whose worker is killed just after popping it.
        [DeliveryQueue(redis, settings.namespace).name],
        name,
        connection=redis,
        job_class=jobs.DeliveryJob,
        serializer=JSONSerializer,
        worker_ttl=_WORKER_TTL_S,
        maintenance_interval=_MAINTENANCE_INTERVAL_S,
        log_job_description=False,
    )
    worker.publish = publisher.publish
    try:
        # RQ's scheduler stays off: retries are scheduled in the inbox, which survives a loss of Redis.
        worker.work(logging_level="WARNING")
    finally:
        publisher.remove()
        sinks.close()


def main() -> None:
    """Read the configuration and run the worker; exit if Redis is unreachable."""
    configure_logging()
    started_at = utc_now()
    try:
        run_worker(read_config(required=("REDIS_URL",)), started_at=started_at)
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)  # noqa: T201  # an entry point
        sys.exit(2)
    except RedisError as error:
        log.error("worker.disconnected", error=str(queue_unavailable(error)))
        sys.exit(3)


if __name__ == "__main__":
    main()
