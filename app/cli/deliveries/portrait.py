"""All about one delivery, line by line. Pure."""

import textwrap
from collections.abc import Iterator, Sequence

import click

from app.cli.common.explanations import meaning_of
from app.cli.common.output import clock, printable
from app.cli.common.tables import table_lines
from app.cli.deliveries.telling import shorten
from app.store.delivery_detail import DeadGroup, Dossier, Standing
from app.store.facts import Outcome

_NAMES, _WIDTH = 14, 79
_COLOURS = {"settled": "green", "dead": "red", "quarantined": "red", "unrouted": "yellow", "late": "yellow"}
_SINKS = ("sink", "state", "written", "dead", "reason", "at (UTC)")


def portrait_lines(dossier: Dossier) -> Iterator[str]:
    """Yield what is known of a delivery, without its records."""
    delivery = dossier.delivery
    state = click.style(delivery.state, fg=_COLOURS.get(delivery.state))
    yield f"{click.style(f'delivery {delivery.id}', bold=True)}  {state}"
    for name, value in (_envelope(delivery) | _fate(dossier)).items():
        if value:
            first, *others = textwrap.wrap(printable(value), _WIDTH - _NAMES, break_long_words=False)
            yield f"  {name:{_NAMES - 2}}{first}"
            yield from (" " * _NAMES + each for each in others)
    yield from _sinks(dossier.outcomes)
    yield from map(_dead, dossier.dead)


def _envelope(delivery: Standing) -> dict[str, str]:
    return {
        "event": delivery.event,
        "event id": delivery.event_id,
        "resource": f"{delivery.resource} {delivery.method}".strip(),
        "run": delivery.sync_job_run_id,
        "job": delivery.sync_job_id,
        "account": delivery.integrated_account_id,
        "environment": delivery.environment_id,
        "webhook": delivery.webhook_id,
        "created": f"{clock(delivery.created_at)} UTC" if delivery.created_at else "",
        "received": f"{clock(delivery.received_at)} UTC" + _again(delivery.duplicates),
        "size": f"{delivery.body_bytes:,} bytes ({delivery.stored_bytes:,} stored), "
        f"{delivery.records:,} records",
    }


def _fate(dossier: Dossier) -> dict[str, str]:
    delivery = dossier.delivery
    meaning = meaning_of(delivery.state, delivery.reason)
    lost = f", {delivery.lost_attempts} of them lost" if delivery.lost_attempts else ""
    replayed = f"{clock(dossier.replayed_at)} UTC, by " if dossier.replayed_at else ""
    return {
        "attempts": f"{delivery.attempts}{lost}",
        "due": f"{clock(delivery.due_at)} UTC" if delivery.state == "pending" else "",
        "concluded": f"{clock(delivery.settled_at)} UTC" if delivery.settled_at else "",
        "means": meaning.what,
        "reason": delivery.reason,
        "to do": meaning.remedy,
        "discarded": delivery.discarded,
        "replaced": f"{delivery.replaced:,} characters that no database holds" if delivery.replaced else "",
        "replayed": f"{replayed}{delivery.replay_id}" if delivery.replay_id else "",
        "pruned": f"{clock(delivery.pruned_at)} UTC: its body is gone" if delivery.pruned_at else "",
    }


def _again(duplicates: int) -> str:
    return f", and {duplicates:,} times again" if duplicates > 1 else ", and once again" if duplicates else ""


def _sinks(outcomes: Sequence[Outcome]) -> Iterator[str]:
    if not outcomes:
        return
    rows = [
        (
            shorten(each.sink, 24),
            each.state,
            each.written,
            each.dead,
            shorten(each.reason, 24),
            f"{each.updated_at:%m-%d %H:%M:%S}",
        )
        for each in outcomes
    ]
    yield from table_lines(_SINKS, rows, indent=2)
    for each in outcomes:
        if each.message:
            said = printable(f"{each.sink}: {each.message}")
            yield from textwrap.wrap(said, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _dead(group: DeadGroup) -> str:
    where = f"refused by {shorten(group.sink, 24)}" if group.sink else "could not be read"
    discarded = f", {group.discarded:,} discarded" if group.discarded else ""
    return f"  {group.records:,} dead records {where}: {shorten(group.reason, 24)}{discarded}"
