"""GET /healthz: the process lives. GET /readyz: it can store, workers live, nothing waits for too long."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import gevent
from flask import Flask, Response, jsonify

from app.database.engine import Database
from app.errors import StoreUnavailable, TransientError
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.store.migrate import is_current
from app.store.pending import PendingDeliveries

_OK = "ok"
_MAX_PENDING_AGE_S = 900
_CHECK_TIMEOUT_S = 4
_NO_ANSWER = f"no answer within {_CHECK_TIMEOUT_S} s"


def register_health_routes(app: Flask, store: Database, queue: DeliveryQueue, spool: Spool) -> None:
    """Add the two URLs to the application."""
    checks: dict[str, Callable[[], str]] = {
        "store": lambda: _check_store(store),
        "redis": lambda: _check_redis(queue),
        "workers": lambda: _check_workers(queue),
        "backlog": lambda: _check_backlog(PendingDeliveries(store)),
        "spool": lambda: _check_spool(spool),
    }

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify({"status": _OK})

    @app.get("/readyz")
    def readyz() -> Response:
        asked = {name: gevent.spawn(_run_check, check) for name, check in checks.items()}
        gevent.joinall(list(asked.values()), timeout=_CHECK_TIMEOUT_S)
        findings = {name: asking.value or _NO_ANSWER for name, asking in asked.items()}
        gevent.killall(list(asked.values()), block=False)
        is_ready = set(findings.values()) == {_OK}
        response = jsonify({"status": _OK if is_ready else "unready", **findings})
        response.status_code = 200 if is_ready else 503
        return response


def _run_check(check: Callable[[], str]) -> str:
    try:
        # A pooled connection that died while idle says nothing about the store: then it is asked once more.
        with suppress(StoreUnavailable):
            return check()
        return check()
    except TransientError as error:
        return str(error)


def _check_store(store: Database) -> str:
    return _OK if is_current(store) else "its tables are old or missing; run: rapidbridge migrate"


def _check_redis(queue: DeliveryQueue) -> str:
    queue.ping()
    return _OK


def _check_workers(queue: DeliveryQueue) -> str:
    return _OK if queue.count_workers() else "none is alive; start: rapidbridge worker"


def _check_backlog(worklist: PendingDeliveries) -> str:
    oldest = worklist.find_oldest_received_at()
    age_s = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0
    return _OK if age_s < _MAX_PENDING_AGE_S else f"the oldest delivery has waited for {age_s:.0f} s"


def _check_spool(spool: Spool) -> str:
    waiting = spool.count()
    return f"{waiting} deliveries wait in Redis for the store" if waiting else _OK
