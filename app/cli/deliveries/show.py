"""rapidbridge deliveries show."""

import sys
from dataclasses import asdict
from uuid import UUID

import click

from app.cli.common.output import format_time
from app.cli.common.pipes import open_standard_output
from app.cli.deliveries.asking import JSON_OPTION, exit_not_found, open_interactive_store, parse_delivery_ids
from app.cli.deliveries.body import format_body
from app.cli.deliveries.portrait import detail_lines
from app.cli.deliveries.telling import to_json
from app.database.engine import Database
from app.store.delivery_detail import DeliveryDetail, read_delivery_detail
from app.store.inbox import Inbox
from app.store.reasons import explain


@click.command()
@click.argument("delivery", metavar="ID", callback=parse_delivery_ids)
@click.option("--body", "with_body", is_flag=True, help="What it brought, indented: your customers' data.")
@click.option("--raw", is_flag=True, help="Its body, the very bytes that were signed, and nothing else.")
@JSON_OPTION
def show(delivery: UUID, *, with_body: bool, raw: bool, as_json: bool) -> None:
    """Show a delivery: what it is, what each sink made of it, and what to do about it.

    \b
    Examples:
      rapidbridge deliveries show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5
      rapidbridge deliveries show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5 --raw > body.json
    """
    if with_body + raw + as_json > 1:
        raise click.UsageError("--body, --raw and --json exclude each other.")
    store = open_interactive_store()
    detail = read_delivery_detail(store, delivery)
    if detail is None:
        exit_not_found(delivery)
    if raw:
        body = _read_body(store, detail)
        with open_standard_output() as file:
            file.write(body)
        return
    if as_json:
        click.echo(to_json(_detail_as_json(detail)))
        return
    for line in detail_lines(detail):
        click.echo(line)
    if with_body:
        click.echo(format_body(_read_body(store, detail)))


def _detail_as_json(detail: DeliveryDetail) -> dict[str, object]:
    fields: dict[str, object] = asdict(detail)
    delivery: dict[str, object] = asdict(detail.delivery)
    explanation = explain(detail.delivery.state, detail.delivery.reason)
    del fields["delivery"]
    return delivery | fields | {"meaning": explanation.meaning, "remedy": explanation.advice}


def _read_body(store: Database, detail: DeliveryDetail) -> bytes:
    if pruned_at := detail.delivery.pruned_at:
        click.echo(f"Its body is no longer there: it was pruned on {format_time(pruned_at)} UTC.", err=True)
        sys.exit(1)
    try:
        return Inbox(store).read_body(detail.delivery.id)
    except ValueError:
        click.echo("Its body is damaged in the store: no bytes can be made of it.", err=True)
        sys.exit(1)
