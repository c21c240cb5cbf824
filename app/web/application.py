"""The Flask application: views, their dependencies, and error responses."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import gevent
from flask import Flask, Request, Response, request
from flask.sessions import NullSession, SessionInterface
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from app.checks.service_facts import read_redis_facts, read_store_facts
from app.clock import utc_now
from app.config.current_config import CurrentConfig
from app.config.load import Config
from app.config.settings import Settings
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.redis.connection import connect_redis
from app.redis.observed_tests import ObservedTests
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.runs.gate import Gate
from app.store.arrivals import Arrivals
from app.store.encryption_keys import refuse_missing_keys
from app.store.inbox import Inbox
from app.store.models import RunUpdate
from app.store.pending import PendingDeliveries
from app.store.response_counts import ResponseCounts
from app.store.runs import Runs
from app.store.store_database import open_store
from app.store.webhook_events import WebhookEvents
from app.web.arrival_recorder import ArrivalRecorder
from app.web.counts_writer import CountsWriter
from app.web.dashboard.blueprint import create_dashboard
from app.web.dashboard.dashboard import Dashboard
from app.web.enqueuer import Enqueuer
from app.web.failover_inbox import COMMIT_TIMEOUT_S, FailoverInbox
from app.web.health import register_health_routes
from app.web.memory_budget import MemoryBudget
from app.web.metrics import register_metrics_route
from app.web.openapi import register_openapi_route
from app.web.probe_observer import ProbeObserver
from app.web.request_metrics import RequestMetrics
from app.web.response_counter import ResponseCounter
from app.web.responses import JsonResponse, WebhookResponse, error_response
from app.web.service_collector import ServiceCollector
from app.web.webhook import HINT, create_webhooks_blueprint
from app.web.webhook_handler import WebhookHandler
from app.web.worker_slots import worker_slots

_MAX_LARGEST_BODIES = 2
_MAX_DASHBOARD_CONNECTIONS = 2


def create_app(config: Config) -> Flask:
    """Build the application; call it in the process that serves, since it starts a thread."""
    settings = config.settings
    app = WebhookApplication(__name__, static_folder=None)
    # A redirect would lose every page.
    app.url_map.merge_slashes = False
    database = open_store(settings, lock_timeout_s=COMMIT_TIMEOUT_S)
    _refuse_missing_keys(database)
    app.extensions["database"] = database
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    queue = DeliveryQueue(redis, settings.namespace)
    spool = Spool(redis, settings.namespace, settings)
    metrics = RequestMetrics(worker_slots.current)
    current_config = CurrentConfig(config)
    current_config.start()
    arrivals = _register_monitoring(app, current_config, metrics)
    _register_metrics(app, current_config, metrics)
    inbox = FailoverInbox(Inbox(database), spool, metrics)
    enqueuer = Enqueuer(queue)
    enqueuer.start()
    gate = Gate(
        lambda: current_config.get().routes,
        settings.maintenance,
        _GateStore(inbox, Runs(database), PendingDeliveries(database)),
    )
    webhooks = create_webhooks_blueprint(
        WebhookHandler(
            settings,
            gate,
            inbox,
            enqueuer,
            arrivals,
            observer=ProbeObserver(ObservedTests(redis, settings.namespace)),
        ),
        max_body_bytes=settings.max_body_bytes,
        memory_budget=MemoryBudget(_MAX_LARGEST_BODIES * settings.max_body_bytes),
        verified_memory_budget=MemoryBudget(settings.max_body_bytes),
    )
    app.register_blueprint(webhooks)
    app.register_blueprint(create_dashboard(_open_dashboard(current_config)))
    # Handle every exception here: Flask's own log entry would quote the request's body.
    app.register_error_handler(Exception, error_response)
    app.register_error_handler(HTTPException, _http_error_response)
    register_openapi_route(app)
    return app


def _refuse_missing_keys(database: Database) -> None:
    # While the database is away, deliveries are spooled, and /readyz names the keys later.
    with suppress(StoreUnavailable), gevent.Timeout(COMMIT_TIMEOUT_S, exception=False):
        refuse_missing_keys(database)
    # Deliveries are committed on connections of their own, which are opened when they are needed.
    database.close()


def _register_monitoring(app: Flask, config: CurrentConfig, metrics: RequestMetrics) -> ArrivalRecorder:
    """Add health checks and counts; return the recorder of stored requests."""
    database, queue, spool = _open_monitoring(config.get().settings)
    counter = ResponseCounter(metrics, ResponseCounts(database))
    arrivals = ArrivalRecorder(metrics, Arrivals(database), WebhookEvents(database))
    CountsWriter(counter.write, arrivals.write).start()
    app.extensions["response_counter"] = counter
    app.after_request(partial(_count_response, counter))
    register_health_routes(app, database, queue, spool, counter, config=config)
    return arrivals


def _register_metrics(app: Flask, config: CurrentConfig, metrics: RequestMetrics) -> None:
    # Connections of their own: a slow round of the health checks must not delay the metrics.
    database, queue, spool = _open_monitoring(config.get().settings)
    service = ServiceCollector(
        lambda: read_store_facts(database, config.get().delivery_config, now=utc_now()),
        lambda: read_redis_facts(queue, spool),
    )
    register_metrics_route(app, metrics.collector, service, token=config.get().settings.metrics_token)


def _open_monitoring(settings: Settings) -> tuple[Database, DeliveryQueue, Spool]:
    """Prepare connections that delay no commit: one to the database, and a few to Redis."""
    database = open_store(
        settings,
        lock_timeout_s=COMMIT_TIMEOUT_S,
        max_connections=1,
    )
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    return database, DeliveryQueue(redis, settings.namespace), Spool(redis, settings.namespace)


def _open_dashboard(config: CurrentConfig) -> Dashboard:
    """Open the dashboard's connections; none is made before somebody signs in."""
    settings = config.get().settings
    database = open_store(
        settings,
        lock_timeout_s=COMMIT_TIMEOUT_S,
        max_connections=_MAX_DASHBOARD_CONNECTIONS,
    )
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    queue, spool = DeliveryQueue(redis, settings.namespace), Spool(redis, settings.namespace)
    return Dashboard(config, database, queue, spool)


