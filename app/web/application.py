"""The WSGI application: Flask, with the endpoint in front of it."""

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from app.config.routes import Routes
from app.config.settings import Settings
from app.database.engine import open_store
from app.logs import place_of
from app.redis.queue import DeliveryQueue, connect
from app.redis.spool import Spool
from app.runs.gate import Gate
from app.store.inbox import Inbox
from app.store.pending import Worklist
from app.store.runs import RunBook
from app.web.enqueuer import Waker
from app.web.failover_inbox import COMMIT_DEADLINE_S, Storage
from app.web.health import add_health
from app.web.memory_budget import Room
from app.web.responses import Answer, finish
from app.web.webhook import HINT, Endpoint
from app.web.webhook_handler import Receiver

_LARGEST_BODIES_AT_ONCE = 2

log = structlog.get_logger()


def create_app(settings: Settings, routes: Routes) -> Flask:
    """Build the application; call it in the process that serves, since it starts a thread."""
    app = Flask(__name__, static_folder=None)
    store = open_store(settings.database_url, lock_wait_s=COMMIT_DEADLINE_S)
    inbox, book, worklist = Inbox(store), RunBook(store), Worklist(store)
    redis = connect(settings.redis_url, tls_verify=settings.redis_tls_verify)
    queue, spool = DeliveryQueue(redis), Spool(redis)
    storage = Storage(inbox, spool)
    waker = Waker(queue)
    waker.start()
    gate = Gate(
        routes,
        settings.maintenance,
        open_run=lambda seen, since: storage.ask(lambda: book.open(seen, heard_since=since)),
        oldest_pending=lambda: storage.ask(worklist.oldest_pending),
    )
    receiver = Receiver(
        settings,
        refuse=gate.refusal,
        put=storage.put,
        wake=lambda receipt: waker.wake(receipt.delivery_id),
    )
    add_health(app, store, queue, spool)
    _answer_faults(app)
    app.wsgi_app = Endpoint(  # type: ignore[method-assign]  # as Flask's own documentation wraps it
        receiver.receive,
        most_bytes=settings.max_body_bytes,
        room=Room(_LARGEST_BODIES_AT_ONCE * settings.max_body_bytes),
        others=app.wsgi_app,
    )
    return app


def _answer_faults(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def elsewhere(error: HTTPException) -> Response:
        word = error.name.lower().replace(" ", "_")
        allowed = tuple((name, value) for name, value in error.get_headers() if name == "Allow")
        return _respond(Answer(error.code or 500, word, message=HINT, headers=allowed))

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        # Not Flask's own way: the message of a fault may quote what was sent.
        log.error("request.failed", path=request.path, fault=type(error).__name__, at=place_of(error))
        return _respond(Answer(500, "failed", message="a fault of the receiver: its log says where"))


def _respond(answer: Answer) -> Response:
    body = answer.body
    return Response(finish(request.environ, [body]), answer.http_status, answer.all_headers(body))
