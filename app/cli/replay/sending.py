"""Sends deliveries to another receiver, as Truto would."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.cli.replay.pace import Pace
from app.database.engine import Store
from app.store.delivery_filter import Found, Selection, find
from app.store.inbox import Inbox
from app.truto.webhook_sender import Sender, Target, open_client

# The only event whose sender is told 400 on purpose: its run is not to start.
_STARTS = "sync_job_run:started"


@dataclass(slots=True)
class Sent:
    """What another receiver made of deliveries. last: the one sent last. answers: of retries, too."""

    taken: int = 0
    not_taken: int = 0
    pruned: int = 0
    last: Found | None = None
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """How many were sent."""
        return self.taken + self.not_taken

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "deliveries": self.total,
            "not_taken": self.not_taken,
            "answers": dict(self.answers),
            "left_out": {"pruned": self.pruned} if self.pruned else {},
        }


class Sending:
    """Sends a selection's bodies, freshly signed, in the order in which they came; changes nothing here.

    limit: how many. rate: how many a second. progress: told of each. complain: told of what is not taken.
    """

    def __init__(
        self,
        store: Store,
        target: Target,
        *,
        limit: int | None,
        rate: float | None,
        progress: Callable[[int], None],
        complain: Callable[[str], None],
    ) -> None:
        self._store = store
        self._inbox = Inbox(store)
        self._target = target
        self._limit = limit
        self._pace = Pace(rate, time.monotonic())
        self._progress = progress
        self._complain = complain
        self.sent = Sent()

    def run(self, selection: Selection) -> None:
        """Send everything; what is not taken does not keep back the others."""
        with open_client(1) as client:
            sender = Sender(self._target, client, threading.Event())
            self.sent.answers = sender.answers
            for found in find(self._store, selection):
                if self.sent.total == self._limit:
                    break
                if found.pruned_at:
                    self.sent.pruned += 1
                    continue
                time.sleep(self._pace.wait_s(time.monotonic(), self.sent.total))
                self._send(sender, found)

    def _send(self, sender: Sender, found: Found) -> None:
        outcome = sender.send(self._inbox.read_body(found.id), may_be_refused=found.event == _STARTS)
        if outcome.is_delivered:
            self.sent.taken += 1
        else:
            self.sent.not_taken += 1
            self._complain(f"{found.id}: {outcome.http_status or 'no answer'}")
        self.sent.last = found
        self._progress(1)
