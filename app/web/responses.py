"""JSON responses of the web process, including those to errors."""

import json
from dataclasses import dataclass
from functools import partial
from wsgiref.types import WSGIEnvironment

import structlog
from flask import Response, request
from werkzeug.datastructures import Headers

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
# Bytes to read after an error, so that the sender can finish and read the response.
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_TIMEOUT_S = 2.0
_STATUS_BY_ERROR = {SignatureError: "unauthorized", BodyTooLarge: "too_large", BodyIncomplete: "incomplete"}

# For nearly all responses: a status word and a UUID need no escaping.
_BODY = '{"status": "%s", "delivery": "%s"}'

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The response to a POST. delivery: its id, or "". message: the reason, or "".

    cause: a code that distinguishes the causes of a status in the counts of responses, or "".
    """

    http_status: int
    status: str
    delivery: str = ""
    message: str = ""
    cause: str = ""

    def to_flask(self, **headers: str) -> Response:
        """Return the Flask response. headers: names with "_" for "-"."""
        body = _BODY % (self.status, self.delivery) if self.delivery and not self.message else self._to_json()
        response = JsonResponse(body + "\n", self.http_status, [("Content-Type", "application/json")])
        response.counted_as = (self.status, self.cause)
        for name, value in headers.items():
            response.headers[name.replace("_", "-")] = value
        return response

    def _to_json(self) -> str:
        content = {"status": self.status, "delivery": self.delivery or None}
        return json.dumps(content | {"message": self.message} if self.message else content)


class JsonResponse(Response):
    """A response with complete headers, which Werkzeug need not work out for each request.

    counted_as: status and cause, for the counts of responses.
    """

    counted_as: tuple[str, str]

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:  # noqa: ARG002  # Werkzeug's signature
        return self.headers


def drain_after(response: Response) -> Response:
    """Discard the rest of the request's body after the response, while the sender still sends."""
    environ = request.environ
    response.call_on_close(partial(drain_body, environ, max_bytes=_DRAIN_BYTES, timeout_s=_DRAIN_TIMEOUT_S))
    return response


def error_response(error: Exception) -> Response:
    """Log an error and return its response. The request's body may be unread."""
    if isinstance(error, RequestRejected):
        status = _STATUS_BY_ERROR[type(error)]
        log.warning("delivery." + status, reason=str(error))
        cause = error.fault if isinstance(error, SignatureError) else ""
        response = WebhookResponse(error.http_status, status, message=str(error), cause=cause)
        return drain_after(response.to_flask())
    if isinstance(error, StoreUnavailable | Overloaded):
        log.error("delivery.unavailable", error=str(error))
        response = WebhookResponse(
            503,
            "unavailable",
            message="the delivery cannot be stored now: send it again",
            cause="overloaded" if isinstance(error, Overloaded) else "",
        )
        return drain_after(response.to_flask(Retry_After=str(_RETRY_AFTER_S)))
    # The error's message may quote the request's body, so it is not logged.
    log.error("request.failed", path=request.path, fault=type(error).__name__, at=locate_error(error))
    response = WebhookResponse(500, "failed", message="the receiver failed: find request.failed in its log")
    return drain_after(response.to_flask())
