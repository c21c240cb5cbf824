"""rapidbridge deliveries show."""

import sys
from dataclasses import asdict
from uuid import UUID

import click

from app.cli.common.explanations import meaning_of
from app.cli.common.output import clock
from app.cli.common.pipes import standard_output
from app.cli.deliveries.asking import AS_JSON, delivery_id, open_for_person, tell_unknown
from app.cli.deliveries.body import pretty
from app.cli.deliveries.portrait import portrait_lines
from app.cli.deliveries.telling import to_json
from app.database.engine import Store
from app.store.delivery_detail import Dossier, read_dossier
from app.store.inbox import Inbox


@click.command()
@click.argument("delivery", metavar="ID", callback=delivery_id)
@click.option("--body", "with_body", is_flag=True, help="What it brought, indented: your customers' data.")
@click.option("--raw", is_flag=True, help="Its body, the very bytes that were signed, and nothing else.")
@AS_JSON
def show(delivery: UUID, *, with_body: bool, raw: bool, as_json: bool) -> None:
    """Show a delivery: what it is, what each sink made of it, and what to do about it.

    \b
    Examples:
      rapidbridge deliveries show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5
      rapidbridge deliveries show 019a7f2c-1c44-8ae8-b2e2-f7b8bc0f6aa5 --raw > body.json
    """
    if with_body + raw + as_json > 1:
        raise click.UsageError("--body, --raw and --json exclude each other.")
    store = open_for_person()
    dossier = read_dossier(store, delivery)
    if dossier is None:
        tell_unknown(delivery)
    if raw:
        body = _body(store, dossier)
        with standard_output() as file:
            file.write(body)
        return
    if as_json:
        click.echo(to_json(_as_json(dossier)))
        return
    for line in portrait_lines(dossier):
        click.echo(line)
    if with_body:
        click.echo(pretty(_body(store, dossier)))


def _as_json(dossier: Dossier) -> dict[str, object]:
    told: dict[str, object] = asdict(dossier)
    delivery: dict[str, object] = asdict(dossier.delivery)
    meaning = meaning_of(dossier.delivery.state, dossier.delivery.reason)
    del told["delivery"]
    return delivery | told | {"meaning": meaning.what, "remedy": meaning.remedy}


def _body(store: Store, dossier: Dossier) -> bytes:
    if pruned_at := dossier.delivery.pruned_at:
        click.echo(f"Its body is no longer there: it was pruned on {clock(pruned_at)} UTC.", err=True)
        sys.exit(1)
    try:
        return Inbox(store).read_body(dossier.delivery.id)
    except ValueError:
        click.echo("Its body is damaged in the store: no bytes can be made of it.", err=True)
        sys.exit(1)
