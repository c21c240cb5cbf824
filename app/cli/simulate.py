"""rapidbridge simulate: play Truto against a receiver."""

import json
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import click

from app.cli.common.progress import progress_bar
from app.cli.common.reachability import require_reachable
from app.cli.local.development_secret import read_development_secret
from app.cli.local.ports import require_free_port
from app.config.settings import read_environment, read_settings
from app.errors import ConfigError
from app.simulator.api import SimulatedApi
from app.simulator.plan import DEFAULT_RESOURCES, Plan
from app.simulator.report import RunReport
from app.simulator.session import SimulationSession
from app.simulator.session import simulate as play

_share_option = partial(click.option, type=click.FloatRange(0, 1), default=0.0, show_default=True)
_count_option = partial(click.option, type=click.IntRange(0), default=0, show_default=True)
_positive_option = partial(click.option, type=click.IntRange(1), default=1, show_default=True)


def _parse_resources(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> Any:
    pairs = tuple(
        (resource, method or "list") for resource, _, method in (text.partition(":") for text in value)
    )
    return pairs or DEFAULT_RESOURCES


@click.command()
@click.option("--url", help="Where to POST.  [default: http://127.0.0.1:PORT/webhooks/truto]")
@click.option("--secret", help="What to sign with.  [default: TRUTO_WEBHOOK_SECRET, or that of `up`]")
@_count_option("--records", default=1000, help="Of all runs together.")
@_positive_option("--batch-size", default=100, help="Records a page.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    callback=_parse_resources,
    metavar="RESOURCE[:METHOD]",
    help="What to fetch; may be given several times.  [default: two of crm, ticketing/tickets and comments]",
)
@_positive_option("--accounts", help="Integrated accounts.")
@_positive_option("--runs", help="Sync job runs.")
@_positive_option("--parallel", help="Runs at a time.")
@_share_option("--duplicates", help="Share of pages sent twice, 0 to 1.")
@_share_option("--reordering", help="Share of pages sent after the next one.")
@_share_option("--lost", help="Share of pages that Truto gives up: fetched, never delivered.")
@_count_option("--late", help="Pages of each run that arrive only after it has ended.")
@click.option("--endless", is_flag=True, help="Never say that a run has ended.")
@_share_option("--changes", help="Share of records fetched again, newer.")
@_count_option("--record-errors", help="Errors that Truto reports.")
@click.option("--batched-errors", is_flag=True, help="Report errors many to an event.")
@_share_option(
    "--stop-after", default=None, show_default=False, help="Stop each run after this share of its pages."
)
@_count_option("--forged", help="Requests with bad signatures, in between.")
@click.option(
    "--encoding",
    type=click.Choice(["hex", "base64"]),
    default="hex",
    show_default=True,
    help="How signatures are written.",
)
@click.option("--format/--no-format", "with_format", default=True, help="Spell out format=sha256 or not.")
@click.option(
    "--pause",
    "pause_s",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds before each page.",
)
@click.option(
    "--api-port", type=click.IntRange(1, 65535), help="Answer Truto's API on this port while the runs play."
)
@click.option("--api-token", default="simulated", show_default=True, help="What the API wants to be shown.")
@click.option("--seed", help="The same seed sends the same runs.  [default: another each time]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def simulate(
    url: str | None,
    secret: str | None,
    seed: str | None,
    api_port: int | None,
    api_token: str,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Play Truto: sync job runs over real HTTP, signed, page after page, with its retries.

    With --api-port, `rapidbridge runs` can look at them and stop them meanwhile: set TRUTO_API_URL to
    http://127.0.0.1:<port> and TRUTO_API_TOKEN to the token.

    Exits 1 if anything had to be dropped or a run was refused, 3 if nobody answered at all. What --lost gives
    up was never sent, so it is not dropped.
    """
    settings = read_settings(read_environment())
    key = secret or next(iter(settings.secret_values), None) or read_development_secret()
    if not key:
        raise ConfigError(["TRUTO_WEBHOOK_SECRET: not set. Set it, or pass --secret, to sign with it."])
    target = url or f"http://127.0.0.1:{settings.port}/webhooks/truto"
    plan = Plan(url=target, secret=key, seed=seed or secrets.token_hex(8), **options)
    require_reachable(target)
    if api_port:
        require_free_port(api_port, setting="--api-port")
    api = partial(SimulatedApi, token=api_token, port=api_port) if api_port else None
    reports = simulate_with_progress([plan], open_api=api)
    answers = sum((report.response_counts for report in reports), Counter[str]())
    click.echo(json.dumps(_reports_as_json(reports, answers))) if as_json else _print_reports(
        reports, answers
    )
    if any(report.dropped or report.status == "refused" for report in reports):
        sys.exit(1)


def simulate_with_progress(
    plans: Sequence[Plan],
    *,
    open_api: Callable[[SimulationSession], AbstractContextManager[object]] | None = None,
) -> list[RunReport]:
    """Play plans one after the other, with a progress bar where standard error is a terminal."""
    with progress_bar("sending records", sum(plan.records for plan in plans)) as bar:
        return [
            report for plan in plans for report in play(plan, progress=bar.update, session_context=open_api)
        ]


def _reports_as_json(reports: Sequence[RunReport], answers: Counter[str]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "sync_job_run_id": report.sync_job_run_id,
                "status": report.status,
                "record_errors": report.record_errors,
                "dropped": report.dropped,
                "lost": report.lost.total(),
                "resources": [
                    {"resource": resource, "method": method, "fetched": fetched}
                    for (resource, method), fetched in report.fetched.items()
                ],
            }
            for report in reports
        ],
        "deliveries": dict(answers),
    }


def _print_reports(reports: Sequence[RunReport], answers: Counter[str]) -> None:
    for report in reports:
        run = click.style(f"run {report.sync_job_run_id}", bold=True)
        lost = f", {report.lost.total():,} records lost" if report.lost else ""
        summary = f"{report.record_errors} record errors, {report.dropped} dropped{lost}"
        click.echo(f"{run}  {report.status}, {summary}")
        for (resource, method), fetched in report.fetched.items():
            click.echo(f"  {resource:22} {method:8} {fetched:>8,} fetched")
    click.echo(
        "Answers: " + ", ".join(f"{number:,} {answer}" for answer, number in sorted(answers.items())) + "."
    )
