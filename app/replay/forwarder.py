"""Sends deliveries to another receiver, as Truto would."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from app.database.engine import Database
from app.replay.throttle import RateLimit
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, find_deliveries
from app.store.inbox import Inbox
from app.truto.webhook_sender import WebhookSender, WebhookTarget, open_http_client

# The only event whose sender is told 400 on purpose: its run is not to start.
_RUN_STARTED_EVENT = "sync_job_run:started"


@dataclass(slots=True)
class ForwardCounts:
    """What another receiver made of deliveries. last: the one sent last. answers: of retries, too."""

    accepted: int = 0
    not_accepted: int = 0
    pruned: int = 0
    last_delivery: DeliverySummary | None = None
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """How many were sent."""
        return self.accepted + self.not_accepted

    def as_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "deliveries": self.total,
            "not_taken": self.not_accepted,
            "answers": dict(self.answers),
            "left_out": {"pruned": self.pruned} if self.pruned else {},
        }


class Forwarder:
    """Sends a selection's bodies, freshly signed, in the order in which they came; changes nothing here.

    limit: how many. rate: how many a second. progress: told of each. complain: told of what is not taken.
    """

    def __init__(
        self,
        store: Database,
        target: WebhookTarget,
        *,
        limit: int | None,
        rate: float | None,
        progress: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        self._store = store
        self._inbox = Inbox(store)
        self._target = target
        self._limit = limit
        self._rate_limit = RateLimit(rate, time.monotonic())
        self._progress = progress
        self._warn = warn
        self.counts = ForwardCounts()

    def run(self, delivery_filter: DeliveryFilter) -> None:
        """Send everything; what is not taken does not keep back the others."""
        with open_http_client(1) as client:
            sender = WebhookSender(self._target, client, threading.Event())
            self.counts.answers = sender.response_counts
            for delivery in find_deliveries(self._store, delivery_filter):
                if self.counts.total == self._limit:
                    break
                if delivery.pruned_at:
                    self.counts.pruned += 1
                    continue
                time.sleep(self._rate_limit.compute_wait_s(time.monotonic(), self.counts.total))
                self._send_delivery(sender, delivery)

    def _send_delivery(self, sender: WebhookSender, delivery: DeliverySummary) -> None:
        outcome = sender.send(
            self._inbox.read_body(delivery.id), may_be_refused=delivery.event == _RUN_STARTED_EVENT
        )
        if outcome.is_delivered:
            self.counts.accepted += 1
        else:
            self.counts.not_accepted += 1
            self._warn(f"{delivery.id}: {outcome.http_status or 'no answer'}")
        self.counts.last_delivery = delivery
        self._progress(1)
