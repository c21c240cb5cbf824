"""rapidbridge simulate: simulated sync job runs."""

import secrets
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import click

from app.cli.common.messages import LINE_WIDTH
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.cli.common.program import name_program
from app.cli.common.progress import progress_bar
from app.cli.common.reachability import require_reachable
from app.cli.local.development_secret import read_development_secret
from app.cli.local.ports import require_free_port
from app.config.settings import read_environment, read_settings
from app.errors import ConfigError
from app.plural import format_count
from app.simulator.api import SimulatedApi
from app.simulator.event_writer import make_job_ids
from app.simulator.plan import DEFAULT_RESOURCES, Plan
from app.simulator.report import RunReport
from app.simulator.session import SimulationSession
from app.simulator.session import simulate as play
from app.truto.target_url import WEBHOOK_PATH

_share_option = partial(click.option, type=click.FloatRange(0, 1), default=0.0, show_default=True)
_count_option = partial(click.option, type=click.IntRange(0), default=0, show_default=True)
_positive_option = partial(click.option, type=click.IntRange(1), default=1, show_default=True)


def _parse_resources(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> Any:
    pairs = tuple(
        (resource, method or "list") for resource, _, method in (text.partition(":") for text in value)
    )
    return pairs or DEFAULT_RESOURCES


def _parse_events(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for text in value for name in text.split(","))))


@click.command()
@click.option("--url", help=f"The receiver's webhook.  [default: http://127.0.0.1:PORT{WEBHOOK_PATH}]")
@click.option("--secret", help="Signing secret.  [default: TRUTO_WEBHOOK_SECRET, or the secret of `up`]")
@_count_option("--records", default=1000, help="Number of records, in all runs together.")
@_positive_option("--batch-size", default=100, help="Records per page.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    callback=_parse_resources,
    metavar="RESOURCE[:METHOD]",
    help="Resource to send. Repeatable.  [default: two of crm and two of ticketing]",
)
@_positive_option("--accounts", help="Number of integrated accounts.")
@_positive_option("--runs", help="Number of sync job runs.")
@_positive_option("--parallel", help="Number of runs at the same time.")
@_share_option("--duplicates", help="Share of pages sent twice, 0 to 1.")
@_share_option("--reordering", help="Share of pages sent after their successor.")
@_share_option("--lost", help="Share of pages fetched, but never sent.")
@_count_option("--overtaken", help="Pages of each run sent after its end, which counts them.")
@_count_option("--late", help="Pages of each run sent after its end, which does not count them.")
@click.option("--endless", is_flag=True, help="Send no event at the end of a run.")
@click.option(
    "--events-to-send",
    multiple=True,
    callback=_parse_events,
    metavar="EVENTS",
    help="Send only these events of the runs, such as started,record.  [default: all]",
)
@click.option("--v4", is_flag=True, help="Send batches as Truto's runtime V4: without ids and method.")
@_share_option("--changes", help="Share of records sent again with changes.")
@_count_option("--record-errors", help="Number of record errors.")
@click.option("--batched-errors", is_flag=True, help="Send many record errors in one event.")
@_share_option(
    "--stop-after", default=None, show_default=False, help="Stop every run after this share of its pages."
)
@_count_option("--forged", help="Number of requests with wrong signatures.")
@click.option(
    "--encoding",
    "encoding",
    type=click.Choice(["base64", "hex"]),
    default="base64",
    show_default=True,
    help="Encoding of signatures.",
)
@click.option(
    "--format/--no-format",
    "with_format",
    default=True,
    help="Whether the signature header names format=sha256.",
)
@click.option(
    "--pause",
    "pause_s",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Pause before every page, in seconds.",
)
@click.option("--api-port", type=click.IntRange(1, 65535), help="Serve a simulated Truto API on this port.")
@click.option(
    "--api-token", default="simulated", show_default=True, help="Token that the simulated API accepts."
)
@click.option("--seed", help="The same seed sends the same runs.  [default: random]")
@json_option
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
    """Send simulated sync job runs to a receiver.

    Pages are signed and sent over HTTP with Truto's retries.

    With --api-port, `rapidbridge runs` works with the simulated runs: set TRUTO_API_URL to
    http://127.0.0.1:<port> and TRUTO_API_TOKEN to the token.

    Exits 1 if a page was dropped after all retries or a run was refused, 3 if no server answers. Pages of
    --lost are not sent at all, and do not count as dropped.

    \b
    Examples:
      rapidbridge simulate --records 1000
      rapidbridge simulate --runs 5 --duplicates 0.2 --reordering 0.2
    """
    settings = read_settings(read_environment())
    key = secret or next(iter(settings.secret_values), None) or read_development_secret()
    if not key:
        raise ConfigError(["TRUTO_WEBHOOK_SECRET: not set. Set it, or pass --secret, to sign with it."])
    target = url or f"http://127.0.0.1:{settings.port}{WEBHOOK_PATH}"
    plan = Plan(url=target, secret=key, seed=seed or secrets.token_hex(8), **options)
    require_reachable(target)
    if api_port:
        require_free_port(api_port, setting="--api-port")
    api = partial(SimulatedApi, token=api_token, port=api_port) if api_port else None
    reports = simulate_with_progress([plan], open_api=api)
    answers = sum((report.response_counts for report in reports), Counter[str]())
    if as_json:
        print_json(_reports_as_json(reports, answers))
    else:
        _print_reports(reports, answers)
    if plan.v4:
        _print_v4_hint(plan, reports)
    if any(report.dropped or report.status == "refused" for report in reports):
        sys.exit(1)


