"""JSON responses of the web process, including those to errors."""

import json
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Self
from uuid import UUID
from wsgiref.types import WSGIEnvironment

import structlog
from flask import Response, request
from pydantic import BaseModel
from werkzeug.datastructures import Headers

from app.errors import (
    BodyIncomplete,
    BodyTooLarge,
    Overloaded,
    RequestRejected,
    SignatureError,
    StoreUnavailable,
)
from app.logs import locate_error, log_limited

_RETRY_AFTER_S = 5


class WebhookStatus(StrEnum):
    """The statuses of responses to POSTs."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    QUARANTINED = "quarantined"
    REFUSED = "refused"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INCOMPLETE = "incomplete"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
    REJECTED_ONCE = "rejected_once"

    @property
    def http_status(self) -> int:
        """The HTTP status of the response."""
        return _HTTP_STATUSES[self]


_HTTP_STATUSES = {
    WebhookStatus.ACCEPTED: 200,
    WebhookStatus.DUPLICATE: 200,
    WebhookStatus.QUARANTINED: 200,
    # Truto stops a run if `started` gets a 400, so no other status may have this code.
    WebhookStatus.REFUSED: 400,
    WebhookStatus.UNAUTHORIZED: 401,
    WebhookStatus.NOT_FOUND: 404,
    WebhookStatus.METHOD_NOT_ALLOWED: 405,
    WebhookStatus.INCOMPLETE: 408,
    WebhookStatus.TOO_LARGE: 413,
    WebhookStatus.FAILED: 500,
    WebhookStatus.UNAVAILABLE: 503,
    WebhookStatus.REJECTED_ONCE: 503,
}


class WebhookBody(BaseModel):
    """The JSON of a response. status: a WebhookStatus. delivery: the id of the stored delivery."""

    status: str
    delivery: UUID | None = None
    message: str = ""


_STATUS_BY_ERROR = {
    SignatureError: WebhookStatus.UNAUTHORIZED,
    BodyTooLarge: WebhookStatus.TOO_LARGE,
    BodyIncomplete: WebhookStatus.INCOMPLETE,
}

# For nearly all responses: a status word and a UUID need no escaping.
_BODY = '{"status": "%s", "delivery": "%s"}'

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The response to a POST. delivery: its id, or "". message: the reason, or "".

    cause: a code that distinguishes the causes of a status in the counts of responses, or "".
    """

    status: str
    http_status: int
    delivery: str = ""
    message: str = ""
    cause: str = ""

    @classmethod
    def build(cls, status: WebhookStatus, delivery: str = "", message: str = "", *, cause: str = "") -> Self:
        """Return the response with a status and its HTTP status."""
        return cls(status.value, status.http_status, delivery, message, cause)

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


def error_response(error: Exception) -> Response:
    """Log an error and return its response. The request's body may be unread."""
    if isinstance(error, RequestRejected):
        status = _STATUS_BY_ERROR[type(error)]
        log_limited("delivery." + status, reason=str(error))
        cause = error.fault if isinstance(error, SignatureError) else ""
        return WebhookResponse.build(status, message=str(error), cause=cause).to_flask()
    if isinstance(error, StoreUnavailable | Overloaded):
        log_limited("delivery.unavailable", level=logging.ERROR, error=str(error))
        response = WebhookResponse.build(
            WebhookStatus.UNAVAILABLE,
            message="the delivery cannot be stored now: send it again",
            cause="overloaded" if isinstance(error, Overloaded) else "",
        )
        return response.to_flask(Retry_After=str(_RETRY_AFTER_S))
    # The error's message may quote the request's body, so it is not logged.
    log.error("request.failed", path=request.path, fault=type(error).__name__, location=locate_error(error))
    message = "the receiver failed: find request.failed in its log"
    return WebhookResponse.build(WebhookStatus.FAILED, message=message).to_flask()
