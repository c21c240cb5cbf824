"""Has workers deliver again what the inbox holds."""

import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

import click

from app.cli.common.progress import progress_bar
from app.cli.replay.asking import Question, in_any_state
from app.cli.replay.prospects import Prospects, confirm
from app.cli.replay.releasing import Release
from app.cli.replay.telling import Result
from app.database.engine import Store
from app.store.replays import Replay, Replays


def replay_again(
    store: Store,
    question: Question,
    *,
    rate: float | None,
    is_dry: bool,
    is_anew: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Replay what was asked for; ends with 1 where that leaves bad news."""
    if "pending" in question.selection.states:
        raise click.UsageError("What is pending is on its way already: leave out --state pending.")
    replays = Replays(store)
    known = None if is_anew else replays.unfinished(question.asked)
    prospects = _prospects(replays, question, known)
    if is_dry:
        _show(prospects, known, as_json=as_json)
        return
    if known:
        click.echo(_resumed(known), err=True)
    elif not prospects.total:
        _tell(Result(None, is_finished=True, endings=[], left_out=prospects.left_out), as_json=as_json)
        return
    confirm(prospects, "Replay", yes=yes)
    replay = known or replays.begin(question.asked, now=datetime.now(UTC))
    result = _run(replays, replay, question, prospects, rate=rate)
    _tell(result, as_json=as_json)
    if result.is_bad_news:
        sys.exit(1)


def _prospects(replays: Replays, question: Question, known: Replay | None) -> Prospects:
    chosen = question.chosen(known.started_at if known else datetime.now(UTC))
    states = tuple(chosen.states)
    left = None if question.limit is None else question.limit - (known.deliveries if known else 0)
    groups = replays.prospects(in_any_state(question, chosen), after=known.cursor if known else None)
    return Prospects(groups, states, left)


def _run(
    replays: Replays, replay: Replay, question: Question, prospects: Prospects, *, rate: float | None
) -> Result:
    chosen = question.chosen(replay.started_at)
    is_finished = False
    began_s, before = time.monotonic(), replay.deliveries
    with progress_bar("replaying", replay.deliveries + prospects.total) as bar:

        def advance(settled: int) -> None:
            rate_so_far = max(0, settled - before) / max(0.1, time.monotonic() - began_s)
            bar.label = f"replaying, {rate_so_far:,.0f}/s"
            bar.update(settled - bar.pos)

        release = Release(
            replays,
            replay,
            chosen,
            sink=question.sink,
            limit=question.limit,
            rate=rate,
            progress=advance,
            warn=lambda text: click.echo(text, err=True),
        )
        with suppress(KeyboardInterrupt):
            release.run()
            is_finished = True
    if not is_finished:
        click.echo(
            "Broken off. Workers finish what was taken up; the same command goes on behind it.", err=True
        )
    # Also after Ctrl-C between a commit and its note.
    replay = replays.look_again(replay)
    return Result(replay, is_finished, replays.endings(replay, chosen), prospects.left_out)


def _tell(result: Result, *, as_json: bool) -> None:
    for line in [json.dumps(result.as_json())] if as_json else result.lines():
        click.echo(line)


def _show(prospects: Prospects, known: Replay | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(prospects.as_json()))
        return
    if known:
        click.echo(_resumed(known))
    for line in prospects.lines():
        click.echo(line)


def _resumed(known: Replay) -> str:
    began = f"{known.started_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"Going on with the replay that began {began}, behind its {known.deliveries:,} deliveries. "
        "--restart begins anew."
    )
