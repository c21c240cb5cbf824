"""A sink that accepts connections and never answers delays only its own records."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select, update

from app.database.engine import Database, open_database
from app.redis.queue import JOB_TIMEOUT_S
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.schema import sink_outcomes, sink_states
from app.web.enqueuer import NewDelivery
from tests.integration.test_workers import put
from tests.support.postgres import PostgresServer
from tests.support.processes import Command
from tests.support.redis_keys import open_queue
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

pytestmark = pytest.mark.chaos

ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[sinks.warehouse]
type = "sql"
url = "$WAREHOUSE_URL"

[sinks.another]
type = "sql"
url = "$WAREHOUSE_URL"

[[routes]]
sinks = ["main", "warehouse", "another"]
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    engine = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(engine)
    yield engine
    engine.close()


def test_stalled_sinks_delay_no_other_and_get_everything_when_they_answer_again(
    tmp_path: Path, store: Database, private_postgres: PostgresServer, redis_url: str
) -> None:
    inbox = Inbox(store)
    (tmp_path / "routes.toml").write_text(ROUTES)
    settings = make_environment(
        DATABASE_URL=f"sqlite:///{tmp_path}/store.db",
        REDIS_URL=redis_url,
        ROUTES_FILE=str(tmp_path / "routes.toml"),
    )

    def count(sink: str, state: str) -> int:
        statement = select(sink_outcomes).where(sink_outcomes.c.sink == sink, sink_outcomes.c.state == state)
        with store.engine.connect() as connection:
            return len(connection.execute(statement).all())

    with private_postgres.database() as url, Redis.from_url(redis_url) as redis:
        redis.flushall()
        arguments = ["app.cli", "worker", "-n", "1"]
        variables = settings | {"WAREHOUSE_URL": url}
        with Command(arguments, folder=tmp_path, environment=variables) as worker:
            queue = open_queue(redis, store)

            def send(first: int, last: int) -> None:
                queue.enqueue([NewDelivery(put(inbox, number)) for number in range(first, last)])

            send(0, 10)
            wait_until(lambda: count("another", "done") == 10, what=lambda: worker.log)
            with private_postgres.stalled():
                send(10, 60)
                # Each stalled sink exceeds the timeout of one job; then its breaker opens.
                wait_until(
                    lambda: count("main", "done") == 60,
                    timeout_s=2 * JOB_TIMEOUT_S + 15,
                    what=lambda: worker.log,
                )
                assert (count("warehouse", "failing"), count("another", "failing")) == (50, 50)
            # The server stalls a statement until the job ends, or the opening of another connection.
            stalls = (f"the job timed out after {JOB_TIMEOUT_S} s", "the connection failed")
            assert any(stall in worker.log for stall in stalls)
            assert "job.interrupted" not in worker.log
        # As if the time of the next trial had come.
        with store.engine.begin() as connection:
            connection.execute(update(sink_states).values(retry_at=datetime.now(UTC)))
        with Command(arguments, folder=tmp_path, environment=variables) as worker:
            wait_until(lambda: inbox.count_by_state().get("settled") == 60, what=lambda: worker.log)
        assert {count(sink, "done") for sink in ("main", "warehouse", "another")} == {60}
