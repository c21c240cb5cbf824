"""rapidbridge replay: deliver again what the inbox holds, or what a file holds, here or elsewhere."""

from collections.abc import Mapping
from typing import Any, BinaryIO

import click

from app.cli.common.filters import FilterCommand, build_delivery_filter, filter_options
from app.cli.common.times import get_typed_times
from app.cli.local.development_secret import read_development_secret
from app.cli.replay.again import replay_deliveries
from app.cli.replay.asking import ReplayRequest, require_filter_or_all
from app.cli.replay.elsewhere import forward_deliveries, import_file
from app.config.load import Config, read_config
from app.database.engine import open_database
from app.errors import ConfigError
from app.simulator.plan import is_web_address
from app.truto.webhook_sender import WebhookTarget

_EXCLUDED_BY_FROM = ("url", "into", "limit", "rate", "restart")


@click.command(cls=FilterCommand)
@filter_options
@click.option("--all", "everything", is_flag=True, help="Every delivery; needed where nothing else chooses.")
@click.option("--sink", "into", default="", metavar="NAME", help="Write this sink alone, such as a new one.")
@click.option("--limit", type=click.IntRange(1), help="At most so many deliveries, the oldest.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most so many a second.")
@click.option("--dry-run", "dry_run", is_flag=True, help="Count what would be replayed; change nothing.")
@click.option("--restart", "restart", is_flag=True, help="Do not go on with the same that was broken off.")
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
    dry_run: bool,
    restart: bool,
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
    delivery_filter = build_delivery_filter(options)
    _check_options(context.params, has_filter=everything or not delivery_filter.is_empty)
    config = read_config()
    store = open_database(config.settings.database_url, interactive=True)
    if source:
        import_file(
            store,
            config.settings,
            source,
            secret=_find_secret(config, secret),
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    require_filter_or_all(delivery_filter, everything=everything)
    request = ReplayRequest(delivery_filter, get_typed_times(context), into, limit)
    if url:
        target = WebhookTarget(url, _require_secret(config, secret))
        forward_deliveries(store, request, target, rate=rate, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    if into and into not in config.routes.sinks:
        raise click.UsageError(f"--sink: the routes know {', '.join(config.routes.sinks)}, and no {into}.")
    replay_deliveries(store, request, rate=rate, dry_run=dry_run, restart=restart, yes=yes, as_json=as_json)


def _check_options(options: Mapping[str, Any], *, has_filter: bool) -> None:
    """Refuse options that mean nothing together."""
    url, is_from_file = options["url"], bool(options["source"])
    if is_from_file and (has_filter or any(options[name] for name in _EXCLUDED_BY_FROM)):
        raise click.UsageError("--from takes in a whole file: only --secret, --dry-run and --json go along.")
    if url and (options["into"] or options["restart"]):
        raise click.UsageError("--to changes nothing here: --sink and --restart do not go with it.")
    if url and not is_web_address(url):
        raise click.UsageError("--to: give an http:// or https:// address, up to /webhooks/truto.")
    if options["secret"] and not (is_from_file or url):
        raise click.UsageError("--secret is for --from and --to.")


def _find_secret(config: Config, secret_option: str | None) -> str:
    return secret_option or next(iter(config.settings.secret_values), "") or read_development_secret() or ""


def _require_secret(config: Config, secret_option: str | None) -> str:
    secret = _find_secret(config, secret_option)
    if not secret:
        raise ConfigError(["TRUTO_WEBHOOK_SECRET: not set. Set it, or pass --secret, to sign with it."])
    return secret
