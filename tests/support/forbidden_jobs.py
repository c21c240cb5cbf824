"""What must never be run by a worker."""

from redis import Redis
from rq.job import Job

FORBIDDEN_JOB_RAN_KEY = "trap:sprung"


def spring(_job: Job, connection: Redis, *_: object) -> None:
    """A callback that leaves a trace in Redis."""
    connection.set(FORBIDDEN_JOB_RAN_KEY, 1)
