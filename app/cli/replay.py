"""rapidbridge replay: replay, import or forward deliveries."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from app.cli.common.filters import FilterCommand, build_delivery_filter, filter_options
from app.cli.common.messages import print_message
from app.cli.common.options import dry_run_option, json_option, yes_option
from app.cli.common.output import print_json
from app.cli.common.program import name_program
from app.cli.common.progress import progress_bar
from app.cli.common.prompts import confirm
from app.cli.common.reachability import require_reachable
from app.cli.common.tables import format_table
from app.cli.common.times import get_typed_times
from app.cli.local.development_secret import read_development_secret
from app.clock import utc_now
from app.config.delivery_config import DeliveryConfig
from app.config.load import Config, read_config
from app.database.engine import Database, open_database
from app.errors import ConfigError
from app.plural import format_count
from app.replay.current_workers import describe_refusal, find_outdated_workers
from app.replay.forwarder import ForwardCounts, Forwarder
from app.replay.importer import ImportCounts, Importer
from app.replay.preview import ReplayPreview, preview_forward, preview_replay
from app.replay.redeliver import ReplaySummary, ThrottledReplay
from app.replay.request import ReplayRequest
from app.simulator.plan import is_web_address
from app.store.delivery_filter import DeliveryFilter
from app.store.inbox import Inbox
from app.store.models import DeliveryState
from app.store.replays import Replay, Replays
from app.store.worker_registry import WorkerRegistry
from app.truto.target_url import WEBHOOK_PATH
from app.truto.webhook_sender import WebhookTarget

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click names its type nowhere else

_EXCLUDED_BY_FROM = ("url", "into", "limit", "rate", "restart")
_CONFIRM_ABOVE = 1000
# Warnings about single lines and deliveries; the summary counts the others.
_MAX_WARNINGS = 50
_LEFT_OUT_LABELS = {
    "pruned": "pruned: their bodies are gone",
    "pending": "pending: already in progress",
    "refused": "refused: include them with --state refused",
}
_OUTCOME_LABELS = {
    "dead": "dead: see the reasons with `rapidbridge dead list`",
    "unrouted": "unrouted: no route matches",
    "quarantined": "quarantined: unreadable, or without a known account",
    "pending": "pending: workers finish them",
}


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
@click.option("--restart", is_flag=True, help="Start over instead of resuming an interrupted replay.")
@yes_option
@click.option(
    "--from",
    "source",
    type=click.File("rb"),
    help="Import this file: one exported delivery or bare body a line, plain or gzip; - is standard input.",
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
    as if every delivery had been written once. Only a few replayed deliveries are in progress at a time, so
    that new ones do not wait. After Ctrl-C, run the same command again to resume. More than 1,000 deliveries
    need a confirmation.

    Exits 1 if a worker has other routes, the replay is interrupted, a delivery is dead, unrouted, quarantined
    or not accepted, none reaches the sink of --sink, or a line is skipped; 3 if the receiver of --to is
    unreachable.

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
    database = open_database(
        config.settings.database_url, schema=config.settings.database_schema, interactive=True
    )
    if source:
        _import_file(database, config, source, secret=secret, dry_run=dry_run, as_json=as_json)
        return
    request = ReplayRequest(delivery_filter, get_typed_times(context), into, limit)
    if url:
        target = WebhookTarget(url, _require_secret(config, secret))
        _forward_deliveries(database, request, target, rate=rate, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    if into and into not in config.routes.sinks:
        raise click.UsageError(f"--sink: no sink named {into}; known: {', '.join(config.routes.sinks)}.")
    if into and not any(into in route.sinks for route in config.routes.routes):
        raise click.UsageError(f"--sink: no route names {into}; add it to the `sinks` of a [[routes]] table.")
    replay_deliveries(
        config, database, request, rate=rate, dry_run=dry_run, restart=restart, yes=yes, as_json=as_json
    )


def replay_deliveries(
    config: Config,
    database: Database,
    request: ReplayRequest,
    *,
    rate: float | None,
    dry_run: bool,
    restart: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Run the replay and print its summary.

    Exits 1 if it was interrupted, a delivery has a problem, or a running worker has another configuration.
    """
    if request.includes_pending:
        raise click.UsageError("--state pending: pending deliveries are already in progress. Leave it out.")
    replays, now = Replays(database), utc_now()
    preview = preview_replay(replays, request, now=now, restart=restart)
    if dry_run:
        _print_preview(preview, as_json=as_json)
        return
    if preview.unfinished:
        print_message(_format_resumed(preview.unfinished))
    elif not preview.total:
        nothing = ReplaySummary(None, is_finished=True, outcomes=[], left_out=preview.left_out)
        _print_lines(_summary_lines(nothing), nothing.as_json(), as_json=as_json)
        return
    delivery_config = config.delivery_config
    _require_current_workers(database, delivery_config)
    _confirm(preview, "Replay", yes=yes)
    if started := preview.unfinished:
        replays.set_config(started, delivery_config.digest, now=now)
    else:
        started = replays.start(request.key, now=now, config=delivery_config.digest)
    with progress_bar("replaying", started.requeued_deliveries + preview.total) as bar:
        progress = _ReplayProgress(bar, started.requeued_deliveries)
        throttled_replay = ThrottledReplay(replays, started, request, rate=rate, observer=progress)
        with suppress(KeyboardInterrupt):
            throttled_replay.run()
    summary = throttled_replay.summarize(preview.left_out)
    if not summary.is_finished:
        print_message(
            "Interrupted. Workers finish the requeued deliveries. Run the same command again to resume."
        )
    _print_lines(_summary_lines(summary), summary.as_json(), as_json=as_json)
    if summary.has_problems:
        sys.exit(1)


