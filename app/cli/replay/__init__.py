"""rapidbridge replay: replay, import or forward deliveries."""

from collections.abc import Mapping
from io import BufferedReader
from typing import Any

import click

from app.cli.common.filters import FilterCommand, build_delivery_filter, filter_options
from app.cli.common.options import dry_run_option, json_option, yes_option
from app.cli.common.signing_secret import SigningSecret, find_signing_secret
from app.cli.common.times import get_typed_times
from app.cli.replay.forwarding import forward_deliveries
from app.cli.replay.importing import import_file
from app.cli.replay.redelivery import replay_deliveries
from app.config.load import Config, read_config
from app.errors import ConfigError
from app.replay.request import ReplayRequest
from app.simulator.plan import is_web_address
from app.store.delivery_filter import DeliveryFilter
from app.store.store_database import open_store
from app.truto.target_url import WEBHOOK_PATH
from app.truto.webhook_sender import WebhookTarget

_EXCLUDED_BY_FROM = ("url", "into", "limit", "rate", "restart")


@click.command(cls=FilterCommand)
@filter_options
@click.option(
    "--all", "everything", is_flag=True, help="Replay every delivery; required without another filter."
)
@click.option(
    "--sink", "into", default="", metavar="NAME", help="Write only to this sink, for example a new one."
)
@click.option("--limit", type=click.IntRange(1), help="Replay at most this many deliveries, oldest first.")
@click.option(
    "--rate", type=click.FloatRange(0, min_open=True), help="Replay at most this many deliveries a second."
)
@dry_run_option
@click.option("--restart", is_flag=True, help="Start over instead of resuming an unfinished replay.")
@yes_option
@click.option(
    "--from",
    "source",
    type=click.File("rb"),
    help="Import this file: one exported delivery or bare body a line, plain or gzip; - is standard input. "
    "Pruned deliveries get their bodies back.",
)
@click.option(
    "--to", "url", default="", metavar="URL", help="Send to this receiver instead; change nothing here."
)
@click.option("--secret", help="Sign with this secret, with --to or --from.  [default: TRUTO_WEBHOOK_SECRET]")
@json_option
@click.pass_context
def replay(
    context: click.Context,
    /,
    *,
    source: BufferedReader | None,
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
    """Replay stored deliveries, through the current routes.

    Without --state, this includes settled, unrouted, dead, quarantined and late deliveries. A worker must be
    running, and every running worker must have started with the routes that this command reads. Sinks end up
    as if every delivery had been written once. New deliveries are written before replayed ones. After Ctrl-C,
    the replay continues in the background: run the same command again to follow it, or see `rapidbridge
    operations`. More than 1,000 deliveries need a confirmation.

    Exits 1 if a worker has other routes, the replay is cancelled or still runs after Ctrl-C, a delivery is
    dead, unrouted, quarantined or not accepted, none reaches the sink of --sink, or a line is skipped; 3 if
    the receiver of --to is unreachable.

    \b
    Examples:
      rapidbridge replay --state dead --state unrouted
      rapidbridge replay --resource 'crm/*' --since 7d --dry-run
      rapidbridge replay --all --sink lake --rate 200
      rapidbridge replay --from deliveries.jsonl.gz
      rapidbridge replay --run 1f276317 --to http://localhost:8000/webhooks/truto
    """
    delivery_filter = build_delivery_filter(options)
    _check_options(context.params, delivery_filter, everything=everything)
    config = read_config()
    database = open_store(config.settings, interactive=True)
    if source:
        signing_secret = find_signing_secret(config.settings, secret)
        import_file(
            database,
            config,
            source,
            secret=signing_secret.value if signing_secret else "",
            other_secrets=config.settings.secret_values,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    request = ReplayRequest(delivery_filter, get_typed_times(context), into, limit, rate)
    if url:
        signing_secret = _require_secret(config, secret)
        forward_deliveries(
            database,
            request,
            WebhookTarget(url, signing_secret.value),
            secret_source=signing_secret.source,
            dry_run=dry_run,
            yes=yes,
            as_json=as_json,
        )
        return
    if into and into not in config.routes.sinks:
        raise click.UsageError(f"--sink: no sink named {into}; known: {', '.join(config.routes.sinks)}.")
    if into and not any(into in route.sinks for route in config.routes.routes):
        raise click.UsageError(f"--sink: no route names {into}; add it to the `sinks` of a [[routes]] table.")
    replay_deliveries(config, database, request, dry_run=dry_run, restart=restart, yes=yes, as_json=as_json)


def _check_options(options: Mapping[str, Any], delivery_filter: DeliveryFilter, *, everything: bool) -> None:
    """Refuse options that contradict each other, and a replay of everything by accident."""
    url, is_import = options["url"], bool(options["source"])
    has_filter = not delivery_filter.is_empty
    if options["secret"] and not (is_import or url):
        raise click.UsageError("--secret needs --from or --to.")
    if is_import:
        if has_filter or everything or any(options[name] for name in _EXCLUDED_BY_FROM):
            raise click.UsageError(
                "--from imports a whole file: combine it only with --secret, --dry-run and --json."
            )
        return
    if url and (options["into"] or options["restart"]):
        raise click.UsageError("--to changes nothing here: leave out --sink and --restart.")
    if url and not is_web_address(url):
        raise click.UsageError(f"--to: write an http:// or https:// URL that ends in {WEBHOOK_PATH}.")
    if not has_filter and not everything:
        raise click.UsageError("Choose deliveries, such as --state dead or --since 7d, or pass --all.")
    if has_filter and everything:
        raise click.UsageError("--all replays every delivery: leave out --all, or the other filters.")


def _require_secret(config: Config, secret_option: str | None) -> SigningSecret:
    secret = find_signing_secret(config.settings, secret_option)
    if not secret:
        raise ConfigError(["TRUTO_WEBHOOK_SECRET: not set. Set it or pass --secret, to sign the deliveries."])
    return secret
