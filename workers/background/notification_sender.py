"""Puts notices on their way, and brings them to those who want to be told."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import httpx
import structlog

from app.backoff import compute_backoff_s, parse_retry_after_s
from app.config.notify import NotifyConfig
from app.database.engine import Database
from app.errors import SubscriberGone, SubscriberUnavailable
from app.logs import locate_error
from app.notify.message import write_message
from app.store.notification_outbox import NotificationDelivery, NotificationOutbox
from workers.background.loop import PeriodicTask

# Longer than connecting, sending and waiting for an answer may take together.
_LEASE_S = 60.0
_FIRST_RETRY_DELAY_S = 5.0
_MAX_RETRY_DELAY_S = 3600.0
_JITTER = (0.8, 1.0)
_GIVE_UP_AFTER_S = 24 * 3600.0

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
            wait_s = parse_retry_after_s(retry_after, now=self._clock())
            raise SubscriberUnavailable(f"it answered {status}{hint}", retry_after_s=wait_s)

    def _reschedule(
        self, notification_delivery: NotificationDelivery, message: str, min_wait_s: float
    ) -> None:
        now = self._clock()
        if (now - notification_delivery.fanned_out_at).total_seconds() >= _GIVE_UP_AFTER_S:
            self._give_up(notification_delivery, message)
            return
        backoff_s = compute_backoff_s(
            notification_delivery.attempts,
            base_s=_FIRST_RETRY_DELAY_S,
            max_s=_MAX_RETRY_DELAY_S,
            jitter=_JITTER,
        )
        due_at = now + timedelta(seconds=min(max(min_wait_s, backoff_s), _GIVE_UP_AFTER_S))
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


_INTERVAL_S = 2.0
_TIMEOUT_S = 10.0
_FAN_OUT_LIMIT = 100


def _now() -> datetime:
    return datetime.now(UTC)


class NotificationDispatcher:
    """Posts notices, and sends to each endpoint in a thread of its own: one that is stuck holds up no other.

    Any number may run, on any number of machines. timeout_s: how long an endpoint has to answer.
    """

    def __init__(
        self,
        store: Database,
        configs: Sequence[NotifyConfig],
        *,
        clock: Callable[[], datetime] = _now,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._outbox = NotificationOutbox(store)
        self._configs = configs
        self._clock = clock
        self._task = PeriodicTask("notify.failed", then=f"tried again every {_INTERVAL_S:g} s")
        # Posted also where nobody is to be told: whoever is named later is not told of old times.
        self._steps: dict[str, Callable[[], None]] = {"post": self._fan_out}
        for config in configs:
            sender = NotificationSender(self._outbox, config, clock=clock, timeout_s=timeout_s)
            self._steps[f"send to {config.name}"] = sender.run_once

    def start(self) -> None:
        """Do it every two seconds in threads of its own, which end with the process."""
        for step in self._steps:
            threading.Thread(
                target=self._repeat_step, args=(step,), name=f"notifier: {step}", daemon=True
            ).start()

    def run_once(self) -> None:
        """Do everything there is to do now, one after the other. A fault is logged once, and passes."""
        for step, action in self._steps.items():
            self._task.run_step(step, action)

    def _repeat_step(self, step: str) -> None:
        pause = threading.Event()
        while True:
            self._task.run_step(step, self._steps[step])
            pause.wait(_INTERVAL_S)

    def _fan_out(self) -> None:
        while self._outbox.fan_out(self._configs, now=self._clock(), limit=_FAN_OUT_LIMIT) == _FAN_OUT_LIMIT:
            pass
