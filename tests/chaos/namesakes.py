"""Two workers with one host name and one process id, of which one is killed."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select

from app.database.engine import Database, open_database
from app.store.models import DeliveryState
from app.store.schema import deliveries
from tests.chaos.site import Installation, Program
from tests.support.container import find_pid_in_container
from tests.support.processes import send_signal
from tests.support.waiting import wait_until

_TIMEOUT_S = 30.0
# The log of a supervisor contains it once the leases of an ended worker are released.
_RELEASED_EVENT = "worker.lost"
# Leases must outlast the test of them.
_MIN_LEASE_S = 25.0
_MAX_STARTS = 5
# Not the deliveries that wait for a retry, which no worker has.
_LEASES = select(deliveries.c.id, deliveries.c.leased_until).where(
    deliveries.c.state == DeliveryState.PENDING,
    deliveries.c.leased_by != "",
    deliveries.c.leased_until.is_not(None),
)


def kill_beside_namesake(installation: Installation) -> list[str]:
    """Kill a worker while its namesake has leases; return a description of each lease that was released.

    The installation has two programs with one worker each, in containers.
    """
    first, second = installation.workers
    with closing(open_database(installation.database_url)) as database:
        first.terminate()
        second.terminate()
        second.start()
        with _paused_with_leases(second, database) as leases:
            _start_with_same_pid(first, second)
            released_before = _count_releases(first)
            send_signal(signal.SIGKILL, first.children)
            wait_until(
                lambda: _count_releases(first) > released_before,
                timeout_s=_TIMEOUT_S,
                what=f"{_RELEASED_EVENT} in {first.log}",
            )
            now, leases_now = datetime.now(UTC), _read_leases(database)
    return [
        f"delivery {id_}, leased until {leased_until}, by the death of another worker"
        for id_, leased_until in leases.items()
        if leased_until > now and leases_now.get(id_) != leased_until
    ]


@contextmanager
def _paused_with_leases(program: Program, database: Database) -> Iterator[Mapping[UUID, datetime]]:
    """Pause a program's worker while it has leases; yield their ends by delivery."""
    paused: list[int] = []
    leases: dict[UUID, datetime] = {}

    def pause_with_leases() -> bool:
        paused[:] = program.children
        send_signal(signal.SIGSTOP, paused)
        # A worker that has just ended may still have leases.
        if len(paused) == 1:
            leases.update(_read_unlocked_leases(database))
        if not leases:
            send_signal(signal.SIGCONT, paused)
        return bool(leases)

    try:
        wait_until(pause_with_leases, timeout_s=_TIMEOUT_S, what="a worker with leases")
        yield leases
    finally:
        send_signal(signal.SIGCONT, paused)


def _start_with_same_pid(program: Program, other: Program) -> None:
    """Start a program whose worker has the process id of the other program's worker."""
    [namesake] = other.children
    for _ in range(_MAX_STARTS):
        program.start()
        wait_until(lambda: bool(program.children), timeout_s=_TIMEOUT_S, what="a worker")
        [worker] = program.children
        if find_pid_in_container(worker) == find_pid_in_container(namesake):
            return
        program.terminate()
    raise AssertionError(f"after {_MAX_STARTS} starts no worker had the process id of the other")


def _count_releases(program: Program) -> int:
    return program.log.read_text().count(_RELEASED_EVENT)


def _read_unlocked_leases(database: Database) -> dict[UUID, datetime]:
    """Return the leases of workers that no transaction is about to end."""
    lasting = deliveries.c.leased_until > datetime.now(UTC) + timedelta(seconds=_MIN_LEASE_S)
    statement = _LEASES.where(lasting).with_for_update(skip_locked=True)
    with database.transaction() as connection:
        return {row.id: row.leased_until for row in connection.execute(statement)}


def _read_leases(database: Database) -> dict[UUID, datetime]:
    return {row.id: row.leased_until for row in database.read(_LEASES)}
