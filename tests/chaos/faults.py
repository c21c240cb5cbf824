"""Faults that are injected into an installation and undone."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import psycopg
from psycopg import sql
from redis import Redis

from tests.chaos.namesakes import kill_beside_namesake
from tests.chaos.plan import Fault, Kind
from tests.chaos.site import Installation, Program, Site
from tests.chaos.spools import wipe_unless_spooled
from tests.support.failover import PostgresPair
from tests.support.processes import send_signal
from tests.support.server import Server
from tests.support.waiting import wait_until

ActiveFault = AbstractContextManager[None]

_EMPTY_SPOOL_TIMEOUT_S = 60.0


def inject_fault(site: Site, fault: Fault) -> None:
    """Inject a fault; return when it is over. Killed processes run again, but may not be ready yet."""
    with _FAULTS[fault.kind](site, fault.process_pick):
        time.sleep(fault.duration_s)


@contextmanager
def _killed(*processes: Server | Program) -> Iterator[None]:
    for process in processes:
        process.kill()
    yield
    for process in processes:
        process.start()


@contextmanager
def _restarted(server: Server) -> Iterator[None]:
    server.stop()
    server.start()
    yield


@contextmanager
def _deployed(*programs: Program) -> Iterator[None]:
    for program in programs:
        program.terminate()
        program.start()
    yield


@contextmanager
def _signalled(signal_number: int, pids: Sequence[int]) -> Iterator[None]:
    send_signal(signal_number, pids)
    yield


@contextmanager
def _paused(pids: Sequence[int]) -> Iterator[None]:
    send_signal(signal.SIGSTOP, pids)
    try:
        yield
    finally:
        send_signal(signal.SIGCONT, pids)


@contextmanager
def _combined(*faults: ActiveFault) -> Iterator[None]:
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault)
        yield


@contextmanager
def _wiped(site: Site) -> Iterator[None]:
    # Redis alone holds spooled deliveries, so wiping it then loses them, as docs/guarantees.md says.
    with Redis.from_url(site.valkey.url) as redis:
        wait_until(
            lambda: wipe_unless_spooled(redis), timeout_s=_EMPTY_SPOOL_TIMEOUT_S, what="an empty spool"
        )
    yield


@contextmanager
def _out_of_memory(site: Site) -> Iterator[None]:
    with Redis.from_url(site.valkey.url) as redis:
        redis.config_set("maxmemory", 1)
        yield
        redis.config_set("maxmemory", 0)


@contextmanager
def _read_only(site: Site) -> Iterator[None]:
    with _connect(site.main.database_url) as connection:
        _set_read_only(connection, "on")
        # Open connections keep the old setting.
        _terminate_connections(connection, connection.info.dbname)
    yield
    # The connections of this time stay read-only, as they do when a provider ends its own protection.
    with _connect(site.main.database_url) as connection:
        _set_read_only(connection, "off")


def _set_read_only(connection: psycopg.Connection, setting: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(
            sql.Identifier(connection.info.dbname), sql.Literal(setting)
        )
    )


@contextmanager
def _disconnected(site: Site) -> Iterator[None]:
    with _connect(site.main.database_url) as connection:
        _terminate_connections(connection, connection.info.dbname)
    yield


@contextmanager
def _closed(postgres: PostgresPair, installation: Installation) -> Iterator[None]:
    """Close the database of one installation; the other's on the same server stays open."""
    with _connect(installation.database_url) as connection:
        database = connection.info.dbname
    with _connect(postgres.primary.url("postgres")) as connection:
        _allow_connections(connection, database, "false")
        _terminate_connections(connection, database)
        yield
        _allow_connections(connection, database, "true")


def _allow_connections(connection: psycopg.Connection, database: str, value: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(database), sql.SQL(value))
    )


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off")


def _terminate_connections(connection: psycopg.Connection, database: str) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = %s AND pid <> pg_backend_pid()",
        [database],
    )


@contextmanager
def _killed_beside_namesake(site: Site) -> Iterator[None]:
    site.released_leases.extend(kill_beside_namesake(site.main))
    yield


def _pick_process(programs: Sequence[Program], pick: int) -> list[int]:
    """Return the id of one process of some programs, or none while they are starting."""
    children = [pid for program in programs for pid in program.children]
    return [children[pick % len(children)]] if children else []


_FAULTS: Mapping[Kind, Callable[[Site, int], ActiveFault]] = {
    "web process killed": lambda site, pick: _signalled(signal.SIGKILL, _pick_process([site.main.web], pick)),
    "web killed": lambda site, _: _killed(site.main.web),
    "web deployed": lambda site, _: _deployed(site.main.web),
    "web paused": lambda site, _: _paused(site.main.web.children),
    "worker killed": lambda site, pick: _signalled(signal.SIGKILL, _pick_process(site.main.workers, pick)),
    "worker killed beside its namesake": lambda site, _: _killed_beside_namesake(site),
    "workers killed": lambda site, _: _killed(*site.main.workers),
    "workers deployed": lambda site, _: _deployed(*site.main.workers),
    "worker paused": lambda site, pick: _paused(_pick_process(site.main.workers, pick)),
    "worker paused beyond its lease": lambda site, pick: _paused(_pick_process(site.main.workers, pick)),
    "Valkey killed": lambda site, _: _killed(site.valkey.primary),
    "Valkey wiped": lambda site, _: _wiped(site),
    "Valkey paused": lambda site, _: site.valkey.primary.stalled(),
    "Valkey full": lambda site, _: _out_of_memory(site),
    "Valkey failed over": lambda site, _: site.valkey.failed_over(),
    "PostgreSQL killed": lambda site, _: _killed(site.postgres.primary),
    "PostgreSQL restarted": lambda site, _: _restarted(site.postgres.primary),
    "PostgreSQL paused": lambda site, _: site.postgres.primary.stalled(),
    "PostgreSQL read-only": lambda site, _: _read_only(site),
    "PostgreSQL connections cut": lambda site, _: _disconnected(site),
    "PostgreSQL failed over": lambda site, _: site.postgres.failed_over(),
    "main database closed": lambda site, _: _closed(site.postgres, site.main),
    "neighbour database closed": lambda site, _: _closed(site.postgres, site.neighbour),
    "PostgreSQL and web killed": lambda site, _: _combined(
        _killed(site.postgres.primary), _killed(site.main.web)
    ),
    "PostgreSQL and workers killed": lambda site, _: _combined(
        _killed(site.postgres.primary), _killed(*site.main.workers)
    ),
    "PostgreSQL and Valkey killed": lambda site, _: _combined(
        _killed(site.postgres.primary), _killed(site.valkey.primary)
    ),
    "PostgreSQL killed and Valkey full": lambda site, _: _combined(
        _killed(site.postgres.primary), _out_of_memory(site)
    ),
    "PostgreSQL and Valkey paused": lambda site, _: _combined(
        site.postgres.primary.stalled(), site.valkey.primary.stalled()
    ),
}
