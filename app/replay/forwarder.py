"""Forwarding of stored deliveries to another receiver, signed as Truto does."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from app.database.engine import Database
from app.replay.rate_limit import RateLimit
from app.replay.request import ReplayRequest
from app.store.delivery_filter import DeliverySummary, find_deliveries
from app.store.inbox import Inbox
from app.truto.webhook_sender import SendOutcome, WebhookSender, WebhookTarget, open_sender_client

# Truto accepts 400 for this event only: it stops the run.
_RUN_STARTED_EVENT = "sync_job_run:started"


class ForwardObserver(Protocol):
    """Receives the progress of forwarding, in the thread that runs it."""

    def on_sent(self) -> None:
        """Receive a call after every delivery, accepted or not."""

    def on_not_accepted(self, delivery_id: UUID, http_status: int) -> None:
        """Receive a delivery given up after its retries; http_status is 0 without a response."""


@dataclass(slots=True)
class ForwardCounts:
    """The results of forwarding.

    pruned: deliveries without a body, which are left out. responses: the receiver's responses by status,
    retries included. last_delivery: the last one sent.
    """

    accepted: int = 0
    not_accepted: int = 0
    pruned: int = 0
    responses: Counter[str] = field(default_factory=Counter)
    last_delivery: DeliverySummary | None = None

    @property
    def sent(self) -> int:
        """The number of deliveries sent, accepted or not."""
        return self.accepted + self.not_accepted

    def as_json(self) -> dict[str, Any]:
        """Return the results as JSON values."""
        return {
            "deliveries": self.sent,
            "not_accepted": self.not_accepted,
            "responses": dict(self.responses),
            "left_out": {"pruned": self.pruned} if self.pruned else {},
        }


class Forwarder:
    """Sends deliveries, oldest first, to another receiver. Changes nothing here; raises StoreUnavailable.

    on_rejected: see `WebhookSender`.
    """

    def __init__(
        self,
        database: Database,
        target: WebhookTarget,
        *,
        observer: ForwardObserver,
        on_rejected: Callable[[SendOutcome], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._inbox = Inbox(database)
        self._target = target
        self._observer = observer
        self._on_rejected = on_rejected
        self.counts = ForwardCounts()

    def forward(self, request: ReplayRequest, *, now: datetime) -> None:
        """Send the deliveries that a request matches; a rejected delivery does not delay the next.

        May be interrupted by an exception: `counts` then has the results so far.
        """
        rate_limit = RateLimit(request.rate, time.monotonic())
        with open_sender_client(1) as client:
            sender = WebhookSender(self._target, client, threading.Event(), on_rejected=self._on_rejected)
            self.counts.responses = sender.response_counts
            for delivery in find_deliveries(self._database, request.resolve(now)):
                if self.counts.sent == request.limit:
                    break
                if delivery.pruned_at:
                    self.counts.pruned += 1
                    continue
                time.sleep(rate_limit.compute_wait_s(time.monotonic(), self.counts.sent))
                self._send_delivery(sender, delivery)

    def _send_delivery(self, sender: WebhookSender, delivery: DeliverySummary) -> None:
        body = self._inbox.read_body(delivery.id)
        outcome = sender.send(body, may_be_refused=delivery.event == _RUN_STARTED_EVENT)
        if outcome.is_delivered:
            self.counts.accepted += 1
        else:
            self.counts.not_accepted += 1
            self._observer.on_not_accepted(delivery.id, outcome.http_status)
        self.counts.last_delivery = delivery
        self._observer.on_sent()
