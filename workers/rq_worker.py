"""RQ's worker and queue, which no content of Redis can stop.

Anyone who reaches Redis can write to every key that RQ reads. RQ ends its worker at the first value that it
does not expect. Here, such a value costs its own job: the feeder enqueues the deliveries again.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread
from types import FrameType
from typing import Any, ClassVar

from redis.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.timeouts import UnixSignalDeathPenalty
from rq.utils import now
from rq.worker_registration import clean_worker_registry

from app.errors import JobTimeout, WorkerStopping
from app.logs import locate_error, log_limited
from app.redis.connection import is_wrong_type, queue_unavailable
from app.redis.queue import JOB_TIMEOUT_S, WORKERS_KEY

# The time between two interruptions of the same job.
_INTERRUPT_INTERVAL_S = 3
# A worker counts as dead after 45 s without a heartbeat.
_MAX_SILENT_S = 30
_HEARTBEAT_INTERVAL_S = 10.0
# RQ also sends heartbeats between taking a job and running it, while its delivery waits.
_AFTER_JOB_INTERVAL_S = 1.0
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

    _stop_timeout_s: ClassVar[float] = math.inf

    def handle_death_penalty(self, _number: int, _frame: FrameType | None) -> None:
        """Raise JobTimeout in the running job."""
        raise JobTimeout(f"the job timed out after {self._timeout} s")

    def setup_death_penalty(self) -> None:
        """Start the timer."""
        signal.signal(signal.SIGALRM, self.handle_death_penalty)
        # RQ's own alarm fires once: the job could hang again after that.
        signal.setitimer(signal.ITIMER_REAL, self._timeout, _INTERRUPT_INTERVAL_S)
        # The worker may have been stopped just before.
        self.stop_within(self._stop_timeout_s)

    @classmethod
    def stop_within(cls, timeout_s: float) -> None:
        """Raise WorkerStopping in the running job, or in the next one, if it takes longer."""
        cls._stop_timeout_s = timeout_s
        rest_s, _ = signal.getitimer(signal.ITIMER_REAL)
        if rest_s > timeout_s:
            signal.signal(signal.SIGALRM, cls._stop_job)
            signal.setitimer(signal.ITIMER_REAL, timeout_s, _INTERRUPT_INTERVAL_S)

    @staticmethod
    def _stop_job(_number: int, _frame: FrameType | None) -> None:
        raise WorkerStopping("the worker was stopped during the job")


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

    # Set before `work`. publish: also called by the thread of heartbeats.
    publish: Callable[[], None]
    save_totals: Callable[[], None]

    _renewed_at_s = -math.inf
    _has_run_job = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the running job, but not a load that takes longer than other jobs may: platforms kill."""
        RepeatingTimeout.stop_within(JOB_TIMEOUT_S)
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]  # RQ's own

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
        """Register this worker again if Redis lost it, and renew its heartbeats; save its totals.

        The heartbeats are renewed once a second after jobs, otherwise every ten seconds.
        """
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
            return
        is_after_job, self._has_run_job = self._has_run_job, False
        interval_s = _AFTER_JOB_INTERVAL_S if is_after_job else _HEARTBEAT_INTERVAL_S
        now_s = time.monotonic()
        is_due = now_s - self._renewed_at_s >= interval_s
        if is_due:
            self._renew(timeout)
            self._renewed_at_s = now_s
        if is_due or is_after_job:
            self.save_totals()

    def _renew(self, timeout: int | None = None) -> None:
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
        self._has_run_job = True
        is_long = (job.timeout or 0) > _MAX_SILENT_S
        try:
            with self._send_heartbeats() if is_long else nullcontext():
                super().execute_job(job, queue)
        except _PASSED_ON:
            raise
        except Exception as error:  # noqa: BLE001  # any value in Redis may raise anything
            _warn("job.aborted", error, location=locate_error(error))
            # The next heartbeat finds out whether Redis still knows this worker.
            self._renewed_at_s = -math.inf
            self.executions.clear()
            self.connection.delete(job.key, self.executions_key)

    @contextmanager
    def _send_heartbeats(self) -> Iterator[None]:
        """Renew the heartbeats from a thread: the job may take minutes."""
        ended = Event()
        thread = Thread(target=self._renew_until, args=(ended,), name="heartbeats", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _renew_until(self, ended: Event) -> None:
        # They interrupt the job, which the main thread runs.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not ended.wait(_HEARTBEAT_INTERVAL_S):
            try:
                self._renew()
            except RedisError as error:
                _warn("worker.heartbeat_failed", error)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log the error of a job, without the job's arguments."""
        error = exc_info[1]
        self._renewed_at_s = -math.inf
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
            # They hold ids only, and the feeder enqueues what was in progress.
            _warn("queue.registries_deleted", error)
            self.connection.delete(started.key, failed.key, queue.intermediate_queue.key)
