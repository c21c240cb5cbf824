"""rapidbridge dead replay."""

from dataclasses import replace
from typing import Any

import click

from app.cli.common.options import filters
from app.cli.common.times import typed_moments
from app.cli.dead.choosing import stranded_of
from app.cli.replay.again import replay_again
from app.cli.replay.asking import Question
from app.config.load import read_setup
from app.database.engine import open_store
from app.store.failures import STRANDED, count_dead_records


@click.command(name="replay")
@filters
@click.option(
    "--records", "are_records", is_flag=True, help="Settled deliveries with dead records, instead of these."
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Count what would be replayed; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before more than 1,000 deliveries.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_context
def replay_dead(
    context: click.Context,
    /,
    *,
    are_records: bool,
    rate: float | None,
    is_dry: bool,
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
    selection = stranded_of(options)
    if are_records and selection.states:
        raise click.UsageError("--records is about settled deliveries: leave --state out.")
    store = open_store(read_setup().settings.database_url, for_person=True)
    others = 0 if are_records else count_dead_records(store, replace(selection, states=(), reason=""))
    if others:
        click.echo(f"{others:,} dead records of settled deliveries are not among these: --records.", err=True)
    if are_records:
        reason = selection.reason
        selection = replace(
            selection, states=("settled",), reason="", has_dead_records=True, record_reason=reason
        )
    else:
        selection = replace(selection, states=selection.states or STRANDED)
    question = Question(selection, typed_moments(context), "", None)
    replay_again(store, question, rate=rate, is_dry=is_dry, is_anew=False, yes=yes, as_json=as_json)
