"""Sending of notifications: fanned out to subscribers, and delivered over HTTP."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import httpx
import structlog

from app.backoff import compute_backoff_s, parse_retry_after_s
from app.clock import utc_now
from app.config.notify import NotifyConfig
from app.database.engine import Database
from app.errors import SubscriberGone, SubscriberUnavailable
from app.http_client import PrivateAddress, open_http_client, send
from app.logs import locate_error
from app.notify.message import write_message
from app.store.notification_outbox import NotificationDelivery, NotificationOutbox
from workers.background.loop import PeriodicTask

_INTERVAL_S = 2.0
_TIMEOUT_S = 10.0
# Longer than connecting, sending and waiting for a response can take together.
_LEASE_S = 60.0
_FIRST_RETRY_DELAY_S = 5.0
_MAX_RETRY_DELAY_S = 3600.0
_JITTER = (0.8, 1.0)
_GIVE_UP_AFTER_S = 24 * 3600.0
_FAN_OUT_LIMIT = 100

log = structlog.get_logger()


class NotificationFanOut(PeriodicTask):
    """Creates a notification delivery for every subscriber of a new notification.

    It runs without subscribers too: a subscriber added later receives no old notifications.
    """

    def __init__(
        self, outbox: NotificationOutbox, configs: Sequence[NotifyConfig], *, clock: Callable[[], datetime]
    ) -> None:
        super().__init__("notification fan-out", interval_s=_INTERVAL_S)
        self._outbox = outbox
        self._configs = configs
        self._clock = clock

    def run_once(self) -> None:
        """Fan out all new notifications."""
        self.run_step("fan_out", self._fan_out)

    def _fan_out(self) -> None:
        while self._outbox.fan_out(self._configs, now=self._clock(), limit=_FAN_OUT_LIMIT) == _FAN_OUT_LIMIT:
            pass


class NotificationSender(PeriodicTask):
    """Sends one subscriber's notifications, each at least once. Logs contain no URL and no secret."""

    def __init__(
        self,
        outbox: NotificationOutbox,
        config: NotifyConfig,
        *,
        clock: Callable[[], datetime],
        timeout_s: float,
        public_url: str,
    ) -> None:
        super().__init__(f"notification sender {config.name}", interval_s=_INTERVAL_S)
        self._public_url = public_url
        self._outbox = outbox
        self._config = config
        self._clock = clock
        self._timeout_s = timeout_s

    def run_once(self) -> None:
        """Send all notifications that are due."""
        self.run_step("send", self._send_due)

    def _send_due(self) -> None:
        delivery = self._lease_next()
        if delivery is None:
            return
        with open_http_client(allow_private=self._config.allow_private) as http:
            while delivery is not None:
                self._deliver(http, delivery)
                delivery = self._lease_next()

    def _lease_next(self) -> NotificationDelivery | None:
        return self._outbox.lease_next(self._config.name, now=self._clock(), lease_s=_LEASE_S)

    def _deliver(self, http: httpx.Client, delivery: NotificationDelivery) -> None:
        try:
            self._send(http, delivery)
        except SubscriberGone as error:
            self._give_up(delivery, str(error))
        except SubscriberUnavailable as error:
            self._reschedule(delivery, str(error), error.retry_after_s or 0.0)
        except Exception as error:  # noqa: BLE001  # an unsendable notification must not block the others
            self._reschedule(delivery, f"{type(error).__name__} at {locate_error(error)}", 0.0)
        else:
            self._outbox.mark_sent(delivery)
            log.info("notification.sent", **_describe_delivery(delivery))

    def _send(self, http: httpx.Client, delivery: NotificationDelivery) -> None:
        message = write_message(
            self._config,
            delivery.notification,
            now=self._clock(),
            public_url=self._public_url,
            is_ending=delivery.is_ending,
        )
        try:
            # Only the headers are read: a response body of any length is ignored.
            response = send(
                http,
                "POST",
                self._config.url,
                timeout_s=self._timeout_s,
                max_bytes=None,
                content=message.body,
                headers=dict(message.headers),
            )
        except PrivateAddress as error:
            raise SubscriberUnavailable(f"the subscriber {error}") from error
        except httpx.TimeoutException as error:
            raise SubscriberUnavailable(f"no response within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise SubscriberUnavailable(f"the connection failed ({type(error).__name__})") from error
        status, retry_after = response.status_code, response.headers.get("Retry-After", "")
        if status == httpx.codes.GONE:
            raise SubscriberGone("gone", "the subscriber answered 410: it wants no more notifications")
        if not 200 <= status < 300:
            hint = ": redirects are not followed, set `url` to the target" if 300 <= status < 400 else ""
            raise SubscriberUnavailable(
                f"the subscriber answered {status}{hint}",
                retry_after_s=parse_retry_after_s(retry_after, now=self._clock()),
            )

    def _reschedule(self, delivery: NotificationDelivery, message: str, min_wait_s: float) -> None:
        now = self._clock()
        if (now - delivery.created_at).total_seconds() >= _GIVE_UP_AFTER_S:
            self._give_up(delivery, message)
            return
        backoff_s = compute_backoff_s(
            delivery.attempts, base_s=_FIRST_RETRY_DELAY_S, max_s=_MAX_RETRY_DELAY_S, jitter=_JITTER
        )
        due_at = now + timedelta(seconds=min(max(min_wait_s, backoff_s), _GIVE_UP_AFTER_S))
        self._outbox.reschedule(delivery, due_at=due_at, message=message)
        log.warning(
            "notification.rescheduled",
            **_describe_delivery(delivery),
            error=message,
            due_at=due_at.isoformat("T", "seconds"),
        )

    def _give_up(self, delivery: NotificationDelivery, message: str) -> None:
        self._outbox.mark_dead(delivery, message)
        log.error("notification.dead", **_describe_delivery(delivery), error=message)


class NotificationDispatcher:
    """The fan-out and one sender for every subscriber, each with a thread of its own.

    A subscriber that does not answer delays no other. Any number may run, on any number of machines.
    timeout_s: the time that a subscriber has to respond. public_url: PUBLIC_URL. tasks: all of them.
    """

    def __init__(
        self,
        database: Database,
        configs: Sequence[NotifyConfig],
        *,
        clock: Callable[[], datetime] = utc_now,
        timeout_s: float = _TIMEOUT_S,
        public_url: str = "",
    ) -> None:
        outbox = NotificationOutbox(database)
        self.tasks: list[PeriodicTask] = [
            NotificationFanOut(outbox, configs, clock=clock),
            *(
                NotificationSender(outbox, config, clock=clock, timeout_s=timeout_s, public_url=public_url)
                for config in configs
            ),
        ]

    def start(self) -> None:
        """Start all threads."""
        for task in self.tasks:
            task.start()

    def run_once(self) -> None:
        """Run the fan-out and then every sender once."""
        for task in self.tasks:
            task.run_once()


def _describe_delivery(delivery: NotificationDelivery) -> dict[str, object]:
    return {
        "kind": delivery.notification.kind,
        "subject": delivery.notification.subject,
        "subscriber": delivery.subscriber,
        "attempt": delivery.attempts,
        **({"is_ending": True} if delivery.is_ending else {}),
    }
