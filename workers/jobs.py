"""What RQ may run: the functions of this file, found by name, and nothing else."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from rq.job import Job

from app.errors import OutOfTime, StoreUnavailable
from app.redis.queue import JOB_FUNCTION
from workers.delivery.processor import Deliverer

# How long an interrupted job waits for the store, to leave nothing in hand.
_PATIENCE_S = 3.0
_ASK_EVERY_S = 0.5

log = structlog.get_logger()
_deliverer: list[Deliverer] = []


def prepare(deliverer: Deliverer) -> None:
    """Set what `deliver` works with in this process; call it before the first job."""
    _deliverer[:] = [deliverer]


def deliver(ids: Sequence[str]) -> None:
    """Bring deliveries from the inbox to their sinks."""
    try:
        _deliverer[0].deliver([UUID(id_) for id_ in ids])
    except (StoreUnavailable, OutOfTime) as error:
        # Nothing was settled, so nothing is lost: the sweeper wakes a worker again.
        log.error("job.interrupted", deliveries=len(ids), error=str(error))
        _let_go(_deliverer[0])


def _let_go(deliverer: Deliverer) -> None:
    """Wait a little for the store; the next job lets go of what this one cannot, or the lease ends."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            deliverer.let_go()
        except (StoreUnavailable, OutOfTime):
            time.sleep(_ASK_EVERY_S)
        else:
            return


class KnownJob(Job):
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
