"""POSTs events as Truto does: waits for the answer, retries three times, then gives up."""

import json
import time
from collections import Counter

import httpx

from app.simulator.plan import Plan
from app.truto.signature import sign

_RETRIES = 3
_LONGEST_BACKOFF_S = 10.0
_TIMEOUT_S = 30.0
_WORDS = {200: "accepted", 400: "refused", 401: "unauthorized"}


class Sender:
    """One connection to the receiver; counts what it was told in `answers`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._client = httpx.Client(timeout=_TIMEOUT_S, headers={"User-Agent": "truto"}, trust_env=False)
        self.answers: Counter[str] = Counter()

    def send(self, body: bytes) -> str:
        """Deliver a body; return what the receiver made of it, or "failed" where Truto would drop it."""
        signature = sign(
            body, self._plan.secret, encoding=self._plan.encoding, with_format=self._plan.with_format
        )
        backoff_s = self._plan.first_backoff_s
        for attempt in range(_RETRIES + 1):
            if attempt:
                time.sleep(min(backoff_s, _LONGEST_BACKOFF_S))
                backoff_s *= 2
            word, http_status = self._post(body, signature)
            self.answers[word] += 1
            if http_status in (200, 400):
                return word
        return "failed"

    def send_forged(self, body: bytes, signature: str) -> None:
        """Send what Truto did not sign, once."""
        self.answers[self._post(body, signature)[0]] += 1

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _post(self, body: bytes, signature: str) -> tuple[str, int]:
        headers = {"Content-Type": "application/json"} | (
            {"X-Truto-Signature": signature} if signature else {}
        )
        try:
            response = self._client.post(self._plan.url, content=body, headers=headers)
        except httpx.TransportError:
            return "failed", 0
        try:
            word = response.json()["status"]
        except (json.JSONDecodeError, KeyError, TypeError):
            word = _WORDS.get(response.status_code, "failed")
        return str(word) if response.status_code in _WORDS else "failed", response.status_code
