"""Puts notices on their way, and brings them to those who want to be told."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from app.config.notify import NotifySpec
from app.database.engine import Store
from app.store.notification_outbox import Outbox
from workers.background.courier import Courier
from workers.background.loop import Faults

_EVERY_S = 2.0
_TIMEOUT_S = 10.0
_MOST_PER_POST = 100


def _now() -> datetime:
    return datetime.now(UTC)


class Notifier:
    """Posts notices, and sends to each endpoint in a thread of its own: one that is stuck holds up no other.

    Any number may run, on any number of machines. timeout_s: how long an endpoint has to answer.
    """

    def __init__(
        self,
        store: Store,
        specs: Sequence[NotifySpec],
        *,
        clock: Callable[[], datetime] = _now,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._outbox = Outbox(store)
        self._specs = specs
        self._clock = clock
        self._faults = Faults("notify.failed", then=f"tried again every {_EVERY_S:g} s")
        # Posted also where nobody is to be told: whoever is named later is not told of old times.
        self._steps: dict[str, Callable[[], None]] = {"post": self._post}
        for spec in specs:
            courier = Courier(self._outbox, spec, clock=clock, timeout_s=timeout_s)
            self._steps[f"send to {spec.name}"] = courier.send_due

    def start(self) -> None:
        """Do it every two seconds in threads of its own, which end with the process."""
        for step in self._steps:
            threading.Thread(target=self._repeat, args=(step,), name=f"notifier: {step}", daemon=True).start()

    def send_due(self) -> None:
        """Do everything there is to do now, one after the other. A fault is logged once, and passes."""
        for step, action in self._steps.items():
            self._faults.attempt(step, action)

    def _repeat(self, step: str) -> None:
        pause = threading.Event()
        while True:
            self._faults.attempt(step, self._steps[step])
            pause.wait(_EVERY_S)

    def _post(self) -> None:
        while self._outbox.post(self._specs, now=self._clock(), most=_MOST_PER_POST) == _MOST_PER_POST:
            pass