def simulate_with_progress(
    plans: Sequence[Plan],
    *,
    open_api: Callable[[SimulationSession], AbstractContextManager[object]] | None = None,
) -> list[RunReport]:
    """Run plans one after the other, with a progress bar on a terminal."""
    with progress_bar("Sending records", sum(plan.records for plan in plans)) as bar:
        return [
            report for plan in plans for report in play(plan, progress=bar.update, session_context=open_api)
        ]


def _reports_as_json(reports: Sequence[RunReport], answers: Counter[str]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "sync_job_run_id": report.sync_job_run_id,
                "integrated_account_id": report.integrated_account_id,
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
        title = f"run {report.sync_job_run_id}"
        lost = f", {report.lost.total():,} lost" if report.lost else ""
        summary = f"{format_count(report.record_errors, 'error')}, {report.dropped} dropped{lost}"
        text = textwrap.fill(f"{title}  {report.status}, {summary}", LINE_WIDTH, subsequent_indent="  ")
        click.echo(click.style(title, bold=True) + text.removeprefix(title))
        for (resource, method), fetched in report.fetched.items():
            click.echo(f"  {resource:22} {method:8} {fetched:>8,} fetched")
    click.echo(
        "Responses: " + ", ".join(f"{number:,} {answer}" for answer, number in sorted(answers.items())) + "."
    )


def _print_v4_hint(plan: Plan, reports: Sequence[RunReport]) -> None:
    """Print how a receiver finds the account of V4 batches, which name none."""
    accounts = sorted({report.integrated_account_id for report in reports})
    if len(accounts) > 1:
        click.echo(
            f"V4 batches name no account, and one webhook cannot serve {len(accounts)}: the receiver may\n"
            "quarantine them as no_account. Use --accounts 1.",
            err=True,
        )
        return
    command = name_program(f"rapidbridge simulate --v4 --seed {shlex.quote(plan.seed)}")
    click.echo(
        "V4 batches name no account. If the receiver quarantines them as no_account, add\n"
        "these lines to its routes file, restart it, and repeat the same runs:\n\n"
        f'[[webhooks]]\nid = "{make_job_ids(plan).webhook_id}"\naccount = "{accounts[0]}"\n\n{command}',
        err=True,
    )
