"""rapidbridge replay: deliver again what the inbox holds, or what a file holds, here or elsewhere."""

from collections.abc import Mapping
from typing import Any, BinaryIO

import click

from app.cli.common.options import filters, selection_of
from app.cli.common.times import typed_moments
from app.cli.local.development_secret import known_development_secret
from app.cli.replay.again import replay_again
from app.cli.replay.asking import Question, require_choice
from app.cli.replay.elsewhere import send_elsewhere, take_in_file
from app.config.load import Setup, read_setup
from app.database.engine import open_store
from app.errors import ConfigError
from app.simulator.plan import is_web_address
from app.truto.webhook_sender import Target

_NOT_WITH_FROM = ("url", "into", "limit", "rate", "is_anew")


@click.command()
@filters
@click.option("--all", "everything", is_flag=True, help="Every delivery; needed where nothing else chooses.")
@click.option("--sink", "into", default="", metavar="NAME", help="Write this sink alone, such as a new one.")
@click.option("--limit", type=click.IntRange(1), help="At most so many deliveries, the oldest.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Count what would be replayed; change nothing.")
@click.option("--restart", "is_anew", is_flag=True, help="Do not go on with the same that was broken off.")
@click.option("--yes", is_flag=True, help="Do not ask before more than 1,000 deliveries.")
@click.option(
    "--from",
    "source",
    type=click.File("rb"),
    help="Take in a file's lines, exported deliveries or bare bodies, also gzipped; - is standard input.",
)
@click.option("--to", "url", default="", metavar="URL", help="Send to this receiver; change nothing here.")
@click.option("--secret", help="With --from and --to: what to sign with.  [default: TRUTO_WEBHOOK_SECRET]")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_context
def replay(
    context: click.Context,
    /,
    *,
    source: BinaryIO | None,
    url: str,
    secret: str | None,
    into: str,
    limit: int | None,
    rate: float | None,
    everything: bool,
    is_dry: bool,
    is_anew: bool,
    yes: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Deliver again what was delivered, quarantined, unrouted or dead: by the routes as they are now.

    It needs a worker that runs. Sinks are left as if everything had been delivered once. What is live goes
    first: few are taken up at a time. After Ctrl-C, the same command goes on where it was broken off.

    Exits 1 if any are dead, unrouted, quarantined, skipped or not taken, 3 if nobody answers --to.

    \b
    Examples:
      rapidbridge replay --state dead --state unrouted
      rapidbridge replay --resource 'crm/*' --since 7d --dry-run
      rapidbridge replay --all --sink lake --rate 200
      rapidbridge replay --from deliveries.jsonl.gz
      rapidbridge replay --run 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5 --to http://localhost:8000/webhooks/truto
    """
    selection = selection_of(options)
    _check(context.params, is_chosen=everything or not selection.is_everything)
    setup = read_setup()
    store = open_store(setup.settings.database_url, for_person=True)
    if source:
        take_in_file(
            store, setup.settings, source, secret=_known(setup, secret), is_dry=is_dry, as_json=as_json
        )
        return
    require_choice(selection, everything=everything)
    question = Question(selection, typed_moments(context), into, limit)
    if url:
        target = Target(url, _secret(setup, secret))
        send_elsewhere(store, question, target, rate=rate, is_dry=is_dry, yes=yes, as_json=as_json)
        return
    if into and into not in setup.routes.sinks:
        raise click.UsageError(f"--sink: the routes know {', '.join(setup.routes.sinks)}, and no {into}.")
    replay_again(store, question, rate=rate, is_dry=is_dry, is_anew=is_anew, yes=yes, as_json=as_json)


def _check(given: Mapping[str, Any], *, is_chosen: bool) -> None:
    """Refuse options that mean nothing together."""
    url, is_from_file = given["url"], bool(given["source"])
    if is_from_file and (is_chosen or any(given[name] for name in _NOT_WITH_FROM)):
        raise click.UsageError("--from takes in a whole file: only --secret, --dry-run and --json go along.")
    if url and (given["into"] or given["is_anew"]):
        raise click.UsageError("--to changes nothing here: --sink and --restart do not go with it.")
    if url and not is_web_address(url):
        raise click.UsageError("--to: give an http:// or https:// address, up to /webhooks/truto.")
    if given["secret"] and not (is_from_file or url):
        raise click.UsageError("--secret is for --from and --to.")


def _known(setup: Setup, given: str | None) -> str:
    return given or next(iter(setup.settings.secret_values), "") or known_development_secret() or ""


def _secret(setup: Setup, given: str | None) -> str:
    secret = _known(setup, given)
    if not secret:
        raise ConfigError(["TRUTO_WEBHOOK_SECRET: not set. Set it, or pass --secret, to sign with it."])
    return secret
