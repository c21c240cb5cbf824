"""The Flask application: URLs, and an answer for every fault."""

from collections.abc import Iterator
from typing import Any

import structlog
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from app.config import Settings
from app.errors import BodyIncomplete, BodyTooLarge, Overloaded, Rejected, SignatureError, StoreUnavailable
from app.logs import place_of
from app.queue import DeliveryQueue, connect
from app.routes import Routes
from app.store.engine import open_store
from app.store.inbox import Inbox
from app.store.spool import Spool
from app.truto.signature import parse_header
from app.web.body import discard_body, read_body
from app.web.health import add_health
from app.web.receive import Answer, Receiver
from app.web.room import Room, Share
from app.web.storage import COMMIT_DEADLINE_S, Storage
from app.web.waker import Waker

WEBHOOK_PATH = "/webhooks/truto"
SIGNATURE_HEADER = "X-Truto-Signature"
_RETRY_AFTER_S = 5
_LARGEST_BODIES_AT_ONCE = 2
# What a sender may still push at us after a refusal, so that it gets to read the answer.
_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_S = 2.0
_WORDS = {SignatureError: "unauthorized", BodyTooLarge: "too_large", BodyIncomplete: "incomplete"}

log = structlog.get_logger()


def create_app(settings: Settings, routes: Routes) -> Flask:
    """Build the application; call it in the process that serves, since it starts a thread."""
    app = Flask(__name__, static_folder=None)
    store = open_store(settings.database_url, lock_wait_s=COMMIT_DEADLINE_S)
    inbox = Inbox(store)
    redis = connect(settings.redis_url, tls_verify=settings.redis_tls_verify)
    queue, spool = DeliveryQueue(redis), Spool(redis)
    storage = Storage(inbox, spool)
    room = Room(_LARGEST_BODIES_AT_ONCE * settings.max_body_bytes)
    waker = Waker(queue)
    waker.start()
    receiver = Receiver(
        settings, routes, put=storage.put, wake=lambda receipt: waker.wake(receipt.delivery_id)
    )

    @app.post(WEBHOOK_PATH)
    def receive() -> Response:
        signature = request.headers.get(SIGNATURE_HEADER)
        # Before the body: whoever cannot sign does not get to make us read.
        parse_header(signature)
        with Share(room) as share:
            body = read_body(request, settings.max_body_bytes, share)
            return _respond(receiver.receive(body, signature))

    add_health(app, store, queue, spool)
    _answer_faults(app)
    return app


def _respond(answer: Answer) -> Response:
    body: dict[str, Any] = {"status": answer.status, "delivery": answer.delivery or None}
    if answer.message:
        body["message"] = answer.message
    response = jsonify(body)
    response.status_code = answer.http_status
    return response


def _answer_faults(app: Flask) -> None:
    @app.errorhandler(Rejected)
    def rejected(error: Rejected) -> Response:
        word = _WORDS[type(error)]
        log.warning("delivery." + word, reason=str(error))
        response = _respond(Answer(error.http_status, word, "", str(error)))
        return _end_with(response)

    @app.errorhandler(StoreUnavailable)
    @app.errorhandler(Overloaded)
    def nowhere(error: StoreUnavailable | Overloaded) -> Response:
        log.error("delivery.unavailable", error=str(error))
        response = _respond(Answer(503, "unavailable", "", "nowhere to store it: send it again"))
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
        return _end_with(response) if isinstance(error, Overloaded) else response

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        # Not Flask's own way: the message of a fault may quote what was sent.
        log.error("delivery.failed", fault=type(error).__name__, at=place_of(error))
        return _end_with(_respond(Answer(500, "failed", "", "a fault of the receiver: send it again")))

    @app.errorhandler(HTTPException)
    def elsewhere(error: HTTPException) -> Response:
        word = error.name.lower().replace(" ", "_")
        message = f"webhooks are received by POST {WEBHOOK_PATH}"
        response = _respond(Answer(error.code or 500, word, "", message))
        response.headers.extend((name, value) for name, value in error.get_headers() if name == "Allow")
        return _end_with(response)


def _end_with(response: Response) -> Response:
    """Send the answer, then let the sender finish a little: the body may be unread."""
    environ = request.environ
    body = response.get_data()

    def send() -> Iterator[bytes]:
        yield body
        discard_body(environ, most_bytes=_DISCARD_BYTES, most_s=_DISCARD_S)

    response.response = send()
    response.headers["Content-Length"] = str(len(body))
    return response
