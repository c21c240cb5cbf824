"""Check of the connections to the store's database against its limit."""

from app.checks.check_result import CheckResult, ok, warn
from app.config.load import Config
from app.config.settings import Settings
from app.config.sinks import SqlSinkConfig
from app.database.inspection import ConnectionCounts
from app.plural import format_count

# The size of the store's connection pool; see app/database/engine.py.
_MAX_PER_PROCESS = 6
# A web process has four more: for /readyz, for /metrics, and two for the dashboard.
_MAX_PER_WEB_PROCESS = _MAX_PER_PROCESS + 4
# Of the available ones, by all machines. One machine cannot know the settings of the others.
_MAX_IN_USE_SHARE = 0.8


def evaluate_connections(counts: ConnectionCounts, config: Config) -> CheckResult:
    """Return whether the processes may open all their connections, as far as one machine knows."""
    needed, free = count_max_connections(config), counts.available
    message = (
        f"{format_count(free, 'connection')} available; the processes of one machine open up to {needed}"
    )
    if counts.in_use > needed:
        message += f", and {counts.in_use} are open on all machines"
    if free >= needed and counts.in_use <= max(needed, free * _MAX_IN_USE_SHARE):
        return ok("store", "connections", message)
    if free >= needed:
        advice = "Raise the limit, or lower WEB_CONCURRENCY or WORKER_CONCURRENCY on the machines."
        return warn("store", "connections", message, advice)
    advice = "Raise the limit, or close other connections."
    if smaller := _find_smaller_settings(free, config):
        lines = " ".join(f"{name}={number}" for name, number in smaller.items())
        advice = f"Set {lines}, and restart. Or raise the limit, or close other connections."
    return warn("store", "connections", message, advice)


def count_max_connections(config: Config) -> int:
    """Return how many connections the processes of one machine may open to the store's database."""
    settings = config.settings
    return _count(settings.web_concurrency, settings.worker_concurrency, config)


def _count(web_processes: int, worker_processes: int, config: Config) -> int:
    sinks_in_store = [
        sink_config
        for sink_config in config.routes.sinks.values()
        if isinstance(sink_config, SqlSinkConfig) and sink_config.url == config.settings.database_url
    ]
    # A worker runs one job at a time, with one connection to the store and one to each sink.
    workers = worker_processes * (1 + len(sinks_in_store))
    # The background process uses a whole pool.
    return web_processes * _MAX_PER_WEB_PROCESS + _MAX_PER_PROCESS + workers


def _find_smaller_settings(free: int, config: Config) -> dict[str, int]:
    """Return the settings to lower so that the connections suffice; empty if nothing does."""
    settings = config.settings
    for workers in range(settings.worker_concurrency, 0, -1):
        for web in range(settings.web_concurrency, 0, -1):
            if _count(web, workers, config) <= free:
                return _list_lowered(settings, web, workers)
    return {}


def _list_lowered(settings: Settings, web: int, workers: int) -> dict[str, int]:
    lowered = {"WEB_CONCURRENCY": web, "WORKER_CONCURRENCY": workers}
    present = (settings.web_concurrency, settings.worker_concurrency)
    return {
        name: number for (name, number), old in zip(lowered.items(), present, strict=True) if number < old
    }
