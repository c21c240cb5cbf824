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
from app.cli.common.reachability import require_answer
from app.cli.replay.asking import Question
from app.cli.replay.prospects import Prospects, confirm
from app.cli.replay.sending import Sending
from app.cli.replay.taking_in import Intake
from app.config.settings import Settings
from app.database.engine import Store
from app.store.inbox import Inbox
from app.store.models import State
from app.store.replays import Replays
from app.truto.webhook_sender import Target

_STATES = State.__args__  # type: ignore[attr-defined]  # a Literal's, at run time
# What is said of single lines and deliveries; the rest is counted.
_MOST_COMPLAINTS = 50


def take_in_file(
    store: Store, settings: Settings, source: BinaryIO, *, secret: str, is_dry: bool, as_json: bool
) -> None:
    """Take a file's deliveries in; ends with 1 where some cannot be read, or it was broken off."""
    intake = Intake(Inbox(store), secret=secret, longest_body=settings.max_body_bytes, is_dry=is_dry)
    is_finished = False
    is_file = Path(source.name).is_file()
    with progress_bar("reading", Path(source.name).stat().st_size if is_file else 0) as bar:

        def advance() -> None:
            bar.update(source.tell() - bar.pos if is_file else 0)

        with suppress(KeyboardInterrupt):
            intake.take_all(source, complain=_complaints(), progress=advance)
            is_finished = True
    taken = intake.taken
    click.echo(json.dumps({"is_finished": is_finished, **taken.as_json()}) if as_json else taken)
    if not is_finished:
        click.echo("Broken off; the same command again takes the rest, and knows the others.", err=True)
    if taken.skipped or taken.quarantined or not is_finished:
        sys.exit(1)


def send_elsewhere(
    store: Store,
    question: Question,
    target: Target,
    *,
    rate: float | None,
    is_dry: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send to another receiver; ends with 1 where it did not take everything, with 3 where nobody answers."""
    selection = question.chosen(datetime.now(UTC), by_default=_STATES)
    groups = Replays(store).prospects(selection, after=None)
    prospects = Prospects(groups, selection.states, question.limit)
    if is_dry:
        for line in [json.dumps(prospects.as_json())] if as_json else prospects.lines():
            click.echo(line)
        return
    require_answer(target.url)
    confirm(prospects, "Send", yes=yes)
    is_finished = False
    with progress_bar("sending", prospects.total) as bar:
        sending = Sending(
            store, target, limit=question.limit, rate=rate, progress=bar.update, complain=_complaints()
        )
        with suppress(KeyboardInterrupt):
            sending.run(selection)
            is_finished = True
    sent = sending.sent
    if as_json:
        click.echo(json.dumps({"is_finished": is_finished, **sent.as_json()}))
    else:
        click.echo(f"{sent.total:,} deliveries sent, {sent.not_taken:,} of them not taken.")
        answers = ", ".join(f"{number:,} {word}" for word, number in sorted(sent.answers.items()))
        click.echo(f"Answers, retries included: {answers or 'none'}.")
        if sent.pruned:
            click.echo(f"Left out: {sent.pruned:,} pruned: their bodies are gone.")
    if not is_finished and sent.last:
        since = sent.last.received_at.isoformat()
        click.echo(f"Broken off. To go on: the same with --since {since}", err=True)
    if sent.not_taken or not is_finished:
        sys.exit(1)


def _complaints() -> Callable[[str], None]:
    """Return what tells the first complaints, and of the others that there are more."""
    told = 0

    def complain(text: str) -> None:
        nonlocal told
        told += 1
        if told <= _MOST_COMPLAINTS:
            click.echo(text, err=True)
        elif told == _MOST_COMPLAINTS + 1:
            click.echo("There are more; from here on they are only counted.", err=True)

    return complain
