"""Has workers deliver again what the inbox holds."""

import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

import click

from app.cli.common.progress import progress_bar
from app.database.engine import Database
from app.replay.preview import ReplayPreview, confirm_replay
from app.replay.redeliver import ThrottledReplay
from app.replay.request import ReplayRequest, drop_default_states
from app.replay.summary import ReplaySummary
from app.store.replays import Replay, Replays


def replay_deliveries(
    store: Database,
    request: ReplayRequest,
    *,
    rate: float | None,
    dry_run: bool,
    restart: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Replay what was asked for; ends with 1 where that leaves bad news."""
    if "pending" in request.delivery_filter.states:
        raise click.UsageError("What is pending is on its way already: leave out --state pending.")
    replays = Replays(store)
    unfinished = None if restart else replays.find_unfinished(request.key)
    preview = _build_preview(replays, request, unfinished)
    if dry_run:
        _print_preview(preview, unfinished, as_json=as_json)
        return
    if unfinished:
        click.echo(_format_resumed(unfinished), err=True)
    elif not preview.total:
        _print_summary(
            ReplaySummary(None, is_finished=True, outcomes=[], left_out=preview.left_out), as_json=as_json
        )
        return
    confirm_replay(preview, "Replay", yes=yes)
    replay = unfinished or replays.start(request.key, now=datetime.now(UTC))
    summary = _run_replay(replays, replay, request, preview, rate=rate)
    _print_summary(summary, as_json=as_json)
    if summary.has_problems:
        sys.exit(1)


def _build_preview(replays: Replays, request: ReplayRequest, unfinished: Replay | None) -> ReplayPreview:
    delivery_filter = request.resolve(unfinished.started_at if unfinished else datetime.now(UTC))
    states = tuple(delivery_filter.states)
    left = (
        None
        if request.limit is None
        else request.limit - (unfinished.requeued_deliveries if unfinished else 0)
    )
    groups = replays.preview(
        drop_default_states(request, delivery_filter), after=unfinished.cursor if unfinished else None
    )
    return ReplayPreview(groups, states, left)


def _run_replay(
    replays: Replays, replay: Replay, request: ReplayRequest, preview: ReplayPreview, *, rate: float | None
) -> ReplaySummary:
    delivery_filter = request.resolve(replay.started_at)
    is_finished = False
    began_s, before = time.monotonic(), replay.requeued_deliveries
    with progress_bar("replaying", replay.requeued_deliveries + preview.total) as bar:

        def advance(settled: int) -> None:
            rate_so_far = max(0, settled - before) / max(0.1, time.monotonic() - began_s)
            bar.label = f"replaying, {rate_so_far:,.0f}/s"
            bar.update(settled - bar.pos)

        throttled_replay = ThrottledReplay(
            replays,
            replay,
            delivery_filter,
            sink=request.sink,
            limit=request.limit,
            rate=rate,
            progress=advance,
            warn=lambda text: click.echo(text, err=True),
        )
        with suppress(KeyboardInterrupt):
            throttled_replay.run()
            is_finished = True
    if not is_finished:
        click.echo(
            "Broken off. Workers finish what was taken up; the same command goes on behind it.", err=True
        )
    # Also after Ctrl-C between a commit and its note.
    replay = replays.refresh(replay)
    return ReplaySummary(replay, is_finished, replays.outcomes(replay, delivery_filter), preview.left_out)


def _print_summary(summary: ReplaySummary, *, as_json: bool) -> None:
    for line in [json.dumps(summary.as_json())] if as_json else summary.lines():
        click.echo(line)


def _print_preview(preview: ReplayPreview, unfinished: Replay | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(preview.as_json()))
        return
    if unfinished:
        click.echo(_format_resumed(unfinished))
    for line in preview.lines():
        click.echo(line)


def _format_resumed(unfinished: Replay) -> str:
    began = f"{unfinished.started_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"Going on with the replay that began {began}, "
        f"behind its {unfinished.requeued_deliveries:,} deliveries. "
        "--restart begins anew."
    )
