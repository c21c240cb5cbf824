"""One RQ worker process: `python -m workers.main`, started by `rapidbridge worker`."""

import os
import sys
import time
from contextlib import suppress
from datetime import datetime

import structlog
from redis.exceptions import RedisError
from rq.serializers import JSONSerializer

from app.clock import utc_now
from app.config.load import Config, read_config
from app.config.settings import read_otel_variables, read_worker_token
from app.config.summary import log_start
from app.config.version import VERSION
from app.database.engine import Database
from app.errors import ConfigError, StoreUnavailable
from app.garbage_collection import freeze_start_objects
from app.logs import FaultLog, configure_logging
from app.redis.connection import connect_redis, queue_unavailable
from app.redis.queue import DeliveryQueue
from app.sinks.registry import SinkRegistry
from app.store.store_database import open_store
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from app.tracing import tracing
from workers import jobs
from workers.delivery.load_runner import LoadRunner
from workers.delivery.processor import DeliveryProcessor, format_worker_name, make_worker_token
from workers.rq_worker import Worker

# An idle worker waits for a job this long less 15 s, and does no maintenance meanwhile.
_WORKER_TTL_S = 30
# The interval at which RQ searches for jobs of dead workers.
_MAINTENANCE_INTERVAL_S = 30
_PUBLISH_INTERVAL_S = 10.0

log = structlog.get_logger()


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
    database = open_store(settings)
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
    load_runner = LoadRunner(
        database,
        config.routes,
        sinks,
        processor.work,
        worker=name,
        config=config.delivery_config.digest,
        to_open_run=settings.attribute_to_open_run,
        started_at=started_at,
    )
    jobs.set_processor(processor, load_runner)
    delivery_config = config.delivery_config
    record = WorkerRecord(name, started_at, delivery_config.to_json(), delivery_config.digest)
    publisher = Publisher(database, record)
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    jobs.DeliveryJob.queue_name = DeliveryQueue(redis, settings.namespace).name
    worker = Worker(
        # One queue for each worker: with two, RQ loses a job whose worker is killed just after popping it.
        [jobs.DeliveryJob.queue_name],
        name,
        connection=redis,
        job_class=jobs.DeliveryJob,
        serializer=JSONSerializer,
        worker_ttl=_WORKER_TTL_S,
        maintenance_interval=_MAINTENANCE_INTERVAL_S,
        log_job_description=False,
    )

    # Called after each job, and every few seconds without one; `publish` also during a job.
    worker.publish = publisher.publish
    worker.save_totals = processor.work.flush
    log_start("worker", config, worker=name)
    freeze_start_objects()
    try:
        # RQ's scheduler stays off: retries are scheduled in the inbox, which survives a loss of Redis.
        worker.work(logging_level="WARNING")
    finally:
        processor.work.flush(is_last=True)
        publisher.remove()
        sinks.close()
        tracing.stop()


def main() -> None:
    """Read the configuration and run the worker; exit if Redis is unreachable."""
    started_at = utc_now()
    try:
        config = read_config(required=("REDIS_URL",))
        configure_logging(config.settings.log_format)
        tracing.start("worker", read_otel_variables(), version=VERSION)
        run_worker(config, started_at=started_at)
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)  # noqa: T201  # an entry point
        sys.exit(2)
    except RedisError as error:
        log.error("worker.disconnected", error=str(queue_unavailable(error)))
        sys.exit(3)


if __name__ == "__main__":
    main()
