"""The JSON answers of the web process, and the answer to every error."""

import json
from dataclasses import dataclass
from functools import partial

import structlog
from flask import Response, request

from app.errors import (
    BodyIncomplete,
    BodyTooLarge,
    Overloaded,
    RequestRejected,
    SignatureError,
    StoreUnavailable,
)
from app.logs import locate_error
from app.web.request_body import drain_body

_RETRY_AFTER_S = 5
# A refused sender may still send this much, so that it gets to read the answer.
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_TIMEOUT_S = 2.0
_STATUS_WORDS = {SignatureError: "unauthorized", BodyTooLarge: "too_large", BodyIncomplete: "incomplete"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """An answer to a POST: HTTP status, status word, the delivery's id if there is one, and the reason."""

    http_status: int
    status: str
    delivery: str = ""
    message: str = ""

    def to_flask(self, **headers: str) -> Response:
        """Return the answer as Flask sends it. headers: names with "_" for "-"."""
        content = {"status": self.status, "delivery": self.delivery or None}
        body = json.dumps(content | {"message": self.message} if self.message else content).encode() + b"\n"
        response = Response(body, self.http_status, content_type="application/json")
        for name, value in headers.items():
            response.headers[name.replace("_", "-")] = value
        return response


def drain_after(response: Response) -> Response:
    """Have the rest of the request's body read after the response: its sender may still be sending."""
    environ = request.environ
    response.call_on_close(partial(drain_body, environ, max_bytes=_DRAIN_BYTES, timeout_s=_DRAIN_TIMEOUT_S))
    return response


def error_response(error: Exception) -> Response:
    """Log an error and return its answer. The body of the request may be unread."""
    if isinstance(error, RequestRejected):
        word = _STATUS_WORDS[type(error)]
        log.warning("delivery." + word, reason=str(error))
        return drain_after(WebhookResponse(error.http_status, word, message=str(error)).to_flask())
    if isinstance(error, StoreUnavailable | Overloaded):
        log.error("delivery.unavailable", error=str(error))
        answer = WebhookResponse(503, "unavailable", message="nowhere to store it: send it again")
        return drain_after(answer.to_flask(Retry_After=str(_RETRY_AFTER_S)))
    # Without the error's message, which may quote the request's body.
    log.error("request.failed", path=request.path, fault=type(error).__name__, at=locate_error(error))
    answer = WebhookResponse(500, "failed", message="an error in the receiver: its log says where")
    return drain_after(answer.to_flask())
