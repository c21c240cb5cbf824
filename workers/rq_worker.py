"""RQ's worker and queue, which no content of Redis can stop.

Anyone who reaches Redis can write to every key that RQ reads. RQ ends its worker at the first value that it
does not expect. Here, such a value costs its own job: the sweeper enqueues the deliveries again.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.timeouts import UnixSignalDeathPenalty
from rq.utils import now
from rq.worker_registration import clean_worker_registry

from app.errors import JobTimeout
from app.logs import locate_error, log_limited
from app.redis.connection import is_wrong_type, queue_unavailable
from app.redis.queue import JOB_TIMEOUT_S, WORKERS_KEY

# The time between two interruptions of the same job.
_INTERRUPT_INTERVAL_S = 3
_LOG_INTERVAL_S = 60.0
# Errors of the connection, and exceptions of signals: none is caused by a value in Redis.
_PASSED_ON = (DequeueTimeout, StopRequested, RedisConnectionError, RedisTimeoutError, JobTimeout)


class QueueDamaged(RedisConnectionError):
    """Redis refuses to read the queue, for example a key of another type, which the sweeper deletes.

    As an error of the connection, it makes RQ wait and try again.
    """


def _warn(event: str, error: BaseException, **fields: Any) -> None:
    log_limited(event, interval_s=_LOG_INTERVAL_S, fault=type(error).__name__, **fields)


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


class JobQueue(Queue):
    """RQ's queue, which skips ids and jobs that cannot be read. No job of this project has dependents."""

    @classmethod
    def dequeue_any(cls, *arguments: Any, **options: Any) -> Any:
        """Return the next job that can be read, and its queue."""
        while True:
            try:
                return super().dequeue_any(*arguments, **options)
            except _PASSED_ON:
                raise
            except ResponseError as error:
                # RQ adds the id of the job that it could not fetch: the key of that job only is damaged.
                if not (is_wrong_type(error) and hasattr(error, "job_id")):
                    raise QueueDamaged(str(queue_unavailable(error))) from error
                _warn("job.unreadable", error)
            except Exception as error:  # noqa: BLE001  # any value in Redis may raise anything
                _warn("job.unreadable", error)

    def move_dependents_to_ready(self, *_arguments: Any, **_options: Any) -> dict[str, list[str]]:
        """Do nothing."""
        return {}


class Worker(SimpleWorker):
    """RQ's worker with a short reconnect wait, which registers again after Redis was wiped.

    It takes no commands from Redis, ignores `rq suspend`, and keeps no statistics there: this Redis may be
    shared with other programs.
    """

    max_connection_wait_time = 4.0
    death_penalty_class = RepeatingTimeout
    queue_class = JobQueue

    # Set before `work`.
    publish: Callable[[], None]

    def request_force_stop(self, _number: int, _frame: FrameType | None) -> None:
        """Ignore a second SIGTERM: the platform and the supervisor each send one."""

    def subscribe(self) -> None:
        """Do not subscribe to the channel of RQ's commands, which shut workers down."""

    def check_for_suspension(self, burst: bool) -> None:
        """Do nothing: `rq:suspended` would stop all workers of all programs in this Redis."""

    def increment_failed_job_count(self, pipeline: Pipeline | None = None) -> None:
        """Do nothing."""

    def increment_successful_job_count(self, pipeline: Pipeline | None = None) -> None:
        """Do nothing."""

    def increment_total_working_time(self, *_arguments: Any) -> None:
        """Do nothing."""

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:  # noqa: ARG002  # RQ's signature
        """Set the state in this process only."""
        self._state = state

    def register_birth(self) -> None:
        """Register this worker in the database, then in Redis."""
        # In this order: a worker that only Redis knows looks like another receiver's.
        self.publish()
        super().register_birth()  # type: ignore[no-untyped-call]  # RQ's own

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Register this worker again if Redis lost it, then renew its heartbeats."""
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
            return
        try:
            if not self._is_registered():
                self.connection.delete(self.key, self.executions_key)
                self.register_birth()
            super().heartbeat(timeout)
        except ResponseError as error:
            # The sweeper deletes a damaged set of workers, and the next heartbeat registers again.
            _warn("worker.unregistered", error)
        self.publish()

    def _is_registered(self) -> bool:
        # RQ takes a worker with a time of death for dead.
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.hexists(self.key, "birth")
            pipeline.hexists(self.key, "death")
            for queue in self.queues:
                pipeline.sismember(WORKERS_KEY.format(queue.name), self.key)
            return pipeline.execute(raise_on_error=False) == [True, False, *(True for _ in self.queues)]

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job. A key of another type, on which RQ fails, costs this job only."""
        try:
            super().execute_job(job, queue)
        except _PASSED_ON:
            raise
        except Exception as error:  # noqa: BLE001  # any value in Redis may raise anything
            _warn("job.aborted", error, location=locate_error(error))
            self.executions.clear()
            self.connection.delete(job.key, self.executions_key)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log the error of a job, without the job's arguments."""
        error = exc_info[1]
        # Its id begins with that of its first delivery.
        _warn("job.failed", error, job=job.id, location=locate_error(error))

    def run_maintenance_tasks(self) -> None:
        """Clean up after dead workers, in this queue only."""
        for queue in self.queues:
            if queue.acquire_maintenance_lock():
                self._clean_registries(queue)
                self.connection.delete(queue.registry_cleaning_key)
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ declares None

    def _clean_registries(self, queue: Queue) -> None:
        started, failed = queue.started_job_registry, queue.failed_job_registry
        try:
            started.cleanup()
            failed.cleanup()
            clean_worker_registry(queue)
            queue.intermediate_queue.cleanup(self, queue)
        except _PASSED_ON:
            raise
        except Exception as error:  # noqa: BLE001  # any value in Redis may raise anything
            # They hold ids only, and the sweeper enqueues what was in progress.
            _warn("queue.registries_deleted", error)
            self.connection.delete(started.key, failed.key, queue.intermediate_queue.key)
