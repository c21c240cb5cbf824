"""The steps of `benchmarks.quick` that need PostgreSQL and Redis."""

import io
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from uuid import UUID
from wsgiref.types import WSGIApplication, WSGIEnvironment

import structlog

from app.config.load import Config
from app.config.routes import build_default_routes
from app.config.settings import read_settings
from app.database.engine import open_database
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from app.runs.reconcile import reconcile_stored
from app.sinks.registry import SinkRegistry
from app.sinks.sql.rows import make_rows
from app.store.inbox import Inbox
from app.store.incoming import read_incoming
from app.store.models import IncomingDelivery
from app.store.pending import PendingDeliveries
from app.store.runs import Runs
from app.truto.records import read_records
from app.truto.signature import parse_signature_header, sign
from app.truto.target_url import WEBHOOK_PATH
from app.web.application import create_app
from app.web.enqueuer import NewDelivery
from benchmarks.quick_steps import RUN, SECRET, Step, make_body
from tests.support.sent_records import send
from workers.delivery.processor import DeliveryProcessor

_GROUP = 16

_Calls = Sequence[Callable[[], object]]


class ServiceSteps:
    """The steps, in groups of 16 deliveries where the service groups them too."""

    def __init__(self, database_url: str, redis_url: str) -> None:
        # Log lines would go between the results.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        variables = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "TRUTO_WEBHOOK_SECRET": SECRET}
        self._settings = read_settings(variables)
        self._routes = build_default_routes(database_url)
        self._database = open_database(database_url)
        self._inbox = Inbox(self._database)
        self._numbers = itertools.count(1)

    def build_steps(self) -> Mapping[str, Step]:
        """Return the steps by name."""
        return {
            "insert": Step(self._prepare_inserts, _GROUP),
            "accept": Step(self._prepare_requests, 1),
            "enqueue": Step(self._prepare_jobs, _GROUP),
            "lease": Step(self._prepare_leases, _GROUP),
            "rows": Step(self._prepare_rows, 1),
            "deliver": Step(self._prepare_deliveries, _GROUP),
            "reconcile": Step(self._prepare_reconciliations, _GROUP),
        }

    def _prepare_inserts(self, count: int) -> _Calls:
        return [partial(self._inbox.put, self._make_group()) for _ in range(count)]

    def _prepare_requests(self, count: int) -> _Calls:
        app = create_app(Config(self._settings, self._routes))
        return [partial(_request, app, _make_environ(make_body(next(self._numbers)))) for _ in range(count)]

    def _prepare_jobs(self, count: int) -> _Calls:
        queue = DeliveryQueue(connect_redis(self._settings.redis_url, tls_verify=True), "quick")
        return [partial(queue.enqueue, [*map(NewDelivery, self._store_group())]) for _ in range(count)]

    def _prepare_leases(self, count: int) -> _Calls:
        lease = partial(PendingDeliveries(self._database).lease, worker="w", lease_s=60.0)
        return [partial(lease, self._store_group(), now=datetime.now(UTC)) for _ in range(count)]

    def _prepare_rows(self, count: int) -> _Calls:
        parsed = read_records(make_body(0))
        assert parsed is not None
        page = send([value for _, value in parsed.records])
        [route] = self._routes.routes
        return [lambda: make_rows(page.build_batch(route), route.columns)] * count

    def _prepare_deliveries(self, count: int) -> _Calls:
        processor = DeliveryProcessor(self._database, self._routes, SinkRegistry(self._routes))
        return [partial(processor.deliver, self._store_group()) for _ in range(count)]

    def _prepare_reconciliations(self, count: int) -> _Calls:
        processor = DeliveryProcessor(self._database, self._routes, SinkRegistry(self._routes))
        processor.deliver(self._store_group("reconciled"))
        run = Runs(self._database).get("reconciled")
        assert run is not None
        return [lambda: reconcile_stored(self._database, run, now=datetime.now(UTC))] * count

    def _store_group(self, run: str = RUN) -> list[UUID]:
        return [receipt.delivery_id for receipt in self._inbox.put(self._make_group(run))]

    def _make_group(self, run: str = RUN) -> list[IncomingDelivery]:
        return [self._make_delivery(run) for _ in range(_GROUP)]

    def _make_delivery(self, run: str) -> IncomingDelivery:
        body = make_body(next(self._numbers), run)
        mac = parse_signature_header(sign(body, SECRET))
        return read_incoming(body, mac, datetime.now(UTC), origin=self._settings)


def _make_environ(body: bytes) -> WSGIEnvironment:
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": WEBHOOK_PATH,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_X_TRUTO_SIGNATURE": sign(body, SECRET),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
    }


def _request(app: WSGIApplication, environ: WSGIEnvironment) -> None:
    statuses: list[str] = []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda _: None

    assert b"".join(app(environ, start_response))
    assert statuses == ["200 OK"]
