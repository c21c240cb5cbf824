"""Command `rapidbridge webhook probe`: report the shapes of Truto's events, without values."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import click
from redis.exceptions import RedisError

from app.cli.common.audit import audit
from app.cli.common.clients import open_interactive_database, open_truto_api
from app.cli.common.ids import parse_truto_ids
from app.cli.common.messages import print_message
from app.cli.common.options import json_option, yes_option
from app.cli.common.output import print_json, to_json
from app.cli.common.output_file import open_output
from app.cli.common.progress import progress_bar
from app.cli.common.prompts import confirm
from app.cli.local.valkey import find_running_valkey
from app.cli.webhook.probe_output import report_as_json, report_lines
from app.config.settings import Settings, read_environment, read_settings
from app.errors import TrutoRefused
from app.plural import format_count
from app.redis.connection import connect_redis, queue_unavailable
from app.redis.observed_tests import TEST_EVENT, ObservedTests
from app.truto.webhooks import SIMULATED_EVENTS
from app.webhook_probe.webhook_probe import ProbeReport, WebhookProbe

# The last one is unconfirmed: Truto refuses it, or sends it.
_DEFAULT_EVENTS = [*SIMULATED_EVENTS, "sync_job_run:stopped"]


def _parse_events(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> Sequence[str]:
    names = [name.strip() for text in value for name in text.split(",")]
    events = list(dict.fromkeys(filter(None, names))) or _DEFAULT_EVENTS
    return [event for event in events if event != TEST_EVENT]


@click.command()
@click.argument("webhook_id", metavar="ID", callback=parse_truto_ids)
@click.option(
    "--events",
    multiple=True,
    callback=_parse_events,
    help="Events besides `test`, comma-separated; test for none.  [default: all]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(1, 600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds to wait for missing events, and for a retry.",
)
@click.option("--report", metavar="FILE", help="Write the report as JSON to a file; - is standard output.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@yes_option
@json_option
def probe(
    webhook_id: str,
    events: Sequence[str],
    timeout_s: float,
    report: str | None,
    *,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Have Truto simulate all events, and report their shapes.

    The report holds types and the names of Truto's protocol, but no values. Other names of members are
    counted. It answers the open questions about the protocol, such as the encoding of signatures.

    The receiver treats the simulated events as real: their records are written to sinks, and their runs are
    listed. One `test` event is answered 503, to see its retry.

    Exits 1 if an event that Truto sent did not arrive, or Truto could not send it.

    \b
    Examples:
      rapidbridge webhook probe 3c1a5e2e-6d0b-4d5c-9a51-0f8a1c1a7f10
      rapidbridge webhook probe ID --events test --report probe.json
    """
    settings = read_settings(read_environment())
    database = open_interactive_database(settings)
    target = open_output(report, force=force) if report else nullcontext()
    with open_truto_api() as api, _observing(settings) as observed, target as file:
        if events:
            confirm(_describe_effect(events, webhook_id), yes=yes)
        audit(database, "webhook.probe", webhook_id)
        with progress_bar("Waiting for events", WebhookProbe.count_steps(events)) as bar:
            webhook_probe = WebhookProbe(
                api, database, observed, webhook_id, timeout_s=timeout_s, progress=bar.update
            )
            try:
                result = webhook_probe.run(events)
            except TrutoRefused as error:
                raise click.ClickException(str(error)) from error
        if file:
            file.write((to_json(report_as_json(result)) + "\n").encode())
    if as_json:
        print_json(report_as_json(result))
    elif report != "-":
        click.echo("\n".join(report_lines(result)))
    _print_hints(result, webhook_id)
    if not result.is_complete:
        sys.exit(1)


@contextmanager
def _observing(settings: Settings) -> Iterator[ObservedTests | None]:
    """Open the observed requests; None, with a message, if Redis cannot be reached."""
    url = settings.redis_url or find_running_valkey(settings.namespace)
    if not url:
        print_message("REDIS_URL: not set, so headers and retries are not seen. Set it as for the receiver.")
        yield None
        return
    redis = connect_redis(url, tls_verify=settings.redis_tls_verify)
    try:
        redis.ping()
    except RedisError as error:
        raise queue_unavailable(error) from error
    with redis:
        yield ObservedTests(redis, settings.namespace)


def _describe_effect(events: Sequence[str], webhook_id: str) -> str:
    return (
        f"Truto sends {format_count(len(events), 'simulated event')} to webhook {webhook_id}. This receiver\n"
        "treats them as real: their records are written to its sinks. Continue?"
    )


def _print_hints(result: ProbeReport, webhook_id: str) -> None:
    """Print the next step for events that did not arrive."""
    if result.results[TEST_EVENT] != "arrived":
        print_message(
            "Truto's test event is not in the inbox. Check the webhook's target URL and events, and the "
            f"receiver:\nrun: rapidbridge webhook show {webhook_id}\nrun: rapidbridge doctor"
        )
    elif "not sent" in result.results.values():
        print_message(
            "Truto sent no event but `test`, whichever member of the request chose another. Report this with "
            "the file of --report."
        )
    elif "missing" in result.results.values():
        print_message(
            "To wait longer for missing events, repeat them, with the names from the list:\n"
            f"run: rapidbridge webhook probe {webhook_id} --timeout 120 --events NAME"
        )
