"""Attribution: the account and the run of deliveries whose events do not name them.

The account comes from the run's lifecycle events, else from the routes file. The only open run of a webhook
is a guess, used only if ATTRIBUTE_TO_OPEN_RUN allows it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.config.routes import Routes
from app.database.engine import Database
from app.store.models import Attribution, AttributionSource, Delivery, RunUpdate
from app.store.unattributed import AttributionRuns, OpenRun
from app.truto.events import RECORD_ERROR_EVENT, RECORD_EVENT, Envelope, read_envelope
from app.truto.id_places import find_account
from workers.delivery.parser import ParsedDelivery


@dataclass(frozen=True, slots=True)
class AttributedDelivery:
    """A delivery whose envelope names its account and run, as far as they are known.

    attribution: None if the event itself names them. may_follow: a lifecycle event that has not been
    processed yet may name the account.
    """

    delivery: Delivery
    attribution: Attribution | None = None
    may_follow: bool = False


class Attributor:
    """Finds the accounts and runs of one job's deliveries. to_open_run: allow the guess."""

    def __init__(self, database: Database, routes: Routes, *, to_open_run: bool) -> None:
        self._runs = AttributionRuns(database)
        self._routes = routes
        self._to_open_run = to_open_run
        self._details: dict[str, Mapping[str, Any]] = {}
        self._open_runs: Mapping[str, Sequence[OpenRun]] = {}
        self._unsettled_webhooks: set[str] = set()

    def load_runs(self, deliveries: Sequence[Delivery]) -> None:
        """Read the runs by which these deliveries can be attributed; raises StoreUnavailable."""
        incomplete = [delivery for delivery in deliveries if _is_incomplete(delivery.envelope)]
        run_ids = {delivery.envelope.sync_job_run_id for delivery in incomplete} - {""}
        run_texts = self._runs.find_details(run_ids) if run_ids else {}
        self._details = {run_id: json.loads(run_text) for run_id, run_text in run_texts.items()}
        webhook_ids = {
            delivery.envelope.webhook_id
            for delivery in incomplete
            if self._to_open_run and not delivery.envelope.sync_job_run_id
        } - {""}
        if webhook_ids:
            since = min(delivery.received_at for delivery in incomplete)
            # In this order: a run that begins or ends in between is in both.
            self._unsettled_webhooks = self._runs.find_webhooks_with_pending_lifecycle(webhook_ids)
            self._open_runs = self._runs.find_open_runs(webhook_ids, since=since)

    def add_run(self, run: RunUpdate) -> None:
        """Add a run that this job has read but not saved yet."""
        if run.run:
            self._details[run.sync_job_run_id] = json.loads(run.run)

    def attribute(self, delivery: Delivery, body: bytes) -> AttributedDelivery:
        """Return a delivery with its account and run. body: of the delivery, decompressed."""
        envelope = delivery.envelope
        if not _is_incomplete(envelope):
            return AttributedDelivery(delivery)
        # An earlier release may have stored the delivery without ids that the event names.
        envelope = read_envelope(body)
        attribution = Attribution(envelope.integrated_account_id, envelope.sync_job_run_id)
        if not attribution.account:
            attribution = self._find_account(envelope, attribution)
        may_follow = False
        if not attribution.run and self._to_open_run and envelope.event in (RECORD_EVENT, RECORD_ERROR_EVENT):
            attribution, may_follow = self._guess_run(delivery, envelope, attribution)
        envelope = replace(
            envelope, integrated_account_id=attribution.account, sync_job_run_id=attribution.run
        )
        return AttributedDelivery(replace(delivery, envelope=envelope), attribution, may_follow)

    def _find_account(self, envelope: Envelope, attribution: Attribution) -> Attribution:
        details = self._details.get(envelope.sync_job_run_id)
        if details and (account := find_account(details, envelope.resource)):
            return replace(attribution, account=account, account_source=AttributionSource.RUN)
        if account := self._routes.find_webhook_account(envelope.webhook_id):
            return replace(attribution, account=account, account_source=AttributionSource.WEBHOOK)
        return attribution

    def _guess_run(
        self, delivery: Delivery, envelope: Envelope, attribution: Attribution
    ) -> tuple[Attribution, bool]:
        """Return the attribution to the only open run, and whether an event to come may decide it."""
        if envelope.webhook_id in self._unsettled_webhooks:
            return attribution, not attribution.account
        open_runs = [
            run
            for run in self._open_runs.get(envelope.webhook_id, ())
            if run.ended_at is None or run.ended_at > delivery.received_at
        ]
        if len(open_runs) != 1:
            return attribution, not open_runs and not attribution.account
        [run] = open_runs
        account = find_account(json.loads(run.details), envelope.resource) if run.details else ""
        if attribution.account and attribution.account != account:
            return attribution, False
        source = AttributionSource.OPEN_RUN
        if not attribution.account and account:
            attribution = replace(attribution, account=account, account_source=source)
        return replace(attribution, run=run.sync_job_run_id, run_source=source), False


def attribute_records(
    attributed: AttributedDelivery, parsed: ParsedDelivery, path: str | None
) -> tuple[AttributedDelivery, ParsedDelivery]:
    """Attribute a delivery without a certain account by the accounts that its records name.

    path: of the account in a record; None if the route has none. Records without an account are dead, unless
    all are without one: then nothing changes.
    """
    attribution = attributed.attribution
    is_guess = attribution is not None and attribution.account_source == AttributionSource.OPEN_RUN
    if not path or (attributed.delivery.envelope.integrated_account_id and not is_guess):
        return attributed, parsed
    named = (record_slice.find_accounts(path) for record_slice in parsed.read_slices())
    accounts = set(next(filter(None, named), {}).values())
    if not accounts:
        return attributed, parsed
    # A delivery with records of several accounts has none itself. Further slices are read during the writes.
    account = next(iter(accounts)) if len(accounts) == 1 and not parsed.is_large else ""
    envelope = replace(attributed.delivery.envelope, integrated_account_id=account)
    run = attribution.run if attribution else envelope.sync_job_run_id
    attribution = replace(
        attribution or Attribution("", run), account=account, account_source=AttributionSource.RECORD
    )
    delivery = replace(attributed.delivery, envelope=envelope)
    attributed = replace(attributed, delivery=delivery, attribution=attribution)
    return attributed, replace(parsed, account_path=path)


def _is_incomplete(envelope: Envelope) -> bool:
    """Whether an event does not name the account or the run that it belongs to."""
    needs_run = envelope.event in (RECORD_EVENT, RECORD_ERROR_EVENT)
    return not envelope.integrated_account_id or (needs_run and not envelope.sync_job_run_id)
