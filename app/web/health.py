"""GET /healthz and GET /readyz: liveness and readiness."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Literal

import gevent
from flask import Flask, Response, jsonify
from pydantic import BaseModel

from app.checks.workers import find_mismatched_workers
from app.clock import utc_now
from app.config.current_config import CurrentConfig
from app.config.delivery_config import DeliveryConfig
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.store.encryption_keys import EncryptionKeys
from app.store.migrate import is_current
from app.store.pending import PendingDeliveries
from app.store.worker_registry import WorkerRegistry
from app.web.failover_inbox import as_unavailable
from app.web.readiness_warnings import find_warnings
from app.web.response_counter import ResponseCounter
from app.web.shared_round import SharedRound

_OK, _UNREADY = "ok", "unready"
_MAX_PENDING_AGE_S = 900
_BACKLOG_HINT = "start more workers, and read their log"
_CHECK_TIMEOUT_S = 4
_NO_ANSWER = f"no answer within {_CHECK_TIMEOUT_S} s"
_SHARED_FOR_S = 1.0


def register_health_routes(
    app: Flask,
    database: Database,
    queue: DeliveryQueue,
    spool: Spool,
    counter: ResponseCounter,
    *,
    config: CurrentConfig,
) -> None:
    """Add /healthz and /readyz to the application.

    database, queue, spool: with connections of their own, because anyone may request /readyz.
    """
    started_at = utc_now()
    readiness = Readiness(
        {
            "store": lambda: _check_store(database),
            "redis": lambda: _check_redis(queue),
            "workers": lambda: _check_workers(
                queue, WorkerRegistry(database), config.get().delivery_config, started_at
            ),
            "backlog": lambda: _check_backlog(PendingDeliveries(database)),
            "spool": lambda: _check_spool(spool),
        },
        lambda: find_warnings(database, spool, counter, config),
    )

    # The overview page shows the same answer.
    app.extensions["readiness"] = readiness

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify({"status": _OK})

    @app.get("/readyz")
    def readyz() -> Response:
        http_status, body = readiness.read()
        return Response(body, http_status, content_type="application/json")


class LivenessBody(BaseModel):
    """The JSON of /healthz."""

    status: Literal["ok"]


class ReadinessBody(BaseModel):
    """The JSON of /readyz: each check is "ok" or its problem."""

    status: Literal["ok", "unready"]
    store: str
    redis: str
    workers: str
    backlog: str
    spool: str
    warnings: dict[str, str] = {}


class Readiness:
    """The answer of /readyz: one round of checks at a time, whose answer is shared for a second."""

    def __init__(
        self, checks: Mapping[str, Callable[[], str]], find_warnings: Callable[[], Mapping[str, str]]
    ) -> None:
        self._checks = checks
        self._find_warnings = find_warnings
        self._round = SharedRound(self._run, shared_for_s=_SHARED_FOR_S)

    def read(self) -> tuple[int, str]:
        """Return the HTTP status and the JSON of the newest round, or of the next one."""
        return self._round.read()

    def _run(self) -> tuple[int, str]:
        running = {name: gevent.spawn(_run_check, check) for name, check in self._checks.items()}
        warnings = gevent.spawn(_run_warnings, self._find_warnings)
        greenlets = [*running.values(), warnings]
        gevent.joinall(greenlets, timeout=_CHECK_TIMEOUT_S)
        results = {name: check.value or _NO_ANSWER for name, check in running.items()}
        shown = {"not_read": _NO_ANSWER} if warnings.value is None else warnings.value
        shown_warnings = {"warnings": shown} if shown else {}
        gevent.killall(greenlets, block=False)
        is_ready = set(results.values()) == {_OK}
        body = json.dumps({"status": _OK if is_ready else _UNREADY, **results, **shown_warnings})
        return 200 if is_ready else 503, body + "\n"


def _run_check(check: Callable[[], str]) -> str:
    try:
        # Check twice: the first failure may come from a pooled connection that died while idle.
        with suppress(StoreUnavailable):
            return check()
        return check()
    except Exception as error:  # noqa: BLE001  # a check that fails is unready, in whichever way it fails
        return str(as_unavailable(error))


def _run_warnings(find: Callable[[], Mapping[str, str]]) -> Mapping[str, str]:
    try:
        return find()
    except Exception as error:  # noqa: BLE001  # the checks report an unavailable server
        return {"not_read": str(as_unavailable(error))}


def _check_store(database: Database) -> str:
    if not is_current(database):
        return "its tables are missing or outdated; run: rapidbridge migrate"
    if not all(key.is_configured for key in EncryptionKeys(database).list_in_use()):
        return "it has data encrypted with a key that is not set; run: rapidbridge keys list"
    return _OK


def _check_redis(queue: DeliveryQueue) -> str:
    queue.ping()
    return _OK


def _check_workers(
    queue: DeliveryQueue, registry: WorkerRegistry, config: DeliveryConfig, web_started_at: datetime
) -> str:
    if not queue.count_workers():
        return "no worker is running; start: rapidbridge worker"
    return _check_config(registry, config, web_started_at)


def _check_backlog(pending: PendingDeliveries) -> str:
    oldest = pending.find_oldest_received_at()
    age_s = (utc_now() - oldest).total_seconds() if oldest else 0
    return (
        _OK
        if age_s < _MAX_PENDING_AGE_S
        else f"the oldest delivery has waited for {age_s:.0f} s; {_BACKLOG_HINT}"
    )


def _check_spool(spool: Spool) -> str:
    waiting = spool.count()
    plural = "delivery waits" if waiting == 1 else "deliveries wait"
    return f"{waiting} {plural} in Redis for the database" if waiting else _OK


def _check_config(registry: WorkerRegistry, config: DeliveryConfig, web_started_at: datetime) -> str:
    """Fail once a worker with another configuration has run beside this process for a while."""
    for worker, differences in find_mismatched_workers(registry, config, since=web_started_at, now=utc_now()):
        shown = ", ".join(differences)
        return f"worker {worker.name} {shown}; restart the workers and the web processes"
    return _OK
