"""Forwarding of stored deliveries to another receiver."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import click

from app.cli.common.audit import audit
from app.cli.common.messages import print_message
from app.cli.common.progress import progress_bar
from app.cli.common.reachability import require_reachable
from app.cli.common.rejected_events import RejectionObserver
from app.cli.replay.formatting import (
    LimitedWarnings,
    confirm_preview,
    left_out_lines,
    print_lines,
    print_preview,
)
from app.clock import utc_now
from app.database.engine import Database
from app.plural import format_count
from app.replay.forwarder import ForwardCounts, Forwarder
from app.replay.operations import OperationRequest
from app.replay.preview import preview_forward
from app.replay.request import ReplayRequest
from app.store.bounded_count import BoundedCount
from app.store.replays import Replays
from app.truto.target_url import redact_target_url
from app.truto.webhook_sender import WebhookTarget

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click names its type nowhere else


def forward_deliveries(
    database: Database,
    request: ReplayRequest,
    target: WebhookTarget,
    *,
    secret_source: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send deliveries to another receiver and print the counts; exits 1 if one was not accepted.

    secret_source: the place of the target's secret, for a message.
    """
    now = utc_now()
    preview = preview_forward(Replays(database), request, now=now)
    if dry_run:
        print_preview(preview, as_json=as_json)
        return
    require_reachable(target.url)
    confirm_preview(preview, "Send", yes=yes)
    conditions = OperationRequest(request.delivery_filter, limit=request.limit, rate=request.rate)
    subject = f"to: {redact_target_url(target.url)}; {conditions.as_subject()}"
    audit(database, "delivery.forward", subject, BoundedCount(preview.total))
    is_finished, refusal = False, None
    rejections = RejectionObserver(target.url, secret_source)
    with progress_bar("sending", preview.total) as bar:
        forwarder = Forwarder(
            database,
            target,
            observer=_ForwardProgress(bar),
            on_rejected=rejections.end_if_hopeless,
        )
        try:
            forwarder.forward(request, now=now)
            is_finished = True
        except KeyboardInterrupt:
            pass
        except click.ClickException as error:
            refusal = error
    counts = forwarder.counts
    print_lines(_forward_lines(counts), {"is_finished": is_finished, **counts.as_json()}, as_json=as_json)
    if not is_finished and counts.last_delivery:
        since = counts.last_delivery.received_at.isoformat()
        print_message(f"Interrupted. To resume, run the same command with --since {since}")
    if refusal:
        raise refusal
    if counts.not_accepted or not is_finished:
        sys.exit(1)


class _ForwardProgress(LimitedWarnings):
    """Shows forwarding on a progress bar; a `ForwardObserver`."""

    def __init__(self, bar: "ProgressBar[int]") -> None:
        super().__init__()
        self._bar = bar

    def on_sent(self) -> None:
        self._bar.update(1)

    def on_not_accepted(self, delivery_id: UUID, http_status: int) -> None:
        self.print(f"{delivery_id}: {http_status or 'no response'}")


def _forward_lines(counts: ForwardCounts) -> Iterator[str]:
    yield f"{format_count(counts.sent, 'delivery')} sent, {counts.not_accepted:,} of them not accepted."
    responses = ", ".join(f"{number:,} {status}" for status, number in sorted(counts.responses.items()))
    yield f"Responses, retries included: {responses or 'none'}."
    if counts.pruned:
        yield from left_out_lines(Counter(pruned=counts.pruned))
