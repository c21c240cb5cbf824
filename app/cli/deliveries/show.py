"""rapidbridge deliveries show."""

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from uuid import UUID

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.ids import DELIVERY_ID, exit_not_found
from app.cli.common.messages import LINE_WIDTH
from app.cli.common.next_steps import delivery_command_lines
from app.cli.common.options import json_option
from app.cli.common.output import (
    escape_control_chars,
    format_time,
    print_json,
    replace_control_chars,
    shorten,
)
from app.cli.common.output_file import open_standard_output
from app.cli.common.tables import format_table
from app.database.engine import Database
from app.plural import format_count
from app.store.delivery_detail import DeadRecordCount, DeliveryDetail, DeliveryRow, read_delivery_detail
from app.store.inbox import Inbox
from app.store.models import AttributionSource, DeliveryAttempt, SinkOutcome
from app.store.reasons import explain
from app.truto.events import decode_body
from app.truto.records import decode_json, indent_json

_LABEL_WIDTH = 14
_MAX_SINK_WIDTH, _MAX_REASON_WIDTH = 14, 20
_SOURCES: Mapping[str, str] = {
    AttributionSource.RUN: "from the run",
    AttributionSource.WEBHOOK: "from [[webhooks]]",
    AttributionSource.RECORD: "from the records",
    AttributionSource.OPEN_RUN: "the only open run",
}
_COLOURS = {"settled": "green", "dead": "red", "quarantined": "red", "unrouted": "yellow", "late": "yellow"}
_ATTEMPT_HEADERS = ("attempt", "at (UTC)", "state after it", "reason", "next (UTC)")
_SINK_HEADERS = ("sink", "state", "written", "dead", "reason", "at (UTC)")


@click.command()
@click.argument("delivery", metavar="ID", type=DELIVERY_ID)
@click.option("--body", "with_body", is_flag=True, help="Add the payload, indented: your customers' data.")
@click.option("--raw", is_flag=True, help="Print nothing but the body, byte for byte as Truto signed it.")
@json_option
def show(delivery: UUID, *, with_body: bool, raw: bool, as_json: bool) -> None:
    """Show a delivery: attempts, sink results and the next step.

    ID may be shortened to its first characters.

    \b
    Examples:
      rapidbridge deliveries show 019a7f2c-1c44-8ae8
      rapidbridge deliveries show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5 --raw
    """
    if with_body + raw + as_json > 1:
        raise click.UsageError("--body, --raw and --json exclude each other.")
    database = open_interactive_database()
    detail = read_delivery_detail(database, delivery)
    if detail is None:
        exit_not_found(delivery)
    if raw:
        body = _read_body(database, detail)
        with open_standard_output() as file:
            file.write(body)
        return
    if as_json:
        print_json(_detail_as_json(detail))
        return
    for line in detail_lines(detail):
        click.echo(line)
    if with_body:
        click.echo(format_body(_read_body(database, detail)))


def detail_lines(detail: DeliveryDetail) -> Iterator[str]:
    """Yield the lines that describe a delivery, without its records."""
    delivery = detail.delivery
    state = click.style(delivery.state, fg=_COLOURS.get(delivery.state))
    yield f"{click.style(f'delivery {delivery.id}', bold=True)}  {state}"
    for name, value in (_envelope_fields(delivery) | _state_fields(detail)).items():
        if value:
            first, *others = textwrap.wrap(
                replace_control_chars(value), LINE_WIDTH - _LABEL_WIDTH, break_long_words=False
            )
            yield f"  {name:{_LABEL_WIDTH - 2}}{first}"
            yield from (" " * _LABEL_WIDTH + line for line in others)
    for line in delivery_command_lines(delivery.state, delivery.reason, delivery.id):
        yield f"  {line}"
    yield from _attempt_lines(detail.attempts)
    yield from _sink_lines(detail.outcomes)
    yield from map(_format_dead_records, detail.dead)


def format_body(body: bytes) -> str:
    """Return an event's payload as indented JSON; a body that is not JSON is returned as text.

    Unprintable characters are escaped, so that the body cannot control the terminal.
    """
    text = decode_body(body)
    try:
        value = decode_json(text)
        text = indent_json(value.get("payload", value) if isinstance(value, dict) else value)
    except (ValueError, RecursionError):
        pass
    return escape_control_chars(text)


def _detail_as_json(detail: DeliveryDetail) -> dict[str, object]:
    fields: dict[str, object] = asdict(detail)
    delivery: dict[str, object] = asdict(detail.delivery)
    explanation = explain(detail.delivery.state, detail.delivery.reason)
    del fields["delivery"]
    return delivery | fields | {"meaning": explanation.meaning, "advice": explanation.advice}


