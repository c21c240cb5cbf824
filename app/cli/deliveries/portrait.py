"""All about one delivery, line by line. Pure."""

import textwrap
from collections.abc import Iterator, Sequence

import click

from app.cli.common.output import format_time, replace_control_chars
from app.cli.common.tables import format_table
from app.cli.deliveries.telling import shorten
from app.store.delivery_detail import DeadRecordCount, DeliveryDetail, DeliveryRow
from app.store.models import SinkOutcome
from app.store.reasons import explain

_LABEL_WIDTH, _WIDTH = 14, 79
_COLOURS = {"settled": "green", "dead": "red", "quarantined": "red", "unrouted": "yellow", "late": "yellow"}
_SINK_HEADERS = ("sink", "state", "written", "dead", "reason", "at (UTC)")


def detail_lines(detail: DeliveryDetail) -> Iterator[str]:
    """Yield what is known of a delivery, without its records."""
    delivery = detail.delivery
    state = click.style(delivery.state, fg=_COLOURS.get(delivery.state))
    yield f"{click.style(f'delivery {delivery.id}', bold=True)}  {state}"
    for name, value in (_envelope_fields(delivery) | _state_fields(detail)).items():
        if value:
            first, *others = textwrap.wrap(
                replace_control_chars(value), _WIDTH - _LABEL_WIDTH, break_long_words=False
            )
            yield f"  {name:{_LABEL_WIDTH - 2}}{first}"
            yield from (" " * _LABEL_WIDTH + line for line in others)
    yield from _sink_lines(detail.outcomes)
    yield from map(_format_dead_records, detail.dead)


def _envelope_fields(delivery: DeliveryRow) -> dict[str, str]:
    return {
        "event": delivery.event,
        "event id": delivery.event_id,
        "resource": f"{delivery.resource} {delivery.method}".strip(),
        "run": delivery.sync_job_run_id,
        "job": delivery.sync_job_id,
        "account": delivery.integrated_account_id,
        "environment": delivery.environment_id,
        "webhook": delivery.webhook_id,
        "created": f"{format_time(delivery.created_at)} UTC" if delivery.created_at else "",
        "received": f"{format_time(delivery.received_at)} UTC" + _format_duplicates(delivery.duplicates),
        "size": f"{delivery.body_bytes:,} bytes ({delivery.stored_bytes:,} stored), "
        f"{delivery.records:,} records",
    }


def _state_fields(detail: DeliveryDetail) -> dict[str, str]:
    delivery = detail.delivery
    explanation = explain(delivery.state, delivery.reason)
    lost = f", {delivery.lost_attempts} of them lost" if delivery.lost_attempts else ""
    replayed = f"{format_time(detail.replayed_at)} UTC, by " if detail.replayed_at else ""
    return {
        "attempts": f"{delivery.attempts}{lost}",
        "due": f"{format_time(delivery.due_at)} UTC" if delivery.state == "pending" else "",
        "concluded": f"{format_time(delivery.settled_at)} UTC" if delivery.settled_at else "",
        "means": explanation.meaning,
        "reason": delivery.reason,
        "to do": explanation.advice,
        "discarded": delivery.discard_reason,
        "replaced": f"{delivery.replaced_characters:,} characters that no database holds"
        if delivery.replaced_characters
        else "",
        "replayed": f"{replayed}{delivery.replay_id}" if delivery.replay_id else "",
        "pruned": f"{format_time(delivery.pruned_at)} UTC: its body is gone" if delivery.pruned_at else "",
    }


def _format_duplicates(duplicates: int) -> str:
    return f", and {duplicates:,} times again" if duplicates > 1 else ", and once again" if duplicates else ""


def _sink_lines(outcomes: Sequence[SinkOutcome]) -> Iterator[str]:
    if not outcomes:
        return
    rows = [
        (
            shorten(outcome.sink, 24),
            outcome.state,
            outcome.written,
            outcome.dead,
            shorten(outcome.reason, 24),
            f"{outcome.updated_at:%m-%d %H:%M:%S}",
        )
        for outcome in outcomes
    ]
    yield from format_table(_SINK_HEADERS, rows, indent=2)
    for outcome in outcomes:
        if outcome.message:
            text = replace_control_chars(f"{outcome.sink}: {outcome.message}")
            yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _format_dead_records(group: DeadRecordCount) -> str:
    where = f"refused by {shorten(group.sink, 24)}" if group.sink else "could not be read"
    discarded = f", {group.discarded:,} discarded" if group.discarded else ""
    return f"  {group.records:,} dead records {where}: {shorten(group.reason, 24)}{discarded}"
