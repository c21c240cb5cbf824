"""Sender of signed events, with Truto's own retries and timeouts."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.http_client import ResponseTooLarge, open_http_client, send
from app.truto.coerce import as_object, as_text
from app.truto.signature import Encoding, sign

_MAX_RETRIES = 3
_MAX_BACKOFF_S = 10.0
_TIMEOUT_S = 30.0
_MAX_RESPONSE_BYTES = 65536
_MAX_MESSAGE_CHARS = 300
_STATUS_BY_HTTP_STATUS = {200: "accepted", 400: "refused", 401: "unauthorized"}


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """The URL to send to, and the signature's secret and format.

    first_backoff_s: the wait before the first of three retries; it doubles for each, up to 10 s.
    """

    url: str
    secret: str = field(repr=False)
    encoding: Encoding = "base64"
    with_format: bool = True
    first_backoff_s: float = 0.5


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """The result of sending one event.

    http_status: of the last answer, 0 for none. retries: their number. message: the reason in the last
    answer, printable; "" without one.
    """

    http_status: int
    retries: int = 0
    message: str = ""

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver accepted the event."""
        return self.http_status == 200


# The outcome of a receiver that is down for longer than Truto retries.
GIVEN_UP = SendOutcome(500, _MAX_RETRIES)


def open_sender_client(max_connections: int) -> httpx.Client:
    """Return an HTTP client for as many senders as it has connections."""
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    headers = {"User-Agent": "truto"}
    return open_http_client(allow_private=True, limits=limits, headers=headers, trust_env=False)


class WebhookSender:
    """Sends the events of one run in order, and counts the receiver's answers in `response_counts`.

    cancelled: once it is set, every further send raises CancelledError. on_rejected: called with the outcome
    of every attempt that the receiver did not accept; an exception ends the sending.
    """

    def __init__(
        self,
        target: WebhookTarget,
        client: httpx.Client,
        cancelled: threading.Event,
        *,
        on_rejected: Callable[[SendOutcome], None] = lambda _: None,
    ) -> None:
        self._target = target
        self._client = client
        self._cancelled = cancelled
        self._on_rejected = on_rejected
        self.response_counts: Counter[str] = Counter()

    def send(self, body: bytes, *, may_be_refused: bool = False) -> SendOutcome:
        """Sign and send a body, with up to three retries.

        may_be_refused: do not retry after a 400; Truto does this for `started` only.
        """
        target = self._target
        signature = sign(body, target.secret, encoding=target.encoding, with_format=target.with_format)
        outcome = SendOutcome(0)
        for attempt in range(_MAX_RETRIES + 1):
            if attempt:
                self._cancelled.wait(min(target.first_backoff_s * 2 ** (attempt - 1), _MAX_BACKOFF_S))
            http_status, message = self._post(body, signature)
            outcome = SendOutcome(http_status, attempt, message)
            if outcome.is_delivered or (may_be_refused and outcome.http_status == 400):
                break
            self._on_rejected(outcome)
        return outcome

    def send_forged(self, body: bytes, signature: str) -> None:
        """Send a body with this signature once, without retries. signature: "" for no header."""
        self._post(body, signature)

    def _post(self, body: bytes, signature: str) -> tuple[int, str]:
        """Return the status and the message of the answer; 0 and "" without one."""
        if self._cancelled.is_set():
            raise CancelledError
        headers = {"Content-Type": "application/json"} | (
            {"X-Truto-Signature": signature} if signature else {}
        )
        try:
            response = send(
                self._client,
                "POST",
                self._target.url,
                timeout_s=_TIMEOUT_S,
                max_bytes=_MAX_RESPONSE_BYTES,
                content=body,
                headers=headers,
            )
        except ResponseTooLarge as error:
            # The status alone decides: another receiver may answer with a page.
            self.response_counts[_STATUS_BY_HTTP_STATUS.get(error.http_status, "failed")] += 1
            return error.http_status, ""
        except httpx.RequestError:
            self.response_counts["failed"] += 1
            return 0, ""
        answer = _decode_object(response)
        # The `status` in the answer, or a status for its code if the receiver is not ours.
        by_status = _STATUS_BY_HTTP_STATUS.get(response.status_code, "failed")
        status = as_text(answer.get("status")) if by_status != "failed" else ""
        self.response_counts[status or by_status] += 1
        return response.status_code, _make_printable(as_text(answer.get("message")))


def _decode_object(response: httpx.Response) -> dict[str, Any]:
    try:
        return as_object(response.json())
    except (ValueError, RecursionError):
        return {}


def _make_printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))[:_MAX_MESSAGE_CHARS]