def _require_current_workers(database: Database, expected: DeliveryConfig) -> None:
    """End the command if a running worker has another configuration; warn if no worker runs."""
    live = WorkerRegistry(database).list_live(now=utc_now())
    if outdated := find_outdated_workers(live, expected):
        print_message(describe_refusal(outdated, live=len(live)))
        sys.exit(1)
    if not live:
        print_message(
            "No worker is running: the replayed deliveries wait for one. In another terminal, run: "
            "rapidbridge worker"
        )


def _forward_deliveries(
    database: Database,
    request: ReplayRequest,
    target: WebhookTarget,
    *,
    rate: float | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    now = utc_now()
    preview = preview_forward(Replays(database), request, now=now)
    if dry_run:
        _print_preview(preview, as_json=as_json)
        return
    require_reachable(target.url)
    _confirm(preview, "Send", yes=yes)
    is_finished = False
    with progress_bar("sending", preview.total) as bar:
        forwarder = Forwarder(database, target, rate=rate, observer=_ForwardProgress(bar))
        with suppress(KeyboardInterrupt):
            forwarder.forward(request, now=now)
            is_finished = True
    counts = forwarder.counts
    _print_lines(_forward_lines(counts), {"is_finished": is_finished, **counts.as_json()}, as_json=as_json)
    if not is_finished and counts.last_delivery:
        since = counts.last_delivery.received_at.isoformat()
        print_message(f"Interrupted. To resume, run the same command with --since {since}")
    if counts.not_accepted or not is_finished:
        sys.exit(1)


def _import_file(
    database: Database,
    config: Config,
    source: BufferedReader,
    *,
    secret: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    path = Path(source.name)
    is_finished = False
    with progress_bar("importing", path.stat().st_size if path.is_file() else 0) as bar:
        importer = Importer(
            Inbox(database),
            secret=_find_secret(config, secret),
            max_body_bytes=config.settings.max_body_bytes,
            dry_run=dry_run,
            observer=_ImportProgress(bar, source if path.is_file() else None),
        )
        with suppress(KeyboardInterrupt):
            importer.import_lines(source)
            is_finished = True
    counts = importer.counts
    _print_lines([_format_import(counts)], {"is_finished": is_finished, **counts.as_json()}, as_json=as_json)
    if not is_finished:
        print_message(
            "Interrupted. Run the same command again to import the rest: known deliveries stay as they are."
        )
    if counts.has_problems or not is_finished:
        sys.exit(1)


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


def _find_secret(config: Config, secret_option: str | None) -> str:
    return secret_option or next(iter(config.settings.secret_values), "") or read_development_secret() or ""


def _require_secret(config: Config, secret_option: str | None) -> str:
    secret = _find_secret(config, secret_option)
    if not secret:
        raise ConfigError(["TRUTO_WEBHOOK_SECRET: not set. Set it or pass --secret, to sign the deliveries."])
    return secret


def _confirm(preview: ReplayPreview, action: str, *, yes: bool) -> None:
    """Prompt before many deliveries. action: the verb of the question."""
    if yes or preview.total <= _CONFIRM_ABOVE:
        return
    for line in _preview_lines(preview):
        click.echo(line, err=True)
    confirm(f"{action} {format_count(preview.total, 'delivery')}?", yes=yes)


class _LimitedWarnings:
    """Prints the first warnings to standard error, and then that there are more."""

    def __init__(self) -> None:
        self._printed = 0

    def print(self, text: str) -> None:
        if self._printed < _MAX_WARNINGS:
            click.echo(text, err=True)
        elif self._printed == _MAX_WARNINGS:
            click.echo("Further warnings are only counted.", err=True)
        self._printed += 1


class _ReplayProgress:
    """Shows a replay on a progress bar; a `ReplayObserver`."""

    def __init__(self, bar: "ProgressBar[int]", settled_before: int) -> None:
        self._bar = bar
        self._settled_before = settled_before
        self._started_s = time.monotonic()

    def on_settled(self, deliveries: int) -> None:
        elapsed_s = max(0.1, time.monotonic() - self._started_s)
        rate = max(0, deliveries - self._settled_before) / elapsed_s
        self._bar.label = f"replaying, {rate:,.0f}/s"
        self._bar.update(deliveries - self._bar.pos)

    def on_stalled(self, pending: int, stalled_s: float) -> None:
        text = (
            f"No delivery was settled for {stalled_s:.0f} s; {pending:,} pending. Still waiting. "
            "To check the worker and the sinks, run: rapidbridge doctor"
        )
        print_message(text)


class _ForwardProgress(_LimitedWarnings):
    """Shows forwarding on a progress bar; a `ForwardObserver`."""

    def __init__(self, bar: "ProgressBar[int]") -> None:
        super().__init__()
        self._bar = bar

    def on_sent(self) -> None:
        self._bar.update(1)

    def on_not_accepted(self, delivery_id: UUID, http_status: int) -> None:
        self.print(f"{delivery_id}: {http_status or 'no response'}")


class _ImportProgress(_LimitedWarnings):
    """Shows an import on a progress bar, by the bytes read of a file; an `ImportObserver`."""

    def __init__(self, bar: "ProgressBar[int]", file: BufferedReader | None) -> None:
        super().__init__()
        self._bar = bar
        self._file = file

    def on_stored(self) -> None:
        self._bar.update(self._file.tell() - self._bar.pos if self._file else 0)

    def on_skipped(self, line_number: int, reason: str) -> None:
        self.print(f"line {line_number:,}: {reason}")


def _print_lines(lines: Iterable[str], values: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(values)
    else:
        for line in lines:
            click.echo(name_program(line))


def _print_preview(preview: ReplayPreview, *, as_json: bool) -> None:
    _print_lines(_preview_lines(preview), preview.as_json(), as_json=as_json)


def _preview_lines(preview: ReplayPreview) -> Iterator[str]:
    if preview.unfinished:
        yield _format_resumed(preview.unfinished)
    rows = [
        (group.resource, group.method, group.state, group.deliveries) for group in preview.included_groups
    ]
    if rows:
        yield from format_table(("resource", "method", "state", "deliveries"), rows)
    yield f"{format_count(preview.total, 'delivery')}{', the oldest of these' if preview.is_limited else ''}."
    yield from _left_out_lines(preview.left_out)


def _summary_lines(summary: ReplaySummary) -> Iterator[str]:
    yield (
        f"{format_count(summary.deliveries, 'delivery')} replayed:"
        if summary.replay
        else "Nothing to replay."
    )
    for outcome in summary.outcomes:
        label = _OUTCOME_LABELS.get(outcome.state, outcome.state)
        if outcome.state == DeliveryState.SETTLED:
            label += f", {_format_dead_records(summary)}"
        yield f"  {outcome.deliveries:,} {'still unreadable' if outcome.is_unreadable else label}"
    if summary.replay and summary.written is not None:
        yield f"Written to the sink: {format_count(summary.written, 'delivery')}."
        if summary.written < summary.deliveries:
            yield "The others have no records, or no route sends them to this sink."
    yield from _left_out_lines(summary.left_out)


def _format_dead_records(summary: ReplaySummary) -> str:
    if not summary.dead.records:
        return "without dead records"
    return (
        f"{summary.dead.deliveries:,} of them with {format_count(summary.dead.records, 'dead record')}: "
        "see the reasons with `rapidbridge dead list`"
    )


def _forward_lines(counts: ForwardCounts) -> Iterator[str]:
    yield f"{format_count(counts.sent, 'delivery')} sent, {counts.not_accepted:,} of them not accepted."
    responses = ", ".join(f"{number:,} {status}" for status, number in sorted(counts.responses.items()))
    yield f"Responses, retries included: {responses or 'none'}."
    if counts.pruned:
        yield from _left_out_lines(Counter(pruned=counts.pruned))


def _format_import(counts: ImportCounts) -> str:
    parts = [format_count(counts.new, "new delivery")]
    parts += [f"{counts.quarantined:,} of them unreadable"] if counts.quarantined else []
    parts += [format_count(counts.duplicates, "duplicate")]
    parts += [f"{format_count(counts.skipped, 'line')} skipped"]
    return f"{', '.join(parts)}."


def _left_out_lines(left_out: Mapping[str, int]) -> Iterator[str]:
    for reason, number in sorted(left_out.items()):
        yield f"Left out: {number:,} {_LEFT_OUT_LABELS.get(reason, reason)}."


def _format_resumed(unfinished: Replay) -> str:
    return (
        f"Resuming the replay started {unfinished.started_at:%Y-%m-%d %H:%M} UTC, after its first "
        f"{format_count(unfinished.requeued_deliveries, 'delivery')}. Start over with --restart."
    )
