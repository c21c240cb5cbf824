"""Brings one endpoint its notices, each until it has it or is given up."""

from collections.abc import Callable
from datetime import datetime

import httpx
import structlog

from app.config.notify import NotifySpec
from app.errors import EndpointGone, EndpointUnavailable
from app.logs import place_of
from app.notify.message import write_message
from app.notify.retry import next_attempt, retry_after_s
from app.store.notification_outbox import Outbox, Post

# Longer than connecting, sending and waiting for an answer may take together.
_LEASE_S = 60.0

log = structlog.get_logger()


class Courier:
    """Sends what is due to an endpoint, at least once each. Its address and its secret are in no log."""

    def __init__(
        self, outbox: Outbox, spec: NotifySpec, *, clock: Callable[[], datetime], timeout_s: float
    ) -> None:
        self._outbox = outbox
        self._spec = spec
        self._clock = clock
        self._timeout_s = timeout_s

    def send_due(self) -> None:
        """Send all that is due now; raises StoreUnavailable."""
        post = self._claim()
        if post is None:
            return
        with httpx.Client(timeout=self._timeout_s, follow_redirects=False) as http:
            while post is not None:
                self._bring(http, post)
                post = self._claim()

    def _claim(self) -> Post | None:
        return self._outbox.claim(self._spec.name, now=self._clock(), lease_s=_LEASE_S)

    def _bring(self, http: httpx.Client, post: Post) -> None:
        try:
            self._send(http, post)
        except EndpointGone as error:
            self._give_up(post, str(error))
        except EndpointUnavailable as error:
            self._try_again(post, str(error), error.retry_after_s or 0.0)
        except Exception as error:  # noqa: BLE001  # what cannot be sent at all must not be tried for ever
            self._try_again(post, f"{type(error).__name__} at {place_of(error)}", 0.0)
        else:
            self._outbox.sent(post)
            log.info("notice.sent", **_about(post))

    def _send(self, http: httpx.Client, post: Post) -> None:
        message = write_message(self._spec, post.notice, now=self._clock())
        try:
            # What it says beyond its status is of no use, however long it is.
            with http.stream(
                "POST", self._spec.url, content=message.body, headers=dict(message.headers)
            ) as answer:
                status, asked = answer.status_code, answer.headers.get("Retry-After", "")
        except httpx.TimeoutException as error:
            raise EndpointUnavailable(f"it did not answer within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise EndpointUnavailable(f"no connection, or it broke ({type(error).__name__})") from error
        if status == httpx.codes.GONE:
            raise EndpointGone("gone", "it answered 410: it wants to be told nothing more")
        if not 200 <= status < 300:
            hint = ": a redirect is not followed, name where it leads" if 300 <= status < 400 else ""
            wait_s = retry_after_s(asked, now=self._clock())
            raise EndpointUnavailable(f"it answered {status}{hint}", retry_after_s=wait_s)

    def _try_again(self, post: Post, message: str, at_least_s: float) -> None:
        due_at = next_attempt(
            post.attempts, posted_at=post.posted_at, now=self._clock(), at_least_s=at_least_s
        )
        if due_at is None:
            self._give_up(post, message)
            return
        self._outbox.postpone(post, due_at=due_at, message=message)
        log.warning("notice.postponed", **_about(post), error=message, until=due_at.isoformat("T", "seconds"))

    def _give_up(self, post: Post, message: str) -> None:
        self._outbox.give_up(post, message)
        log.error("notice.undeliverable", **_about(post), error=message)


def _about(post: Post) -> dict[str, object]:
    return {
        "kind": post.notice.kind,
        "subject": post.notice.subject,
        "endpoint": post.endpoint,
        "attempt": post.attempts,
    }
