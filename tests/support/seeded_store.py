"""A store with the deliveries that a test needs, and commands that read it."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import update

from app.database.engine import Database
from app.store.inbox import Inbox
from app.store.models import (
    DeadRecord,
    DeliveryAttempt,
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
)
from app.store.results import DeliveryResults
from app.store.schema import deliveries
from app.truto.events import Envelope
from tests.support.commands import run_command
from tests.support.web_process import ROOT, make_environment

NOW = datetime.now(UTC) - timedelta(hours=1)
RUN = "1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5"
SECRET_NAME = "Ada Lovelace"


def make_batch_body(number: int, records: str = f'[{{"id": "1", "name": "{SECRET_NAME}"}}]') -> bytes:
    """Return the body of a batch; another number makes another body."""
    return (
        f'{{"id": "{number}", "event": "sync_job_run:record", "payload": {{"records": {records}}}}}'.encode()
    )


class SeededStore:
    """Puts deliveries into a store in any state, and runs `rapidbridge` on it."""

    def __init__(self, store: Database, url: str) -> None:
        self.store = store
        self.url = url
        self._number = 0

    def put(
        self,
        state: str = "settled",
        reason: str = "",
        *,
        body: bytes = b"",
        records: int = 1,
        received_at: datetime | None = None,
        id: UUID | None = None,  # noqa: A002  # the column's name
        **envelope_fields: Any,
    ) -> UUID:
        """Put a delivery, received a minute after the previous one; return its id."""
        self._number += 1
        at = received_at or NOW + timedelta(minutes=self._number)
        envelope = Envelope(
            event_id=f"event-{self._number}",
            event="sync_job_run:record",
            created_at=at,
            sync_job_run_id=RUN,
            integrated_account_id="94801e49-a652-42f9-af14-dd203d7897da",
            resource="crm/contacts",
            method="list",
        )
        body = body or make_batch_body(self._number)
        digest = hashlib.sha256(body).digest()
        incoming = IncomingDelivery(body, digest, at, replace(envelope, **envelope_fields), id=id)
        if state in ("quarantined", "refused"):
            incoming = replace(incoming, state=DeliveryState(state), reason=reason)
        [receipt] = Inbox(self.store).put([incoming])
        if incoming.state == DeliveryState.PENDING != state:
            self.settle(receipt.delivery_id, state, reason, records=records)
        return receipt.delivery_id

    def settle(
        self,
        delivery_id: UUID,
        state: str,
        reason: str = "",
        *,
        records: int = 1,
        outcomes: Sequence[SinkOutcome] = (),
        dead: Sequence[DeadRecord] = (),
        attempt: DeliveryAttempt | None = None,
    ) -> None:
        """Settle a delivery as a worker does."""
        state_change = StateChange(delivery_id, DeliveryState(state), records, reason, due_at=NOW)
        settlement = DeliveryResult(state_change, outcomes=outcomes, dead_records=dead, attempt=attempt)
        DeliveryResults(self.store).save([settlement], now=NOW)

    def put_with_dead_records(self, sink: str = "main", reason: str = "too_deep", count: int = 2) -> UUID:
        """Put a settled delivery some of whose records are dead."""
        delivery = self.put("pending")
        raw = f'{{"name": "{SECRET_NAME}"}}'
        dead = [
            DeadRecord(delivery, sink, ordinal, reason, "nested deeper than it can be", raw, NOW)
            for ordinal in range(count)
        ]
        outcome = SinkOutcome(delivery, "main", SinkOutcomeState.DONE, 5, count, "", "", NOW)
        self.settle(delivery, "settled", records=5 + count, outcomes=[outcome], dead=dead)
        return delivery

    def prune(self, delivery_id: UUID) -> None:
        """Remove a body as `prune` does."""
        with self.store.engine.begin() as connection:
            pruned = update(deliveries).where(deliveries.c.id == delivery_id)
            connection.execute(pruned.values(pruned_at=NOW, body=b""))

    def read_row(self, delivery_id: UUID) -> Mapping[str, Any]:
        """Return a delivery's row."""
        with self.store.engine.connect() as connection:
            rows = connection.execute(deliveries.select().where(deliveries.c.id == delivery_id))
            return dict(rows.mappings().one())

    def rapidbridge(self, *words: str, code: int = 0, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the store and check its exit code."""
        ran = rapidbridge(*words, **({"DATABASE_URL": self.url} | settings))
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran

    def run_json(self, *words: str, code: int = 0) -> Any:
        """Run a command with --json and return what it prints."""
        return json.loads(self.rapidbridge(*words, "--json", code=code).stdout)


def rapidbridge(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal."""
    return run_command(*words, cwd=ROOT, environment=make_environment(**settings))


def build_command(*words: str) -> list[str]:
    """Return the arguments of a process that runs a command."""
    return [sys.executable, "-m", "app.cli", *words]
