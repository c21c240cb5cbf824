"""Checks of the store: reachable, durable, migrated, and keeping up."""

from collections.abc import Iterator, Sequence

from app.checks.check_result import CheckResult, evaluate_latency, fail, ok, warn
from app.checks.conditions import check_conditions
from app.checks.connections import evaluate_connections
from app.checks.disk import check_disk
from app.checks.rights import check_rights
from app.clock import utc_now
from app.config.load import Config
from app.database.engine import Database, diagnose_for, redact_url
from app.database.inspection import (
    DatabaseInfo,
    database_file,
    inspect_database,
    missing_file,
)
from app.database.provision import CREATE_UTF8_DATABASE
from app.encryption import Keyring
from app.errors import StoreUnavailable
from app.plural import format_count
from app.store.encryption_keys import EncryptionKeys, KeyInUse, describe_missing_keys
from app.store.migrate import find_newer_revision, is_current
from app.store.notifications import Notification, Notifications
from app.store.pending import PendingDeliveries
from app.store.sink_status import SinkStatus, list_sink_statuses
from app.store.store_database import open_store
from app.store.unattributed import UnattributedDeliveries, find_unattributed

_COMPONENT = "store"
_MIGRATE = "Run: rapidbridge migrate"
_LOCK_TIMEOUT_S = 3.0
_MIN_VERSIONS = {"PostgreSQL": (12,), "SQLite": (3, 35)}
_WARN_CLOCK_S, _FAIL_CLOCK_S = 2.0, 30.0
_WARN_BACKLOG_S, _FAIL_BACKLOG_S = 60.0, 900.0


def check_store(config: Config) -> Iterator[CheckResult]:
    """Check the store's database, its tables and its backlog.

    Results are yielded as they are found: a later failure does not discard earlier ones.
    """
    url = config.settings.database_url
    if missing := missing_file(url):
        yield fail(_COMPONENT, "reachable", f"the file {missing} does not exist yet", _MIGRATE)
        yield from check_disk(_COMPONENT, missing.parent)
        return
    schema = config.settings.database_schema
    database = open_store(config.settings, lock_timeout_s=_LOCK_TIMEOUT_S)
    try:
        info = inspect_database(database)
        yield ok(_COMPONENT, "reachable", redact_url(url))
        yield from evaluate_database(info)
        if info.connections is not None:
            yield evaluate_connections(info.connections, config)
        if path := database_file(url):
            yield from check_disk(_COMPONENT, path.parent)
        yield from check_rights(database, config.settings)
        yield from _check_tables(database)
    except StoreUnavailable as error:
        diagnosis = diagnose_for(error.__cause__, database.engine, schema=schema)
        message = f"{redact_url(url)}: {diagnosis.problem}{f' ({diagnosis.code})' if diagnosis.code else ''}"
        yield fail(_COMPONENT, "reachable", message, f"{diagnosis.advice[0].upper()}{diagnosis.advice[1:]}")
    finally:
        database.close()


def _check_tables(database: Database) -> Iterator[CheckResult]:
    if not is_current(database):
        yield fail(_COMPONENT, "tables", "the tables are missing or out of date", _MIGRATE)
        return
    if revision := find_newer_revision(database):
        message = f"a newer release has migrated the tables (revision {revision})"
        advice = "Deploy that release to this process too: only the one before it is tested with its tables."
        yield warn(_COMPONENT, "tables", message, advice)
    else:
        yield ok(_COMPONENT, "tables", "the tables are up to date")
    yield from evaluate_keys(EncryptionKeys(database).list_in_use(), database.keyring)
    oldest = PendingDeliveries(database).find_oldest_received_at()
    yield evaluate_backlog((utc_now() - oldest).total_seconds() if oldest else None)
    for status in list_sink_statuses(database):
        yield from evaluate_sink_status(status)
    yield from map(evaluate_unattributed, find_unattributed(database))
    yield from map(evaluate_missing_key, Notifications(database).list_open("key.missing"))
    yield from check_conditions(database, now=utc_now())


def evaluate_keys(in_use: Sequence[KeyInUse], keyring: Keyring) -> Iterator[CheckResult]:
    """Yield the result for the keys that stored data is encrypted with; none if it never was."""
    check = "encryption"
    if missing := [key.id for key in in_use if not key.is_configured]:
        problem, _, advice = describe_missing_keys(missing).partition(". ")
        yield fail(_COMPONENT, check, problem, advice)
    elif older := [key.id for key in in_use if not key.is_current]:
        message = f"data may still be encrypted with an older key: {', '.join(older)}"
        yield warn(_COMPONENT, check, message, "Run: rapidbridge keys rotate")
    elif keyring.current:
        yield ok(_COMPONENT, check, f"bodies are stored encrypted, with the key {keyring.current.id}")


def evaluate_database(info: DatabaseInfo) -> Iterator[CheckResult]:
    """Yield the results for a database that responds, except its connections."""
    version = ".".join(map(str, info.version))
    if info.version < _MIN_VERSIONS[info.product]:
        required = ".".join(map(str, _MIN_VERSIONS[info.product]))
        advice = f"Use {info.product} {required} or later."
        yield fail(_COMPONENT, "version", f"{info.product} {version} is too old", advice)
    else:
        yield ok(_COMPONENT, "version", f"{info.product} {version}")
    yield _evaluate_durability(info)
    if info.settings.get("transaction_read_only") == "on":
        message = "the database accepts no writes: it is read-only, or a standby"
        yield fail(_COMPONENT, "writable", message, "Point DATABASE_URL to the primary server.")
    if (encoding := info.settings.get("server_encoding", "UTF8")) != "UTF8":
        message = f"the database has the encoding {encoding}, which cannot represent every record"
        advice = f"Create another one, and set DATABASE_URL to it: {CREATE_UTF8_DATABASE}"
        yield fail(_COMPONENT, "encoding", message, advice)
    if info.is_pooled:
        message = "behind a connection pooler: settings are set in each transaction, nothing is prepared"
        yield ok(_COMPONENT, "pooler", message)
    yield evaluate_latency(_COMPONENT, info.latency_s)
    if info.clock_ahead_s is not None:
        yield evaluate_clock(info.clock_ahead_s)


