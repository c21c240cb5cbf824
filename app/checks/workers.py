"""Check of the workers' configuration against the one here."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from app.checks.check_result import CheckResult, fail, ok, warn
from app.clock import utc_now
from app.config.delivery_config import DeliveryConfig
from app.config.load import Config
from app.config.routes import Routes
from app.config.sinks import LoadSinkConfig
from app.database.inspection import missing_file
from app.errors import QueueUnavailable, StoreUnavailable
from app.plural import format_count
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from app.store.store_database import open_store
from app.store.worker_registry import WorkerRecord, WorkerRegistry

_COMPONENT = "workers"
_LOCK_TIMEOUT_S = 3.0
# During a deployment, old and new processes run side by side.
_MAX_MISMATCH = timedelta(minutes=5)


def check_workers(config: Config) -> Iterator[CheckResult]:
    """Compare the release, the routes and the sinks of every live worker with those here.

    An unreachable database or Redis yields nothing: their own checks report it.
    """
    settings = config.settings
    if missing_file(settings.database_url):
        return
    expected = config.delivery_config
    database = open_store(settings, lock_timeout_s=_LOCK_TIMEOUT_S)
    try:
        registry = WorkerRegistry(database)
        live = registry.list_live(now=utc_now())
        yield from evaluate_workers(expected, live)
        yield from evaluate_number(config.routes, len(live))
        if settings.redis_url:
            redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
            queue = DeliveryQueue(redis, settings.namespace)
            yield from evaluate_strangers(settings.namespace, queue.list_workers() - registry.list_names())
    except (StoreUnavailable, QueueUnavailable, ValueError, TypeError):
        # redis-py raises ValueError and TypeError for an invalid URL.
        return
    finally:
        database.close()


def evaluate_workers(expected: DeliveryConfig, live: Sequence[WorkerRecord]) -> Iterator[CheckResult]:
    """Yield a failure for every worker with another configuration."""
    differing = [(worker, expected.find_differences(worker.config)) for worker in live]
    outdated = [(worker, differences) for worker, differences in differing if differences]
    for worker, differences in outdated:
        started = f"{worker.started_at:%Y-%m-%d %H:%M} UTC"
        message = f"{worker.name}, started {started}: {', '.join(differences)}"
        advice = "Restart the workers (`rapidbridge worker`): they keep the routes that they started with."
        yield fail(_COMPONENT, "config", message, advice)
    if live and not outdated:
        verb = "has" if len(live) == 1 else "have"
        message = f"{format_count(len(live), 'worker')} {verb} this release and these routes and sinks"
        yield ok(_COMPONENT, "config", message)


def evaluate_number(routes: Routes, live: int) -> Iterator[CheckResult]:
    """Yield a warning if the loads of a sink occupy the only worker."""
    slow = [
        name
        for name, sink in sorted(routes.sinks.items())
        if isinstance(sink, LoadSinkConfig) and sink.has_long_loads
    ]
    if slow and live == 1:
        message = f"1 worker, which waits for minutes in each load of the sink {', '.join(slow)}"
        advice = "Set WORKER_CONCURRENCY to 2 or more, and restart `rapidbridge worker`."
        yield warn(_COMPONENT, "number", message, advice)


def evaluate_strangers(namespace: str, strangers: set[str]) -> Iterator[CheckResult]:
    """Yield a failure if workers of another database use this namespace."""
    if strangers:
        names = ", ".join(sorted(strangers))
        message = f"workers of another database use the namespace {namespace}: {names}"
        advice = "Set another REDIS_NAMESPACE in all processes of each receiver, and restart them."
        yield fail(_COMPONENT, "namespace", message, advice)


def find_mismatched_workers(
    registry: WorkerRegistry, expected: DeliveryConfig, *, since: datetime, now: datetime
) -> list[tuple[WorkerRecord, Sequence[str]]]:
    """Return the workers that have run for minutes beside a process of another configuration.

    expected, since: the configuration and the start of that process. Raises StoreUnavailable.
    """
    return [
        (worker, differences)
        for worker in registry.list_live(now=now)
        if now - max(worker.started_at, since) > _MAX_MISMATCH
        and (differences := expected.find_differences(worker.config))
    ]
