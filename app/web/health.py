"""GET /healthz: the process lives. GET /readyz: it can store, and wake workers."""

from flask import Flask, Response, jsonify

from app.errors import QueueUnavailable, StoreUnavailable
from app.queue import DeliveryQueue
from app.store.engine import Store
from app.store.migrate import is_current


def add_health(app: Flask, store: Store, queue: DeliveryQueue) -> None:
    """Add the two URLs to the application."""

    @app.get("/healthz")
    def healthz() -> Response:
        return jsonify({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        checks = {"store": _check_store(store), "redis": _check_redis(queue)}
        response = jsonify({"status": "ok" if set(checks.values()) == {"ok"} else "unready", **checks})
        response.status_code = 200 if set(checks.values()) == {"ok"} else 503
        return response


def _check_store(store: Store) -> str:
    try:
        return "ok" if is_current(store) else "its tables are old or missing; run: rapidbridge migrate"
    except StoreUnavailable as error:
        return str(error)


def _check_redis(queue: DeliveryQueue) -> str:
    try:
        queue.ping()
    except QueueUnavailable as error:
        return str(error)
    return "ok"
