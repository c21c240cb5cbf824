"""rapidbridge dead replay: replay of failed deliveries."""

from dataclasses import replace
from typing import Any

import click

from app.cli.common.filters import FilterCommand, build_delivery_filter, failure_filter_options
from app.cli.common.messages import print_message
from app.cli.common.options import dry_run_option, json_option, yes_option
from app.cli.common.times import get_typed_times
from app.cli.replay.redelivery import replay_deliveries
from app.config.load import read_config
from app.plural import format_count
from app.replay.request import ReplayRequest, select_dead_records, select_failed
from app.store.discards import count_dead_records
from app.store.store_database import open_store


@click.command(name="replay", cls=FilterCommand)
@failure_filter_options
@click.option(
    "--records",
    "with_dead_records",
    is_flag=True,
    help="Replay settled deliveries with dead records, instead of failed deliveries.",
)
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Replay at most this many deliveries a second."
)
@dry_run_option
@yes_option
@json_option
@click.pass_context
def replay_dead(
    context: click.Context,
    /,
    *,
    with_dead_records: bool,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Replay failed deliveries, after their cause is fixed.

    Like `rapidbridge replay`, for dead, quarantined, unrouted and late deliveries: all of them without
    filters. Dead records of settled deliveries are not included. With --records, the settled deliveries
    with dead records are replayed instead, and --reason is the reason of the records.

    More than 1,000 deliveries need a confirmation. Exits 1 if a delivery fails again, or a worker has other
    routes than this command.

    \b
    Examples:
      rapidbridge dead replay --dry-run
      rapidbridge dead replay --reason no_route --resource 'crm/*'
      rapidbridge dead replay --records --reason not_object
    """
    delivery_filter = build_delivery_filter(options)
    if with_dead_records and delivery_filter.states:
        raise click.UsageError("--records replays settled deliveries: leave out --state.")
    config = read_config()
    settings = config.settings
    database = open_store(settings, interactive=True)
    if with_dead_records:
        delivery_filter = select_dead_records(delivery_filter)
    else:
        records = count_dead_records(database, replace(delivery_filter, states=(), reason=""))
        if records:
            print_message(_format_excluded(records))
        delivery_filter = select_failed(delivery_filter)
    request = ReplayRequest(delivery_filter, get_typed_times(context), rate=rate)
    replay_deliveries(
        config,
        database,
        request,
        action="failed.replay",
        dry_run=dry_run,
        restart=False,
        yes=yes,
        as_json=as_json,
    )


def _format_excluded(records: int) -> str:
    verb = "is" if records == 1 else "are"
    return (
        f"{format_count(records, 'dead record')} of settled deliveries {verb} not included. "
        "To replay deliveries with dead records, run: rapidbridge dead replay --records"
    )
