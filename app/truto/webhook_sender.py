"""POSTs events as Truto does: waits for the answer, retries three times, then gives up."""

import threading
from collections import Counter
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Literal

import httpx

from app.truto.signature import sign

_MAX_RETRIES = 3
_MAX_BACKOFF_S = 10.0
_TIMEOUT_S = 30.0
_STATUS_BY_HTTP_STATUS = {200: "accepted", 400: "refused", 401: "unauthorized"}


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """Where to send, and how to sign. first_backoff_s: doubled for each of three retries, at most 10 s."""

    url: str
    secret: str = field(repr=False)
    encoding: Literal["hex", "base64"] = "hex"
    with_format: bool = True
    first_backoff_s: float = 0.5


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """How sending something ended.

    http_status: of the last answer, 0 for none; anything but 200 was given up. retries: how many it took.
    """

    http_status: int
    retries: int = 0

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.http_status == 200


# As of a receiver that was down for longer than Truto tries.
GIVEN_UP = SendOutcome(500, _MAX_RETRIES)


def open_http_client(max_connections: int) -> httpx.Client:
    """Return what senders send with: as many connections as there are senders at the time."""
    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    headers = {"User-Agent": "truto"}
    return httpx.Client(timeout=_TIMEOUT_S, limits=limits, headers=headers, trust_env=False)


class WebhookSender:
    """Sends events one after the other, such as those of a run; counts what it was told in `answers`.

    cancelled: once it is set, nothing more is sent, and sending raises CancelledError.
    """

    def __init__(self, target: WebhookTarget, client: httpx.Client, cancelled: threading.Event) -> None:
        self._target = target
        self._client = client
        self._cancelled = cancelled
        self.response_counts: Counter[str] = Counter()

    def send(self, body: bytes, *, may_be_refused: bool = False) -> SendOutcome:
        """Deliver a body, or give it up.

        may_be_refused: take a 400 for an answer as well, as Truto does for `started` alone.
        """
        target = self._target
        signature = sign(body, target.secret, encoding=target.encoding, with_format=target.with_format)
        outcome = SendOutcome(0)
        for attempt in range(_MAX_RETRIES + 1):
            if attempt:
                self._cancelled.wait(min(target.first_backoff_s * 2 ** (attempt - 1), _MAX_BACKOFF_S))
            outcome = SendOutcome(self._post(body, signature), attempt)
            if outcome.is_delivered or (may_be_refused and outcome.http_status == 400):
                break
        return outcome

    def send_forged(self, body: bytes, signature: str) -> None:
        """Send what Truto did not sign, once. signature: "" for none."""
        self._post(body, signature)

    def _post(self, body: bytes, signature: str) -> int:
        if self._cancelled.is_set():
            raise CancelledError
        headers = {"Content-Type": "application/json"} | (
            {"X-Truto-Signature": signature} if signature else {}
        )
        try:
            response = self._client.post(self._target.url, content=body, headers=headers)
        except httpx.RequestError:
            self.response_counts["failed"] += 1
            return 0
        self.response_counts[_read_response_status(response)] += 1
        return response.status_code


def _read_response_status(response: httpx.Response) -> str:
    """Return what an answer says, or what its status means where the receiver is another one."""
    by_status = _STATUS_BY_HTTP_STATUS.get(response.status_code, "failed")
    try:
        status = response.json()["status"]
    except (ValueError, KeyError, TypeError):
        return by_status
    return status if isinstance(status, str) and by_status != "failed" else by_status
