"""A store with runs of several accounts, and the monitor's summaries of them."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.database.engine import Database
from app.runs.run_summary import is_outdated
from app.store.accounts import Account, AccountFilter, Accounts
from app.store.inbox import Inbox
from app.store.models import (
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    RunUpdate,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
)
from app.store.results import DeliveryResults
from app.store.runs import Runs, StoredRun
from app.truto.events import Envelope
from app.truto.runs import status_rank
from workers.background.run_summarizer import RunSummarizer

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
STALLED_AFTER = timedelta(minutes=30)


class SummarizedStore:
    """A store whose runs are written as workers write them, and a clock that tests advance."""

    def __init__(self, store: Database) -> None:
        self.store = store
        self.now = NOW
        self.runs = Runs(store)
        self.accounts = Accounts(store)
        self._summarizer = RunSummarizer(store, stalled_after=STALLED_AFTER)
        self._number = 0

    def advance(self, **span: float) -> None:
        self.now += timedelta(**span)

    def update_run(
        self,
        run: str = "run",
        status: str = "completed",
        *,
        account: str = "account",
        job: str = "job",
        fetched: int | None = None,
        **fields: Any,
    ) -> None:
        """Write a lifecycle event of a run. fetched: Truto's count; None if it counts nothing."""
        stats = (
            {} if fetched is None else {"crm/contacts": {"list": {"fetched": fetched, "persisted": fetched}}}
        )
        run_json = json.dumps({"id": run, "status": status, "resource_stats": stats})
        self.runs.upsert(
            RunUpdate(
                run,
                job,
                account,
                fields.pop("environment", "env"),
                self.now,
                "hook",
                status,
                self.now,
                status_rank(status),
                run_json,
                refusal_reason="a policy" if status == "refused" else "",
            )
        )

    def receive(self, run: str = "run", *, account: str = "account") -> UUID:
        """Put a batch into the inbox."""
        self._number += 1
        body = f"{run} {self._number}".encode()
        envelope = Envelope(
            event="sync_job_run:record",
            event_id=str(self._number),
            sync_job_run_id=run,
            integrated_account_id=account,
            resource="crm/contacts",
            method="list",
        )
        incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), self.now, envelope)
        return Inbox(self.store).put([incoming])[0].delivery_id

    def settle(
        self,
        delivery: UUID,
        state: str = "settled",
        *,
        run: str | None = "run",
        account: str = "account",
        records: int = 3,
    ) -> None:
        """Save the result of a batch as a worker does. run: None if the worker did not read the batch."""
        outcomes = (
            [SinkOutcome(delivery, "main", SinkOutcomeState.DONE, records, 0, "", "", self.now)]
            if state == "settled"
            else []
        )
        change = StateChange(delivery, DeliveryState(state), records, "", due_at=self.now)
        update = RunUpdate(run, "job", account, "env", self.now) if run else None
        result = DeliveryResult(change, update, outcomes)
        DeliveryResults(self.store).save([result], now=self.now)

    def add_run(
        self, run: str, *, account: str = "account", fetched: int | None = 3, records: int = 3, **fields: Any
    ) -> UUID:
        """Add a completed run with one settled batch."""
        delivery = self.receive(run, account=account)
        self.settle(delivery, run=run, account=account, records=records)
        self.update_run(run, account=account, fetched=fetched, **fields)
        return delivery

    def summarize(self, *, seconds: float = 180) -> None:
        """Write the summaries that are due, as a round of the monitor does, some time later."""
        self.advance(seconds=seconds)
        outdated = [run for run in self.runs.list_unreconciled() if is_outdated(run, now=self.now)]
        self._summarizer.summarize_changed(now=self.now)
        self._summarizer.summarize_open(outdated, now=self.now)
        self._summarizer.summarize_pending(now=self.now)

    def get_run(self, run: str = "run") -> StoredRun:
        stored = self.runs.get(run)
        assert stored
        return stored

    def list_accounts(self, **options: Any) -> Sequence[Account]:
        account_filter = options.pop("account_filter", AccountFilter())
        return self.accounts.list_accounts(
            account_filter, now=self.now, limit=options.pop("limit", 50), **options
        )

    def get_account(self, account: str = "account") -> Account:
        [found] = self.list_accounts(account_filter=AccountFilter(id_part=account))
        return found
