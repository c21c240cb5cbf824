"""Redelivery of stored deliveries: confirmation, progress and summary."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from app.cli.common.messages import print_message
from app.cli.common.progress import progress_bar
from app.cli.replay.formatting import (
    confirm_preview,
    format_resumed,
    left_out_lines,
    print_lines,
    print_preview,
)
from app.clock import utc_now
from app.config.delivery_config import DeliveryConfig
from app.config.load import Config
from app.database.engine import Database
from app.plural import format_count
from app.replay.current_workers import describe_refusal, find_outdated_workers
from app.replay.preview import preview_replay
from app.replay.redeliver import ReplaySummary, ThrottledReplay
from app.replay.request import ReplayRequest
from app.store.models import DeliveryState
from app.store.replays import Replays
from app.store.worker_registry import WorkerRegistry

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click names its type nowhere else

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
    rate: float | None,
    dry_run: bool,
    restart: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Run the replay and print its summary.

    Exits 1 if it was interrupted, a delivery has a problem, or a running worker has another configuration.
    """
    if request.includes_pending:
        raise click.UsageError("--state pending: pending deliveries are already in progress. Leave it out.")
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
    delivery_config = config.delivery_config
    _require_current_workers(database, delivery_config)
    confirm_preview(preview, "Replay", yes=yes)
    if started := preview.unfinished:
        replays.set_config(started, delivery_config.digest, now=now)
    else:
        started = replays.start(request.key, now=now, config=delivery_config.digest)
    with progress_bar("replaying", started.requeued_deliveries + preview.total) as bar:
        progress = _ReplayProgress(bar, started.requeued_deliveries)
        throttled_replay = ThrottledReplay(replays, started, request, rate=rate, observer=progress)
        with suppress(KeyboardInterrupt):
            throttled_replay.run()
    summary = throttled_replay.summarize(preview.left_out)
    if not summary.is_finished:
        print_message(
            "Interrupted. Workers finish the requeued deliveries. Run the same command again to resume."
        )
    print_lines(_summary_lines(summary), summary.as_json(), as_json=as_json)
    if summary.has_problems:
        sys.exit(1)


def _require_current_workers(database: Database, expected: DeliveryConfig) -> None:
    """End the command if a running worker has another configuration; warn if no worker runs."""
    live = WorkerRegistry(database).list_live(now=utc_now())
    if outdated := find_outdated_workers(live, expected):
        print_message(describe_refusal(outdated, live=len(live)))
        sys.exit(1)
    if not live:
        print_message(
            "No worker is running: the replayed deliveries wait for one. In another terminal, run: "
            "rapidbridge worker"
        )


class _ReplayProgress:
    """Shows a replay on a progress bar; a `ReplayObserver`."""

    def __init__(self, bar: "ProgressBar[int]", settled_before: int) -> None:
        self._bar = bar
        self._settled_before = settled_before
        self._started_s = time.monotonic()

    def on_settled(self, deliveries: int) -> None:
        elapsed_s = max(0.1, time.monotonic() - self._started_s)
        rate = max(0, deliveries - self._settled_before) / elapsed_s
        self._bar.label = f"replaying, {rate:,.0f}/s"
        self._bar.update(deliveries - self._bar.pos)

    def on_stalled(self, pending: int, stalled_s: float) -> None:
        text = (
            f"No delivery was settled for {stalled_s:.0f} s; {pending:,} pending. Still waiting. "
            "To check the worker and the sinks, run: rapidbridge doctor"
        )
        print_message(text)


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
