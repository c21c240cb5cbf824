"""What RQ may run: the functions of this file, found by name, and nothing else."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from rq.job import Job

from app.errors import JobTimeout, StoreUnavailable
from app.redis.queue import JOB_FUNCTION
from workers.delivery.processor import DeliveryProcessor

# How long an interrupted job waits for the store, to leave nothing in hand.
_RELEASE_TIMEOUT_S = 3.0
_RELEASE_RETRY_INTERVAL_S = 0.5

log = structlog.get_logger()
_processor: list[DeliveryProcessor] = []


def set_processor(processor: DeliveryProcessor) -> None:
    """Set what `deliver` works with in this process; call it before the first job."""
    _processor[:] = [processor]


def deliver(ids: Sequence[str]) -> None:
    """Bring deliveries from the inbox to their sinks."""
    try:
        _processor[0].deliver([UUID(id_) for id_ in ids])
    except (StoreUnavailable, JobTimeout) as error:
        # Nothing was settled, so nothing is lost: the sweeper wakes a worker again.
        log.error("job.interrupted", deliveries=len(ids), error=str(error))
        _release_deliveries(_processor[0])


def _release_deliveries(processor: DeliveryProcessor) -> None:
    """Wait a little for the store; the next job lets go of what this one cannot, or the lease ends."""
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            processor.release()
        except (StoreUnavailable, JobTimeout):
            time.sleep(_RELEASE_RETRY_INTERVAL_S)
        else:
            return


class DeliveryJob(Job):
    """A job that can only be one of ours.

    Whoever reaches Redis can write jobs: RQ would import and call any name it finds in one, and would send
    webhooks. Here only JOB_FUNCTION resolves.
    """

    @property
    def func(self) -> Callable[..., Any]:
        """The function to call; raises ValueError for any other name."""
        if self.instance is not None or self.func_name != JOB_FUNCTION:
            raise ValueError("this job names a function that workers do not run")
        return deliver

    def restore(self, raw_data: dict[Any, Any]) -> None:
        """Load a job without the callbacks and webhooks that ours never have."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
