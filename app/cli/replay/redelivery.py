"""Redelivery of stored deliveries: confirmation, progress and summary."""

import sys
from collections import Counter
from collections.abc import Iterator

from click import UsageError

from app.cli.common.audit import audit, make_requester
from app.cli.common.messages import print_message
from app.cli.common.operations import describe_end, follow_with_progress, print_left_running
from app.cli.replay.formatting import (
    confirm_preview,
    format_resumed,
    left_out_lines,
    print_lines,
    print_preview,
)
from app.clock import utc_now
from app.config.load import Config
from app.database.engine import Database
from app.errors import OperationRefused
from app.plural import format_count
from app.replay.current_workers import require_current_workers
from app.replay.operations import OperationRequest, start_replay
from app.replay.preview import preview_replay
from app.replay.replay_summary import ReplaySummary, summarize_replay
from app.replay.request import ReplayRequest
from app.store.bounded_count import BoundedCount
from app.store.models import DeliveryState
from app.store.operations import Operation, OperationState
from app.store.replays import Replays

_OUTCOME_LABELS = {
    "dead": "dead: see the reasons with `rapidbridge dead list`",
    "unrouted": "unrouted: no route matches",
    "quarantined": "quarantined: unreadable, or without a known account",
    "pending": "pending: workers finish them",
}


def replay_deliveries(
    config: Config,
    database: Database,
    request: ReplayRequest,
    *,
    action: str = "delivery.replay",
    dry_run: bool,
    restart: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Start the replay, follow it and print its summary. action: its name in the audit log.

    Exits 1 if it did not finish, a delivery has a problem, or a running worker has another configuration.
    """
    if request.includes_pending:
        raise UsageError("--state pending: pending deliveries are already in progress. Leave it out.")
    replays, now = Replays(database), utc_now()
    preview = preview_replay(replays, request, now=now, restart=restart)
    if dry_run:
        print_preview(preview, as_json=as_json)
        return
    if preview.unfinished:
        print_message(format_resumed(preview.unfinished))
    elif not preview.total:
        nothing = ReplaySummary(None, is_finished=True, outcomes=[], left_out=preview.left_out)
        print_lines(_summary_lines(nothing), nothing.as_json(), as_json=as_json)
        return
    done_before = preview.unfinished.requeued_deliveries if preview.unfinished else 0
    try:
        if not require_current_workers(database, config.delivery_config, now=now):
            print_message(
                "No worker is running: the replayed deliveries wait for one. In another terminal, run: "
                "rapidbridge worker"
            )
        confirm_preview(preview, "Replay", yes=yes)
        if not preview.unfinished:
            work = OperationRequest(request.delivery_filter, request.sink, request.limit, request.rate)
            audit(database, action, work.as_subject(), BoundedCount(preview.total))
        operation = start_replay(
            database,
            request,
            requester=make_requester(),
            config=config.delivery_config,
            total=done_before + preview.total,
            restart=restart,
            now=now,
        )
    except OperationRefused as error:
        print_message(str(error))
        sys.exit(1)
    _finish_replay(database, operation, request.sink, preview.left_out, as_json=as_json)


def _finish_replay(
    database: Database, operation: Operation, sink: str, left_out: Counter[str], *, as_json: bool
) -> None:
    """Follow a replay and print its summary; exits 1 if it did not finish, or has problems."""
    operation = follow_with_progress(database, operation)
    is_finished = operation.state == OperationState.FINISHED
    summary = summarize_replay(
        Replays(database), operation.id, sink=sink, left_out=left_out, is_finished=is_finished
    )
    if not operation.is_finished:
        print_left_running(operation)
    elif not is_finished:
        print_message(describe_end(operation))
    print_lines(_summary_lines(summary), summary.as_json(), as_json=as_json)
    if summary.has_problems:
        sys.exit(1)


def _summary_lines(summary: ReplaySummary) -> Iterator[str]:
    yield (
        f"{format_count(summary.deliveries, 'delivery')} replayed:"
        if summary.replay
        else "Nothing to replay."
    )
    for outcome in summary.outcomes:
        label = _OUTCOME_LABELS.get(outcome.state, outcome.state)
        if outcome.state == DeliveryState.SETTLED:
            label += f", {_format_dead_records(summary)}"
        yield f"  {outcome.deliveries:,} {'still unreadable' if outcome.is_unreadable else label}"
    if summary.replay and summary.written is not None:
        yield f"Written to the sink: {format_count(summary.written, 'delivery')}."
        if summary.written < summary.deliveries:
            yield "The others have no records, or no route sends them to this sink."
    yield from left_out_lines(summary.left_out)


def _format_dead_records(summary: ReplaySummary) -> str:
    if not summary.dead.records:
        return "without dead records"
    return (
        f"{summary.dead.deliveries:,} of them with {format_count(summary.dead.records, 'dead record')}: "
        "see the reasons with `rapidbridge dead list`"
    )