def _evaluate_durability(info: DatabaseInfo) -> CheckResult:
    settings = info.settings
    off = [
        name for name in ("fsync", "full_page_writes", "synchronous_commit") if settings.get(name) == "off"
    ]
    if off:
        values = " and ".join(f"{name}=off" for name in off)
        message = f"{values}: a crash may lose acknowledged deliveries"
        commands = " ".join(f"ALTER SYSTEM SET {name} = on;" for name in off)
        advice = f"As the server's administrator, run in psql: {commands} SELECT pg_reload_conf();"
        return fail(_COMPONENT, "durability", message, advice)
    if "journal_mode" in settings and settings["journal_mode"].lower() != "wal":
        message = f"SQLite uses the journal mode {settings['journal_mode']} instead of WAL"
        return warn(
            _COMPONENT, "durability", message, "Put the file on a local disk: WAL needs shared memory."
        )
    shown = ", ".join(
        f"{name}={value}"
        for name, value in settings.items()
        if name not in ("transaction_read_only", "server_encoding")
    )
    return ok(_COMPONENT, "durability", f"commits are written to disk ({shown})")


def evaluate_clock(ahead_s: float) -> CheckResult:
    """Return whether the database server's clock agrees with this machine's.

    ahead_s: positive if the server's clock is ahead.
    """
    message = (
        f"the server's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    )
    advice = "Leases and the order of events compare the clocks. On both machines: timedatectl set-ntp true"
    if abs(ahead_s) > _FAIL_CLOCK_S:
        return fail(_COMPONENT, "clock", message, advice)
    if abs(ahead_s) > _WARN_CLOCK_S:
        return warn(_COMPONENT, "clock", message, advice)
    return ok(_COMPONENT, "clock", "the server's clock agrees with this machine's")


def evaluate_backlog(age_s: float | None) -> CheckResult:
    """Return whether deliveries are processed in time.

    age_s: age of the oldest pending delivery; None if no delivery is pending.
    """
    if age_s is None:
        return ok(_COMPONENT, "backlog", "no delivery is pending")
    message = f"the oldest pending delivery was received {age_s:,.0f} s ago"
    advice = "Check that workers run (rapidbridge worker), start more of them, and read their log."
    if age_s >= _FAIL_BACKLOG_S:
        return fail(_COMPONENT, "backlog", message, advice)
    if age_s >= _WARN_BACKLOG_S:
        return warn(_COMPONENT, "backlog", message, advice)
    return ok(_COMPONENT, "backlog", message)


def evaluate_sink_status(status: SinkStatus) -> Iterator[CheckResult]:
    """Yield a result for a sink that is paused, one for a sink that fails, and one for a slow sink."""
    if status.paused_at:
        by = f" by {status.paused_by}" if status.paused_by else ""
        message = f"sink {status.sink} is paused since {status.paused_at:%Y-%m-%d %H:%M} UTC{by}"
        advice = f"To write its deliveries, run: rapidbridge sinks resume {status.sink}"
        yield warn(_COMPONENT, "paused", f"{message}; {format_waiting(status)}", advice)
    if status.failing_since:
        message = f"sink {status.sink} fails since {status.failing_since:%Y-%m-%d %H:%M} UTC"
        reason = f"{status.reason}: {status.message}" if status.message else status.reason
        advice = (
            "Repair the sink; workers then write its deliveries. To see its state, run: "
            f"rapidbridge sinks list. Reason: {reason}"
        )
        yield fail(_COMPONENT, "failing", f"{message}; {format_waiting(status)}", advice)
    if status.slow:
        message = f"sink {status.sink} is slow ({status.slow}): half of the workers write to others only"
        advice = "Make the sink faster, let its deliveries wait, or start more workers."
        yield warn(_COMPONENT, "slow", f"{message}; {format_waiting(status)}", advice)


def format_waiting(status: SinkStatus) -> str:
    """Return the number of deliveries that wait for a sink."""
    return f"{status.waiting.format('delivery')} waiting"


def evaluate_unattributed(group: UnattributedDeliveries) -> CheckResult:
    """Return the result for a webhook with deliveries whose account is unknown."""
    deliveries = format_count(group.deliveries, "delivery")
    message = (
        f"{deliveries} of webhook {group.webhook_id or '(none)'} since {group.since:%Y-%m-%d %H:%M} UTC "
        "name no integrated account"
    )
    advice = "Name the account in the routes file; for the lines to add, run: rapidbridge dead list"
    return fail(_COMPONENT, "accounts", message, advice)


def evaluate_missing_key(notification: Notification) -> CheckResult:
    """Return the result for a resource with records that lack the key of their route."""
    payload = notification.payload
    result = (
        "such records are rejected"
        if payload["missing_key"] != "hash"
        else "each version of such a record becomes a new row"
    )
    message = f"no record of a delivery of {payload['resource']} has the key {payload['key']}: {result}"
    advice = (
        f"See the members of its records: rapidbridge deliveries show {payload['delivery']} --body. "
        'Set `key` in the route to the member that identifies a record, or to "" if none does.'
    )
    return warn(_COMPONENT, "keys", message, advice)
