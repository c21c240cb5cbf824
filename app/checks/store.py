"""The store: reachable, durable, up to date, with room, and not behind."""

from collections.abc import Iterator
from datetime import UTC, datetime

from app.checks.check_result import (
    CheckResult,
    evaluate_file_system,
    evaluate_free_space,
    evaluate_latency,
    fail,
    ok,
    warn,
)
from app.checks.disk import read_file_system, read_free_bytes
from app.config.load import Config
from app.database.diagnostics import (
    DatabaseInfo,
    connection_error_reason,
    database_file,
    inspect_database,
    missing_file,
)
from app.database.engine import Database, open_database, redact_url
from app.errors import StoreUnavailable
from app.store.failures import FailingSink, find_failing_sinks
from app.store.migrate import is_current
from app.store.pending import PendingDeliveries

_COMPONENT = "store"
_MIGRATE = "Run: rapidbridge migrate"
_MIN_VERSIONS = {"PostgreSQL": (12,), "SQLite": (3, 35)}
# A pool of the store's; see app/database/engine.py.
_MAX_CONNECTIONS_PER_PROCESS = 6
_SKEW_LIMITS_S = (2.0, 30.0)
_BACKLOG_LIMITS_S = (60.0, 900.0)


def check_store(config: Config) -> Iterator[CheckResult]:
    """Look at the store; a later part that fails takes none of the earlier findings away."""
    url = config.settings.database_url
    if missing := missing_file(url):
        yield fail(_COMPONENT, "reachable", f"there is no file {missing} yet", _MIGRATE)
        yield evaluate_free_space(_COMPONENT, read_free_bytes(missing.parent))
        yield from evaluate_file_system(_COMPONENT, read_file_system(missing.parent))
        return
    store = open_database(url, lock_timeout_s=3.0)
    try:
        info = inspect_database(store)
        yield ok(_COMPONENT, "reachable", redact_url(url))
        yield from evaluate_database(info, max_connections=count_max_connections(config))
        if path := database_file(url):
            yield evaluate_free_space(_COMPONENT, read_free_bytes(path.parent))
            yield from evaluate_file_system(_COMPONENT, read_file_system(path.parent))
        yield from _check_tables(store)
    except StoreUnavailable as error:
        advice = "See that DATABASE_URL is right, and that the server is up and lets this machine in."
        yield fail(
            _COMPONENT, "reachable", f"{redact_url(url)}: {connection_error_reason(error) or error}", advice
        )
    finally:
        store.close()


def _check_tables(store: Database) -> Iterator[CheckResult]:
    if not is_current(store):
        yield fail(_COMPONENT, "tables", "its tables are old or missing", _MIGRATE)
        return
    yield ok(_COMPONENT, "tables", "its tables are up to date")
    oldest = PendingDeliveries(store).find_oldest_received_at()
    yield evaluate_backlog((datetime.now(UTC) - oldest).total_seconds() if oldest else None)
    yield from map(evaluate_failing_sink, find_failing_sinks(store))


def evaluate_database(info: DatabaseInfo, *, max_connections: int) -> Iterator[CheckResult]:
    """Say what is wrong with a database that answers. most_connections: that our processes may open."""
    version = ".".join(map(str, info.version))
    if info.version < _MIN_VERSIONS[info.product]:
        required = ".".join(map(str, _MIN_VERSIONS[info.product]))
        yield fail(
            _COMPONENT, "version", f"{info.product} {version}", f"Use {info.product} {required} or later."
        )
    else:
        yield ok(_COMPONENT, "version", f"{info.product} {version}")
    yield _evaluate_durability(info)
    if info.settings.get("transaction_read_only") == "on":
        yield fail(
            _COMPONENT,
            "writable",
            "takes no writes: read-only, or a standby",
            "Point DATABASE_URL at the primary.",
        )
    yield evaluate_latency(_COMPONENT, info.latency_s)
    if info.clock_ahead_s is not None:
        yield evaluate_clock(info.clock_ahead_s)
    if info.free_connections is not None:
        yield _evaluate_connections(info.free_connections, max_connections)


def _evaluate_durability(info: DatabaseInfo) -> CheckResult:
    settings = info.settings
    off = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings.get(name) == "off"
    ]
    if off:
        what = " and ".join(f"{name}=off" for name in off)
        message = f"{what}: what was acknowledged may be lost in a crash"
        return fail(
            _COMPONENT, "durability", message, f"Set {', '.join(off)} to on in the server's configuration."
        )
    if "journal_mode" in settings and settings["journal_mode"].lower() != "wal":
        message = f"SQLite's journal is {settings['journal_mode']} where WAL was asked for"
        return warn(_COMPONENT, "durability", message, "Put the file on a local disk that can share memory.")
    shown = ", ".join(
        f"{name}={value}" for name, value in settings.items() if name != "transaction_read_only"
    )
    return ok(_COMPONENT, "durability", f"a commit is on disk ({shown})")


def evaluate_clock(ahead_s: float) -> CheckResult:
    """Say whether the server's clock agrees with this machine's."""
    message = f"its clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    advice = "Set both by NTP: leases and the order of events compare clocks."
    if abs(ahead_s) > _SKEW_LIMITS_S[1]:
        return fail(_COMPONENT, "clock", message, advice)
    if abs(ahead_s) > _SKEW_LIMITS_S[0]:
        return warn(_COMPONENT, "clock", message, advice)
    return ok(_COMPONENT, "clock", "its clock agrees with this machine's")


def _evaluate_connections(free: int, max_connections: int) -> CheckResult:
    message = f"it has {free} connections for us; our processes open up to {max_connections}"
    if free >= max_connections:
        return ok(_COMPONENT, "connections", message)
    advice = "Allow more, close others', or lower WEB_CONCURRENCY and WORKER_CONCURRENCY."
    return warn(_COMPONENT, "connections", message, advice)


def count_max_connections(config: Config) -> int:
    """Return how many connections the processes of one machine may open to the store's database."""
    settings = config.settings
    here = [
        sink_config
        for sink_config in config.routes.sinks.values()
        if sink_config.url == settings.database_url
    ]
    # A worker has one job at a time: a connection to the store, and one to each sink. Beside the workers, one
    # process sweeps, oversees and notifies.
    return (settings.web_concurrency + 1) * _MAX_CONNECTIONS_PER_PROCESS + settings.worker_concurrency * (
        1 + len(here)
    )


def evaluate_backlog(age_s: float | None) -> CheckResult:
    """Say whether deliveries wait for too long. age_s: of the oldest unsettled one; None for none."""
    if age_s is None:
        return ok(_COMPONENT, "backlog", "no delivery waits")
    message = f"the oldest delivery has waited for {age_s:,.0f} s"
    advice = "See that workers run (rapidbridge worker), start more of them, and look at what their log says."
    if age_s >= _BACKLOG_LIMITS_S[1]:
        return fail(_COMPONENT, "backlog", message, advice)
    return (
        warn(_COMPONENT, "backlog", message, advice)
        if age_s >= _BACKLOG_LIMITS_S[0]
        else ok(_COMPONENT, "backlog", message)
    )


def evaluate_failing_sink(sink: FailingSink) -> CheckResult:
    """Tell of a sink for which deliveries wait."""
    message = (
        f"sink {sink.sink} has not taken {sink.deliveries:,} deliveries since {sink.since:%Y-%m-%d %H:%M} UTC"
    )
    advice = f"Mend the sink ({sink.reason or 'see the log'}): they are tried again by themselves."
    return fail(_COMPONENT, "failing", message, advice)
