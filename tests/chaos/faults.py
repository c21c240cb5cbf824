"""Faults that are injected into an installation and undone."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import psycopg
from psycopg import sql
from redis import Redis

from app.config.database_identity import derive_namespace
from app.redis.spool import Spool
from tests.chaos.plan import Fault, Kind
from tests.chaos.site import Program, Site
from tests.support.processes import send_signal
from tests.support.server import Server
from tests.support.waiting import wait_until

ActiveFault = AbstractContextManager[None]

# Redis alone holds spooled deliveries, so wiping it then loses them, as docs/guarantees.md says.
_WIPE_UNLESS_SPOOLED = "if redis.call('xlen', KEYS[1]) > 0 then return 0 end redis.call('flushall') return 1"
_EMPTY_SPOOL_TIMEOUT_S = 60.0


def inject_fault(site: Site, fault: Fault) -> None:
    """Inject a fault; return when it is over. Killed processes run again, but may not be ready yet."""
    with _FAULTS[fault.kind](site, fault.process_pick):
        time.sleep(fault.duration_s)


@contextmanager
def _killed(process: Server | Program) -> Iterator[None]:
    process.kill()
    yield
    process.start()


@contextmanager
def _restarted(server: Server) -> Iterator[None]:
    server.stop()
    server.start()
    yield


@contextmanager
def _deployed(program: Program) -> Iterator[None]:
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
    with Redis.from_url(site.valkey.url) as redis:
        spool = Spool(redis, derive_namespace(site.database_url))
        wait_until(
            lambda: redis.eval(_WIPE_UNLESS_SPOOLED, 1, spool.key) == 1,
            timeout_s=_EMPTY_SPOOL_TIMEOUT_S,
            what="an empty spool",
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
    _set_read_only(site.database_url, "on")
    yield
    _set_read_only(site.database_url, "off")


def _set_read_only(url: str, setting: str) -> None:
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(
                sql.Identifier(connection.info.dbname), sql.Literal(setting)
            )
        )
        # Open connections keep the old setting.
        _terminate_connections(connection)


@contextmanager
def _disconnected(site: Site) -> Iterator[None]:
    with psycopg.connect(site.database_url, autocommit=True) as connection:
        _terminate_connections(connection)
    yield


def _terminate_connections(connection: psycopg.Connection) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def _pick_process(program: Program, pick: int) -> list[int]:
    """Return the id of one process of a program, or none while the program is starting."""
    children = program.children
    return [children[pick % len(children)]] if children else []


_FAULTS: Mapping[Kind, Callable[[Site, int], ActiveFault]] = {
    "web process killed": lambda site, pick: _signalled(signal.SIGKILL, _pick_process(site.web, pick)),
    "web killed": lambda site, _: _killed(site.web),
    "web deployed": lambda site, _: _deployed(site.web),
    "web paused": lambda site, _: _paused(site.web.children),
    "worker killed": lambda site, pick: _signalled(signal.SIGKILL, _pick_process(site.workers, pick)),
    "workers killed": lambda site, _: _killed(site.workers),
    "workers deployed": lambda site, _: _deployed(site.workers),
    "worker paused": lambda site, pick: _paused(_pick_process(site.workers, pick)),
    "worker paused beyond its lease": lambda site, pick: _paused(_pick_process(site.workers, pick)),
    "Valkey killed": lambda site, _: _killed(site.valkey),
    "Valkey wiped": lambda site, _: _wiped(site),
    "Valkey paused": lambda site, _: site.valkey.stalled(),
    "Valkey full": lambda site, _: _out_of_memory(site),
    "PostgreSQL killed": lambda site, _: _killed(site.postgres),
    "PostgreSQL restarted": lambda site, _: _restarted(site.postgres),
    "PostgreSQL paused": lambda site, _: site.postgres.stalled(),
    "PostgreSQL read-only": lambda site, _: _read_only(site),
    "PostgreSQL connections cut": lambda site, _: _disconnected(site),
    "PostgreSQL and web killed": lambda site, _: _combined(_killed(site.postgres), _killed(site.web)),
    "PostgreSQL and workers killed": lambda site, _: _combined(_killed(site.postgres), _killed(site.workers)),
    "PostgreSQL and Valkey killed": lambda site, _: _combined(_killed(site.postgres), _killed(site.valkey)),
    "PostgreSQL killed and Valkey full": lambda site, _: _combined(
        _killed(site.postgres), _out_of_memory(site)
    ),
    "PostgreSQL and Valkey paused": lambda site, _: _combined(site.postgres.stalled(), site.valkey.stalled()),
}