def _envelope_fields(delivery: DeliveryRow) -> dict[str, str]:
    return {
        "event": delivery.event,
        "event id": delivery.event_id,
        "resource": f"{delivery.resource} {delivery.method}".strip(),
        "run": _format_id(delivery.sync_job_run_id, delivery.run_source),
        "job": delivery.sync_job_id,
        "account": _format_id(delivery.integrated_account_id, delivery.account_source),
        "environment": delivery.environment_id,
        "webhook": delivery.webhook_id,
        "created": f"{format_time(delivery.created_at)} UTC" if delivery.created_at else "",
        "received": f"{format_time(delivery.received_at)} UTC" + _format_duplicates(delivery.duplicates),
        "size": f"{delivery.body_bytes:,} bytes ({delivery.stored_bytes:,} stored), "
        + format_count(delivery.records, "record"),
    }


def _format_id(id_: str, source: str) -> str:
    """Return an id with the place where a worker found it, unless the event itself names it."""
    if not source:
        return id_
    return f"{id_ or 'several'} ({_SOURCES.get(source, source)})"


def _state_fields(detail: DeliveryDetail) -> dict[str, str]:
    delivery = detail.delivery
    explanation = explain(delivery.state, delivery.reason)
    lost = f", {delivery.lost_attempts} of them lost" if delivery.lost_attempts else ""
    replayed = f"{format_time(detail.replayed_at)} UTC, by " if detail.replayed_at else ""
    return {
        "attempts": f"{delivery.attempts}{lost}",
        "due": f"{format_time(delivery.due_at)} UTC" if delivery.state == "pending" else "",
        "finished": f"{format_time(delivery.settled_at)} UTC" if delivery.settled_at else "",
        "means": explanation.meaning,
        "reason": delivery.reason,
        "to do": explanation.advice,
        "discarded": delivery.discard_reason,
        "replaced": f"{format_count(delivery.replaced_characters, 'character')} that no database can store"
        if delivery.replaced_characters
        else "",
        "replayed": f"{replayed}{delivery.replay_id}" if delivery.replay_id else "",
        "pruned": f"{format_time(delivery.pruned_at)} UTC: the body was "
        # Erasure sets the size to 0.
        + ("deleted" if delivery.body_bytes else "erased with its account")
        if delivery.pruned_at
        else "",
    }


def _format_duplicates(duplicates: int) -> str:
    return f", and {format_count(duplicates, 'duplicate')}" if duplicates else ""


def _attempt_lines(attempts: Sequence[DeliveryAttempt]) -> Iterator[str]:
    if not attempts:
        return
    rows = [
        (
            attempt.attempt,
            f"{attempt.finished_at:%m-%d %H:%M:%S}",
            attempt.state,
            shorten(attempt.reason, _MAX_REASON_WIDTH),
            f"{attempt.due_at:%m-%d %H:%M:%S}" if attempt.due_at else "",
        )
        for attempt in attempts
    ]
    yield from format_table(_ATTEMPT_HEADERS, rows, indent=2)
    # Most attempts fail for one cause: it is printed once.
    yield from _message_lines(dict.fromkeys(attempt.message for attempt in attempts if attempt.message))


def _message_lines(messages: Iterable[str]) -> Iterator[str]:
    for message in messages:
        yield from textwrap.wrap(
            replace_control_chars(message), LINE_WIDTH, initial_indent="  ", subsequent_indent="    "
        )


def _sink_lines(outcomes: Sequence[SinkOutcome]) -> Iterator[str]:
    if not outcomes:
        return
    rows = [
        (
            shorten(outcome.sink, _MAX_SINK_WIDTH),
            outcome.state,
            outcome.written,
            outcome.dead,
            shorten(outcome.reason, _MAX_REASON_WIDTH),
            f"{outcome.updated_at:%m-%d %H:%M:%S}",
        )
        for outcome in outcomes
    ]
    yield from format_table(_SINK_HEADERS, rows, indent=2)
    for outcome in outcomes:
        if outcome.filtered:
            yield f"  {outcome.sink}: {format_count(outcome.filtered, 'record')} left out by its route"
    yield from _message_lines(f"{outcome.sink}: {outcome.message}" for outcome in outcomes if outcome.message)


def _format_dead_records(group: DeadRecordCount) -> str:
    place = f"rejected by {shorten(group.sink, _MAX_SINK_WIDTH)}" if group.sink else "unreadable"
    discarded = f", {group.discarded:,} discarded" if group.discarded else ""
    reason = shorten(group.reason, _MAX_REASON_WIDTH)
    return f"  {format_count(group.records, 'dead record')}, {place}: {reason}{discarded}"


def _read_body(database: Database, detail: DeliveryDetail) -> bytes:
    if pruned_at := detail.delivery.pruned_at:
        click.echo(f"The body was deleted: pruned at {format_time(pruned_at)} UTC.", err=True)
        sys.exit(1)
    try:
        return Inbox(database).read_body(detail.delivery.id)
    except ValueError:
        click.echo("The body is damaged in the database and cannot be decompressed.", err=True)
        sys.exit(1)
