"""rapidbridge dead replay."""

from dataclasses import replace
from typing import Any

import click

from app.cli.dead.choosing import stranded_of
from app.cli.filters import filters
from app.cli.moments import typed_moments
from app.cli.replay.again import replay_again
from app.cli.replay.asking import Question
from app.setup import read_setup
from app.store.engine import open_store
from app.store.strandings import STRANDED


@click.command(name="replay")
@filters
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Count what would be replayed; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before more than 1,000 deliveries.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_context
def replay_dead(
    context: click.Context, /, *, rate: float | None, is_dry: bool, yes: bool, as_json: bool, **options: Any
) -> None:
    """Deliver again what did not reach its sinks, once its cause is mended.

    As `rapidbridge replay` does, of which it is the part about dead, quarantined, unrouted and late
    deliveries: without options, all of them. Exits 1 if any did not get through again.

    \b
    Examples:
      rapidbridge dead replay --dry-run
      rapidbridge dead replay --reason no_route --resource 'crm/*'
    """
    selection = stranded_of(options)
    selection = replace(selection, states=selection.states or STRANDED)
    store = open_store(read_setup().settings.database_url, is_patient=True)
    question = Question(selection, typed_moments(context), "", None)
    replay_again(store, question, rate=rate, is_dry=is_dry, is_anew=False, yes=yes, as_json=as_json)
