"""The only functions that RQ may run, found by name."""

import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from uuid import UUID

import structlog
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus

from app.errors import JobTimeout, StoreUnavailable
from app.redis.queue import (
    FAILED_JOB_TTL_S,
    IDS_PER_JOB,
    JOB_FUNCTION,
    JOB_TIMEOUT_S,
    LOAD_FUNCTION,
    LOAD_TIMEOUTS_S,
    LONG_LOAD_FUNCTION,
)
from app.tracing import tracing
from workers.delivery.load_runner import LoadRunner
from workers.delivery.processor import DeliveryProcessor

# The time that an interrupted job spends on releasing its deliveries.
_RELEASE_TIMEOUT_S = 3.0
_RELEASE_RETRY_INTERVAL_S = 0.5
# The field of a job's hash with its function and arguments: 32 ids have 1,300 bytes.
_DATA = "data"
_MAX_DATA_BYTES = 65536

log = structlog.get_logger()
_processor: list[DeliveryProcessor] = []
_load_runner: list[LoadRunner] = []


def set_processor(processor: DeliveryProcessor, load_runner: LoadRunner) -> None:
    """Set the objects that jobs use in this process; call it before the first job."""
    _processor[:] = [processor]
    _load_runner[:] = [load_runner]


def deliver(ids: object) -> None:
    """Process the deliveries with these ids; raises ValueError if they are no list of ids."""
    parsed_ids = _parse_ids(ids)
    try:
        with tracing.start_span("job", kind="consumer", parent="", deliveries=len(parsed_ids)):
            _processor[0].deliver(parsed_ids)
    except (StoreUnavailable, JobTimeout) as error:
        # Nothing was saved, so nothing is lost: the feeder enqueues the deliveries again.
        log.error("job.interrupted", number=len(parsed_ids), deliveries=parsed_ids, error=str(error))
        _retry_release(_processor[0].release)


def load(load_id: object) -> None:
    """Run the load with this id; raises ValueError if it is none."""
    _run_load(load_id, LOAD_TIMEOUTS_S[LOAD_FUNCTION])


def load_long(load_id: object) -> None:
    """Run a load of a slow destination, as `load` does."""
    _run_load(load_id, LOAD_TIMEOUTS_S[LONG_LOAD_FUNCTION])


def _run_load(load_id: object, timeout_s: int) -> None:
    if not isinstance(load_id, str):
        raise ValueError("the job's argument is no id")
    parsed_id = UUID(load_id)
    try:
        with tracing.start_span("load", kind="consumer", parent=""):
            _load_runner[0].run(parsed_id, timeout_s=timeout_s)
    except (StoreUnavailable, JobTimeout) as error:
        # The planner enqueues the load again: it is written from its start.
        log.error("load.interrupted", load=load_id, error=str(error))
        _retry_release(_load_runner[0].release)


def _parse_ids(ids: object) -> list[UUID]:
    if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
        raise ValueError("the job's argument is no list of ids")
    # The feeder enqueues the deliveries of any others: a job must end before its timeout.
    return [UUID(id_) for id_ in ids[:IDS_PER_JOB]]


def _retry_release(release: Callable[[], None]) -> None:
    """Retry the release of an interrupted job's leases for a few seconds.

    If it fails, the next job releases them, or the lease ends.
    """
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            release()
        except (StoreUnavailable, JobTimeout):
            time.sleep(_RELEASE_RETRY_INTERVAL_S)
        else:
            return


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    JOB_FUNCTION: deliver,
    LOAD_FUNCTION: load,
    LONG_LOAD_FUNCTION: load_long,
}


class DeliveryJob(Job):
    """An RQ job that runs only the functions of this module.

    Anyone who reaches Redis can write jobs. RQ would import and call any function that a job names, send the
    webhooks that it lists, and repeat it as often as it says. Of a job's hash, only the ids are read.
    """

    # The only queue of this process; set before the first job.
    queue_name: ClassVar[str] = ""

    @property
    def func(self) -> Callable[..., Any]:
        """The function to call; raises ValueError for any other name."""
        function = _FUNCTIONS.get(str(self.func_name))
        if self.instance is not None or function is None:
            raise ValueError("this job names a function that workers do not run")
        return function

    def refresh(self) -> None:
        """Load the job from Redis; raises NoSuchJobError, or ValueError for too much data."""
        if int(self.connection.hstrlen(self.key, _DATA)) > _MAX_DATA_BYTES:
            raise ValueError("the job has too much data")
        self.restore({_DATA: self.connection.hget(self.key, _DATA) or b""})

    def restore(self, raw_data: Mapping[Any, Any]) -> None:
        """Load a job from its hash: its data, and our own values for everything else."""
        data = raw_data.get(_DATA.encode(), raw_data.get(_DATA))
        if not data:
            raise NoSuchJobError("the job has no data")
        data = _inflate(data)
        super().restore(
            {
                _DATA: data,
                "origin": self.queue_name,
                "status": JobStatus.QUEUED,
                "timeout": _get_timeout_s(data),
                # As text: RQ takes the number 0 for a missing value.
                "result_ttl": "0",
                "failure_ttl": str(FAILED_JOB_TTL_S),
            }
        )


def _get_timeout_s(data: bytes) -> int:
    """Return the timeout of a job by the function that its data begin with."""
    timeouts_s = (
        timeout_s
        for function, timeout_s in LOAD_TIMEOUTS_S.items()
        if data.startswith(f'["{function}",'.encode())
    )
    return next(timeouts_s, JOB_TIMEOUT_S)


def _inflate(data: bytes) -> bytes:
    """Return the data of a job, uncompressed; raises ValueError if it is too long or damaged."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, _MAX_DATA_BYTES)
    except zlib.error as error:
        raise ValueError("the job's data is damaged") from error
    if not inflater.eof:
        raise ValueError("the job has too much data")
    return plain
