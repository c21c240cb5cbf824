"""The number of jobs that a web process makes of deliveries in quick succession."""

import json
import time
from pathlib import Path

import pytest
from redis import Redis

from app.database.engine import open_database
from app.redis.queue import WORKERS_KEY
from app.store.migrate import migrate
from tests.support.redis_keys import open_queue
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess

WORKERS = 100
SENT_S = 1.0
# The shortest time between two jobs while the workers are busy, and while they are idle.
BUSY_GATHER_S, GATHER_S = 0.05, 0.02


@pytest.mark.parametrize(("waiting_jobs", "gather_s"), [(WORKERS, BUSY_GATHER_S), (0, GATHER_S)])
def test_deliveries_share_a_job_and_more_of_them_while_workers_are_busy(
    tmp_path: Path, redis_url: str, redis: Redis, waiting_jobs: int, gather_s: float
) -> None:
    url = f"sqlite:///{tmp_path}/inbox.db"
    store = open_database(url)
    migrate(store)
    queue = open_queue(redis, store)
    store.close()
    key = f"rq:queue:{queue.name}"

    def count_deliveries() -> int:
        # The id of a job has the number of its deliveries behind the id of the first one.
        ids = [job for job in redis.lrange(key, waiting_jobs, -1) if isinstance(job, bytes)]
        return sum(int(job.split(b"-")[5]) for job in ids)

    for number in range(WORKERS):
        redis.sadd(WORKERS_KEY.format(queue.name), f"rq:worker:{number}")
    for number in range(waiting_jobs):
        redis.rpush(key, f"job-{number}")

    with WebProcess(tmp_path, database_url=url, redis_url=redis_url) as web:
        started_s = time.monotonic()
        sent = 0
        while time.monotonic() < started_s + SENT_S:
            body = json.dumps({"id": f"{sent}", "event": "sync_job_run:record", "payload": {"records": []}})
            assert web.post(body.encode()).status == "accepted"
            sent += 1
        took_s = time.monotonic() - started_s
        wait_until(lambda: count_deliveries() == sent, what="all jobs")

    jobs = len(redis.lrange(key, waiting_jobs, -1))
    # Not all of them have waited for another one.
    assert 1 < jobs <= 2 + took_s / gather_s
