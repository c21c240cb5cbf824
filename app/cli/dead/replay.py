"""rapidbridge dead replay."""

from dataclasses import replace
from typing import Any

import click

from app.cli.common.filters import FilterCommand, build_delivery_filter, failure_filter_options
from app.cli.common.times import get_typed_times
from app.cli.replay.again import replay_deliveries
from app.cli.replay.asking import ReplayRequest
from app.config.load import read_config
from app.database.engine import open_database
from app.store.failures import FAILED_STATES, count_dead_records


@click.command(name="replay", cls=FilterCommand)
@failure_filter_options
@click.option(
    "--records", "are_records", is_flag=True, help="Settled deliveries with dead records, instead of these."
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", "dry_run", is_flag=True, help="Count what would be replayed; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before more than 1,000 deliveries.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_context
def replay_dead(
    context: click.Context,
    /,
    *,
    are_records: bool,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Deliver again what did not reach its sinks, once its cause is mended.

    As `rapidbridge replay` does, of which it is the part about dead, quarantined, unrouted and late
    deliveries: without options, all of them. Dead records of settled deliveries are left alone, unless
    --records: then those deliveries are replayed, and --reason is that of the records. Exits 1 if any did not
    get through again.

    \b
    Examples:
      rapidbridge dead replay --dry-run
      rapidbridge dead replay --reason no_route --resource 'crm/*'
      rapidbridge dead replay --records --reason not_object
    """
    delivery_filter = build_delivery_filter(options)
    if are_records and delivery_filter.states:
        raise click.UsageError("--records is about settled deliveries: leave --state out.")
    store = open_database(read_config().settings.database_url, interactive=True)
    others = 0 if are_records else count_dead_records(store, replace(delivery_filter, states=(), reason=""))
    if others:
        click.echo(f"{others:,} dead records of settled deliveries are not among these: --records.", err=True)
    if are_records:
        reason = delivery_filter.reason
        delivery_filter = replace(
            delivery_filter, states=("settled",), reason="", has_dead_records=True, record_reason=reason
        )
    else:
        delivery_filter = replace(delivery_filter, states=delivery_filter.states or FAILED_STATES)
    request = ReplayRequest(delivery_filter, get_typed_times(context), "", None)
    replay_deliveries(store, request, rate=rate, dry_run=dry_run, restart=False, yes=yes, as_json=as_json)
