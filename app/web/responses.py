"""What a sender is told: JSON, whatever happened."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from wsgiref.types import WSGIEnvironment

import structlog

from app.errors import BodyIncomplete, BodyTooLarge, Overloaded, Rejected, SignatureError, StoreUnavailable
from app.logs import place_of
from app.web.request_body import discard_body

_RETRY_AFTER_S = 5
# What a sender may still push at us after a refusal, so that it gets to read the answer.
_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_S = 2.0
_WORDS = {SignatureError: "unauthorized", BodyTooLarge: "too_large", BodyIncomplete: "incomplete"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status, a word, the delivery's id if there is one, and why. headers: beside the usual ones."""

    http_status: int
    status: str
    delivery: str = ""
    message: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def status_line(self) -> str:
        """The status as WSGI wants it."""
        return f"{self.http_status} {HTTPStatus(self.http_status).phrase}"

    @property
    def body(self) -> bytes:
        """The answer as JSON."""
        told = {"status": self.status, "delivery": self.delivery or None}
        return json.dumps(told | {"message": self.message} if self.message else told).encode() + b"\n"

    def all_headers(self, body: bytes) -> list[tuple[str, str]]:
        """Return the headers of the answer with this body."""
        return [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *self.headers]


def answer_fault(error: Exception) -> Answer:
    """Log a fault and return what its sender is told."""
    if isinstance(error, Rejected):
        word = _WORDS[type(error)]
        log.warning("delivery." + word, reason=str(error))
        return Answer(error.http_status, word, message=str(error))
    if isinstance(error, StoreUnavailable | Overloaded):
        log.error("delivery.unavailable", error=str(error))
        later = (("Retry-After", str(_RETRY_AFTER_S)),)
        return Answer(503, "unavailable", message="nowhere to store it: send it again", headers=later)
    # The message of a fault may quote what was sent.
    log.error("delivery.failed", fault=type(error).__name__, at=place_of(error))
    return Answer(500, "failed", message="a fault of the receiver: send it again")


def finish(environ: WSGIEnvironment, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Send an answer, then let the sender finish a little: its body may be unread."""
    yield from parts
    discard_body(environ, most_bytes=_DISCARD_BYTES, most_s=_DISCARD_S)
