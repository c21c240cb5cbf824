"""Replays that are no new delivery of what the inbox holds: into it from a file, and out of it to others."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import click

from app.cli.common.progress import progress_bar
from app.cli.common.reachability import require_reachable
from app.cli.replay.asking import ReplayRequest
from app.cli.replay.prospects import ReplayPreview, confirm_replay
from app.cli.replay.sending import Forwarder
from app.cli.replay.taking_in import Importer
from app.config.settings import Settings
from app.database.engine import Database
from app.store.inbox import Inbox
from app.store.models import DeliveryState
from app.store.replays import Replays
from app.truto.webhook_sender import WebhookTarget

_ALL_STATES = tuple(state.value for state in DeliveryState)
# What is said of single lines and deliveries; the rest is counted.
_MAX_WARNINGS = 50


def import_file(
    store: Database, settings: Settings, source: BinaryIO, *, secret: str, dry_run: bool, as_json: bool
) -> None:
    """Take a file's deliveries in; ends with 1 where some cannot be read, or it was broken off."""
    importer = Importer(Inbox(store), secret=secret, max_body_bytes=settings.max_body_bytes, dry_run=dry_run)
    is_finished = False
    is_file = Path(source.name).is_file()
    with progress_bar("reading", Path(source.name).stat().st_size if is_file else 0) as bar:

        def advance() -> None:
            bar.update(source.tell() - bar.pos if is_file else 0)

        with suppress(KeyboardInterrupt):
            importer.import_lines(source, warn=_make_limited_warn(), progress=advance)
            is_finished = True
    counts = importer.counts
    click.echo(json.dumps({"is_finished": is_finished, **counts.as_json()}) if as_json else counts)
    if not is_finished:
        click.echo("Broken off; the same command again takes the rest, and knows the others.", err=True)
    if counts.skipped or counts.quarantined or not is_finished:
        sys.exit(1)


def forward_deliveries(
    store: Database,
    request: ReplayRequest,
    target: WebhookTarget,
    *,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send to another receiver; ends with 1 where it did not take everything, with 3 where nobody answers."""
    delivery_filter = request.resolve(datetime.now(UTC), default_states=_ALL_STATES)
    groups = Replays(store).preview(delivery_filter, after=None)
    preview = ReplayPreview(groups, delivery_filter.states, request.limit)
    if dry_run:
        for line in [json.dumps(preview.as_json())] if as_json else preview.lines():
            click.echo(line)
        return
    require_reachable(target.url)
    confirm_replay(preview, "Send", yes=yes)
    is_finished = False
    with progress_bar("sending", preview.total) as bar:
        forwarder = Forwarder(
            store, target, limit=request.limit, rate=rate, progress=bar.update, warn=_make_limited_warn()
        )
        with suppress(KeyboardInterrupt):
            forwarder.run(delivery_filter)
            is_finished = True
    counts = forwarder.counts
    if as_json:
        click.echo(json.dumps({"is_finished": is_finished, **counts.as_json()}))
    else:
        click.echo(f"{counts.total:,} deliveries sent, {counts.not_accepted:,} of them not taken.")
        answers = ", ".join(f"{number:,} {answer}" for answer, number in sorted(counts.answers.items()))
        click.echo(f"Answers, retries included: {answers or 'none'}.")
        if counts.pruned:
            click.echo(f"Left out: {counts.pruned:,} pruned: their bodies are gone.")
    if not is_finished and counts.last_delivery:
        since = counts.last_delivery.received_at.isoformat()
        click.echo(f"Broken off. To go on: the same with --since {since}", err=True)
    if counts.not_accepted or not is_finished:
        sys.exit(1)


def _make_limited_warn() -> Callable[[str], None]:
    """Return what tells the first complaints, and of the others that there are more."""
    warnings = 0

    def warn(text: str) -> None:
        nonlocal warnings
        warnings += 1
        if warnings <= _MAX_WARNINGS:
            click.echo(text, err=True)
        elif warnings == _MAX_WARNINGS + 1:
            click.echo("There are more; from here on they are only counted.", err=True)

    return warn
