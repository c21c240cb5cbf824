"""The store: reachable, durable, up to date, with room, and not behind."""

from collections.abc import Iterator
from datetime import UTC, datetime

from app.cli.doctor.disks import file_system, free_bytes
from app.cli.doctor.finding import Finding, green, judge_file_system, judge_latency, judge_room, red, yellow
from app.config.load import Setup
from app.database.diagnostics import StoreFacts, cause_of, database_file, examine, missing_file
from app.database.engine import Store, describe, open_store
from app.errors import StoreUnavailable
from app.store.migrate import is_current
from app.store.pending import Worklist
from app.store.troubles import FailingSink, failing_sinks

_ROOM = "store"
_MIGRATE = "Run: rapidbridge migrate"
_OLDEST = {"PostgreSQL": (12,), "SQLite": (3, 35)}
# A pool of the store's; see app/database/engine.py.
_MOST_PER_PROCESS = 6
_SKEW_S = (2.0, 30.0)
_WAITING_S = (60.0, 900.0)


def check_store(setup: Setup) -> Iterator[Finding]:
    """Look at the store; a later part that fails takes none of the earlier findings away."""
    url = setup.settings.database_url
    if missing := missing_file(url):
        yield red(_ROOM, "reachable", f"there is no file {missing} yet", _MIGRATE)
        yield judge_room(_ROOM, free_bytes(missing.parent))
        yield from judge_file_system(_ROOM, file_system(missing.parent))
        return
    store = open_store(url, lock_wait_s=3.0)
    try:
        facts = examine(store)
        yield green(_ROOM, "reachable", describe(url))
        yield from judge_facts(facts, most_connections=connections_of(setup))
        if path := database_file(url):
            yield judge_room(_ROOM, free_bytes(path.parent))
            yield from judge_file_system(_ROOM, file_system(path.parent))
        yield from _check_tables(store)
    except StoreUnavailable as error:
        advice = "See that DATABASE_URL is right, and that the server is up and lets this machine in."
        yield red(_ROOM, "reachable", f"{describe(url)}: {cause_of(error) or error}", advice)
    finally:
        store.dispose()


def _check_tables(store: Store) -> Iterator[Finding]:
    if not is_current(store):
        yield red(_ROOM, "tables", "its tables are old or missing", _MIGRATE)
        return
    yield green(_ROOM, "tables", "its tables are up to date")
    oldest = Worklist(store).oldest_pending()
    yield judge_backlog((datetime.now(UTC) - oldest).total_seconds() if oldest else None)
    yield from map(judge_failing, failing_sinks(store))


def judge_facts(facts: StoreFacts, *, most_connections: int) -> Iterator[Finding]:
    """Say what is wrong with a database that answers. most_connections: that our processes may open."""
    version = ".".join(map(str, facts.version))
    if facts.version < _OLDEST[facts.product]:
        wanted = ".".join(map(str, _OLDEST[facts.product]))
        yield red(_ROOM, "version", f"{facts.product} {version}", f"Use {facts.product} {wanted} or later.")
    else:
        yield green(_ROOM, "version", f"{facts.product} {version}")
    yield _judge_durability(facts)
    if facts.settings.get("transaction_read_only") == "on":
        yield red(
            _ROOM,
            "writable",
            "takes no writes: read-only, or a standby",
            "Point DATABASE_URL at the primary.",
        )
    yield judge_latency(_ROOM, facts.latency_s)
    if facts.clock_ahead_s is not None:
        yield judge_clock(facts.clock_ahead_s)
    if facts.free_connections is not None:
        yield _judge_connections(facts.free_connections, most_connections)


def _judge_durability(facts: StoreFacts) -> Finding:
    settings = facts.settings
    off = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings.get(name) == "off"
    ]
    if off:
        what = " and ".join(f"{name}=off" for name in off)
        message = f"{what}: what was acknowledged may be lost in a crash"
        return red(_ROOM, "durability", message, f"Set {', '.join(off)} to on in the server's configuration.")
    if "journal_mode" in settings and settings["journal_mode"].lower() != "wal":
        message = f"SQLite's journal is {settings['journal_mode']} where WAL was asked for"
        return yellow(_ROOM, "durability", message, "Put the file on a local disk that can share memory.")
    shown = ", ".join(
        f"{name}={value}" for name, value in settings.items() if name != "transaction_read_only"
    )
    return green(_ROOM, "durability", f"a commit is on disk ({shown})")


def judge_clock(ahead_s: float) -> Finding:
    """Say whether the server's clock agrees with this machine's."""
    message = f"its clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    advice = "Set both by NTP: leases and the order of events compare clocks."
    if abs(ahead_s) > _SKEW_S[1]:
        return red(_ROOM, "clock", message, advice)
    if abs(ahead_s) > _SKEW_S[0]:
        return yellow(_ROOM, "clock", message, advice)
    return green(_ROOM, "clock", "its clock agrees with this machine's")


def _judge_connections(free: int, most: int) -> Finding:
    message = f"it has {free} connections for us; our processes open up to {most}"
    if free >= most:
        return green(_ROOM, "connections", message)
    advice = "Allow more, close others', or lower WEB_CONCURRENCY and WORKER_CONCURRENCY."
    return yellow(_ROOM, "connections", message, advice)


def connections_of(setup: Setup) -> int:
    """Return how many connections the processes of one machine may open to the store's database."""
    settings = setup.settings
    here = [spec for spec in setup.routes.sinks.values() if spec.url == settings.database_url]
    # A worker has one job at a time: a connection to the store, and one to each sink. Beside the workers, one
    # process sweeps, oversees and notifies.
    return (settings.web_concurrency + 1) * _MOST_PER_PROCESS + settings.worker_concurrency * (1 + len(here))


def judge_backlog(age_s: float | None) -> Finding:
    """Say whether deliveries wait for too long. age_s: of the oldest unsettled one; None for none."""
    if age_s is None:
        return green(_ROOM, "backlog", "no delivery waits")
    message = f"the oldest delivery has waited for {age_s:,.0f} s"
    advice = "See that workers run (rapidbridge worker), start more of them, and look at what their log says."
    if age_s >= _WAITING_S[1]:
        return red(_ROOM, "backlog", message, advice)
    return (
        yellow(_ROOM, "backlog", message, advice)
        if age_s >= _WAITING_S[0]
        else green(_ROOM, "backlog", message)
    )


def judge_failing(sink: FailingSink) -> Finding:
    """Tell of a sink for which deliveries wait."""
    message = (
        f"sink {sink.sink} has not taken {sink.deliveries:,} deliveries since {sink.since:%Y-%m-%d %H:%M} UTC"
    )
    advice = f"Mend the sink ({sink.reason or 'see the log'}): they are tried again by themselves."
    return red(_ROOM, "failing", message, advice)
