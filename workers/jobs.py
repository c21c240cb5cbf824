"""The only functions that RQ may run, found by name."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from rq.job import Job

from app.errors import JobTimeout, StoreUnavailable
from app.redis.queue import JOB_FUNCTION
from workers.delivery.processor import DeliveryProcessor

# The time that an interrupted job spends on releasing its deliveries.
_RELEASE_TIMEOUT_S = 3.0
_RELEASE_RETRY_INTERVAL_S = 0.5

log = structlog.get_logger()
_processor: list[DeliveryProcessor] = []


def set_processor(processor: DeliveryProcessor) -> None:
    """Set the processor that `deliver` uses in this process; call it before the first job."""
    _processor[:] = [processor]


def deliver(ids: Sequence[str]) -> None:
    """Process the deliveries with these ids."""
    try:
        _processor[0].deliver([UUID(id_) for id_ in ids])
    except (StoreUnavailable, JobTimeout) as error:
        # Nothing was saved, so nothing is lost: the sweeper enqueues the deliveries again.
        log.error("job.interrupted", deliveries=len(ids), error=str(error))
        _release_deliveries(_processor[0])


def _release_deliveries(processor: DeliveryProcessor) -> None:
    """Retry the release for a few seconds.

    If it fails, the next job releases the deliveries, or the lease ends.
    """
    deadline = time.monotonic() + _RELEASE_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            processor.release()
        except (StoreUnavailable, JobTimeout):
            time.sleep(_RELEASE_RETRY_INTERVAL_S)
        else:
            return


class DeliveryJob(Job):
    """An RQ job that runs only JOB_FUNCTION.

    Anyone who reaches Redis can write jobs. RQ would import and call any function that a job names, and send
    the webhooks that it lists.
    """

    @property
    def func(self) -> Callable[..., Any]:
        """The function to call; raises ValueError for any other name."""
        if self.instance is not None or self.func_name != JOB_FUNCTION:
            raise ValueError("this job names a function that workers do not run")
        return deliver

    def restore(self, raw_data: dict[Any, Any]) -> None:
        """Load a job without its callbacks and webhooks; this project uses neither."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