def _count_response(counter: ResponseCounter, response: Response) -> Response:
    if isinstance(response, JsonResponse):
        counter.count(*response.counted_as)
    return response


class _NoSessions(SessionInterface):
    """No cookies and no signing: requests carry no session."""

    _session = NullSession()

    def open_session(self, app: Flask, request: object) -> NullSession:  # noqa: ARG002  # Flask's signature
        return self._session


class WebhookApplication(Flask):
    """Flask without sessions, virtual hosts and coroutines: a third of its cost per request."""

    session_interface = _NoSessions()

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Route by path and method alone: a Host header that Werkzeug refuses must not become a 400."""
        if request is None:
            return super().create_url_adapter(None)
        return MapAdapter(
            self.url_map, "localhost", request.root_path, "", request.scheme, request.path, request.method
        )

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: all views are synchronous."""
        return func


class _GateStore:
    """The gate's queries of the store, each within the timeout of a commit."""

    def __init__(self, inbox: FailoverInbox, runs: Runs, pending: PendingDeliveries) -> None:
        self._inbox = inbox
        self._runs = runs
        self._pending = pending

    def start_unless_overlapping(self, run: RunUpdate, *, active_since: datetime) -> str | None:
        return self._inbox.query(lambda: self._runs.start_unless_overlapping(run, active_since=active_since))

    def oldest_pending(self) -> datetime | None:
        return self._inbox.query(self._pending.find_oldest_received_at)


def _http_error_response(error: HTTPException) -> Response:
    status = error.name.lower().replace(" ", "_")
    headers = {name: value for name, value in error.get_headers(request.environ) if name == "Allow"}
    response = WebhookResponse(status, error.code or 500, message=HINT)
    return response.to_flask(**headers)
