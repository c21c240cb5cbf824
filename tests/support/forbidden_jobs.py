"""A job callback that a worker must never run."""

from redis import Redis
from rq.job import Job

FORBIDDEN_JOB_RAN_KEY = "forbidden-job:ran"


def spring(_job: Job, connection: Redis, *_: object) -> None:
    """Leave a trace in Redis."""
    connection.set(FORBIDDEN_JOB_RAN_KEY, 1)
