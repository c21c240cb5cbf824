"""Brings one endpoint its notices, each until it has it or is given up."""

from collections.abc import Callable
from datetime import datetime

import httpx
import structlog

from app.config.notify import NotifyConfig
from app.errors import SubscriberGone, SubscriberUnavailable
from app.logs import locate_error
from app.notify.message import write_message
from app.notify.retry import compute_next_attempt, parse_retry_after
from app.store.notification_outbox import NotificationDelivery, NotificationOutbox

# Longer than connecting, sending and waiting for an answer may take together.
_LEASE_S = 60.0

log = structlog.get_logger()


class NotificationSender:
    """Sends what is due to an endpoint, at least once each. Its address and its secret are in no log."""

    def __init__(
        self,
        outbox: NotificationOutbox,
        config: NotifyConfig,
        *,
        clock: Callable[[], datetime],
        timeout_s: float,
    ) -> None:
        self._outbox = outbox
        self._config = config
        self._clock = clock
        self._timeout_s = timeout_s

    def run_once(self) -> None:
        """Send all that is due now; raises StoreUnavailable."""
        notification_delivery = self._lease_next()
        if notification_delivery is None:
            return
        with httpx.Client(timeout=self._timeout_s, follow_redirects=False) as http:
            while notification_delivery is not None:
                self._deliver(http, notification_delivery)
                notification_delivery = self._lease_next()

    def _lease_next(self) -> NotificationDelivery | None:
        return self._outbox.lease_next(self._config.name, now=self._clock(), lease_s=_LEASE_S)

    def _deliver(self, http: httpx.Client, notification_delivery: NotificationDelivery) -> None:
        try:
            self._send(http, notification_delivery)
        except SubscriberGone as error:
            self._give_up(notification_delivery, str(error))
        except SubscriberUnavailable as error:
            self._reschedule(notification_delivery, str(error), error.retry_after_s or 0.0)
        except Exception as error:  # noqa: BLE001  # what cannot be sent at all must not be tried for ever
            self._reschedule(notification_delivery, f"{type(error).__name__} at {locate_error(error)}", 0.0)
        else:
            self._outbox.mark_sent(notification_delivery)
            log.info("notice.sent", **_describe_notification_delivery(notification_delivery))

    def _send(self, http: httpx.Client, notification_delivery: NotificationDelivery) -> None:
        message = write_message(self._config, notification_delivery.notification, now=self._clock())
        try:
            # What it says beyond its status is of no use, however long it is.
            with http.stream(
                "POST", self._config.url, content=message.body, headers=dict(message.headers)
            ) as answer:
                status, retry_after = answer.status_code, answer.headers.get("Retry-After", "")
        except httpx.TimeoutException as error:
            raise SubscriberUnavailable(f"it did not answer within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise SubscriberUnavailable(f"no connection, or it broke ({type(error).__name__})") from error
        if status == httpx.codes.GONE:
            raise SubscriberGone("gone", "it answered 410: it wants to be told nothing more")
        if not 200 <= status < 300:
            hint = ": a redirect is not followed, name where it leads" if 300 <= status < 400 else ""
            wait_s = parse_retry_after(retry_after, now=self._clock())
            raise SubscriberUnavailable(f"it answered {status}{hint}", retry_after_s=wait_s)

    def _reschedule(
        self, notification_delivery: NotificationDelivery, message: str, min_wait_s: float
    ) -> None:
        due_at = compute_next_attempt(
            notification_delivery.attempts,
            fanned_out_at=notification_delivery.fanned_out_at,
            now=self._clock(),
            min_wait_s=min_wait_s,
        )
        if due_at is None:
            self._give_up(notification_delivery, message)
            return
        self._outbox.reschedule(notification_delivery, due_at=due_at, message=message)
        log.warning(
            "notice.postponed",
            **_describe_notification_delivery(notification_delivery),
            error=message,
            until=due_at.isoformat("T", "seconds"),
        )

    def _give_up(self, notification_delivery: NotificationDelivery, message: str) -> None:
        self._outbox.mark_dead(notification_delivery, message)
        log.error(
            "notice.undeliverable", **_describe_notification_delivery(notification_delivery), error=message
        )


def _describe_notification_delivery(notification_delivery: NotificationDelivery) -> dict[str, object]:
    return {
        "kind": notification_delivery.notification.kind,
        "subject": notification_delivery.notification.subject,
        "endpoint": notification_delivery.subscriber,
        "attempt": notification_delivery.attempts,
    }
