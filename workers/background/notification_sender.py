"""Puts notices on their way, and brings them to those who want to be told."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from app.config.notify import NotifyConfig
from app.database.engine import Store
from app.store.notification_outbox import NotificationOutbox
from workers.background.courier import NotificationSender
from workers.background.loop import PeriodicTask

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
        store: Store,
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
