"""rapidbridge simulate: simulated sync job runs."""

import secrets
import shlex
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from app.cli.common.messages import LINE_WIDTH, print_message
from app.cli.common.options import json_option
from app.cli.common.output import print_json
from app.cli.common.program import name_program
from app.cli.common.progress import progress_bar
from app.cli.common.reachability import require_reachable
from app.cli.common.rejected_events import RejectionObserver
from app.cli.common.signing_secret import find_signing_secret
from app.cli.local.ports import find_free_port, require_free_port
from app.config.settings import read_environment, read_settings
from app.errors import ConfigError
from app.plural import format_count
from app.simulator.api import SimulatedApi
from app.simulator.event_writer import make_job_ids
from app.simulator.plan import DEFAULT_RESOURCES, Plan
from app.simulator.report import RunReport
from app.simulator.session import running_session
from app.simulator.session import simulate as play
from app.simulator.variants import parse_variants
from app.truto.signature import ENCODINGS
from app.truto.target_url import WEBHOOK_PATH

_REFUSED_HINT = (
    "A policy of the receiver refused the run: MAINTENANCE, or [[refuse]], [[allow]] or [gate] in its routes "
    "file. Change the policy and restart the receiver, or send other runs, for example with --resource."
)
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
    type=click.Choice(ENCODINGS),
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
    "--variant",
    "variants",
    multiple=True,
    callback=lambda _context, _option, value: parse_variants(value),
    metavar="NAME=VALUE",
    help="Form of the events that Truto's documentation leaves open. Repeatable; see docs/operations.md.",
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
@click.option(
    "--keep-api", is_flag=True, help="Keep the simulated API after the runs, until Ctrl-C; see --api-port."
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
    keep_api: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Send simulated sync job runs to a receiver.

    Pages are signed and sent over HTTP with Truto's retries. If the receiver rejects the signature or the
    URL, the command ends at once.

    With --api-port, `rapidbridge runs` works with the simulated runs: set TRUTO_API_URL to
    http://127.0.0.1:<port> and TRUTO_API_TOKEN to the token. The API ends with the runs, or with --keep-api
    at Ctrl-C: `runs reconcile --refetch` then starts further simulated runs, which lose no page.

    Exits 1 if a page or an event was dropped after all retries, or a run or the signature was refused, 3 if
    no server answers. Pages of --lost are not sent at all, and do not count as dropped.

    \b
    Examples:
      rapidbridge simulate --records 1000
      rapidbridge simulate --runs 5 --duplicates 0.2 --reordering 0.2
      rapidbridge simulate --lost 0.2 --keep-api
    """
    settings = read_settings(read_environment())
    signing_secret = find_signing_secret(settings, secret)
    if not signing_secret:
        raise ConfigError(["TRUTO_WEBHOOK_SECRET: not set. Set it, or pass --secret, to sign with it."])
    target = url or f"http://127.0.0.1:{settings.port}{WEBHOOK_PATH}"
    plan = Plan(
        url=target,
        secret=signing_secret.value,
        seed=seed or secrets.token_hex(8),
        webhook_id=signing_secret.webhook_id or "",
        **options,
    )
    require_reachable(target)
    if api_port:
        require_free_port(api_port, setting="--api-port")
    elif keep_api:
        api_port = find_free_port()
    reports: list[RunReport] = []
    try:
        with _running_session(plan, signing_secret.source, api_port, api_token) as finish:
            reports = finish()
            _print_results(plan, reports, as_json=as_json)
            if keep_api:
                print_message(_describe_api(f"http://127.0.0.1:{api_port}", api_token))
                threading.Event().wait()
    except KeyboardInterrupt:
        if not reports:
            raise
        click.echo("Stopped.", err=True)
    if any(report.dropped or report.rejected_events or report.status == "refused" for report in reports):
        sys.exit(1)


def simulate_with_progress(plans: Sequence[Plan]) -> list[RunReport]:
    """Run plans one after the other, with a progress bar on a terminal."""
    with progress_bar("Sending records", sum(plan.records for plan in plans)) as bar:
        return [report for plan in plans for report in play(plan, progress=bar.update)]


@contextmanager
def _running_session(
    plan: Plan, secret_source: str, api_port: int | None, api_token: str
) -> Iterator[Callable[[], list[RunReport]]]:
    """Start the runs of a plan, and an API; yield a function that shows their progress until they end."""
    bar, is_sending = progress_bar("Sending records", plan.records), True

    def update(records: int) -> None:
        # A run that the API starts later has no progress bar.
        if is_sending:
            bar.update(records)

    with running_session(
        plan,
        progress=update,
        session_context=partial(SimulatedApi, token=api_token, port=api_port) if api_port else None,
        on_rejected=RejectionObserver(plan.url, secret_source).observe,
    ) as session:

        def finish() -> list[RunReport]:
            nonlocal is_sending
            with bar:
                reports = session.finish()
                is_sending = False
            return reports

        yield finish


def _print_results(plan: Plan, reports: Sequence[RunReport], *, as_json: bool) -> None:
    answers = sum((report.response_counts for report in reports), Counter[str]())
    if as_json:
        print_json(_reports_as_json(reports, answers))
    else:
        _print_reports(reports, answers)
    if any(report.status == "refused" for report in reports):
        print_message(_REFUSED_HINT)
    if plan.v4:
        _print_v4_hint(plan, reports)


def _describe_api(url: str, token: str) -> str:
    settings = f"TRUTO_API_URL={url} TRUTO_API_TOKEN={shlex.quote(token)}"
    return (
        "The simulated API runs until Ctrl-C. In a second terminal, in the same folder, run:\n"
        f"export {settings}\n"
        "rapidbridge runs reconcile --refetch"
    )


def _reports_as_json(reports: Sequence[RunReport], answers: Counter[str]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "sync_job_run_id": report.sync_job_run_id,
                "integrated_account_id": report.integrated_account_id,
                "status": report.status,
                **({"refusal_reason": report.refusal_reason} if report.status == "refused" else {}),
                "record_errors": report.record_errors,
                "dropped": report.dropped,
                "rejected_events": report.rejected_events,
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
        rejected = (
            f", {format_count(report.rejected_events, 'event')} rejected" if report.rejected_events else ""
        )
        summary = f"{format_count(report.record_errors, 'error')}, {report.dropped} dropped{lost}{rejected}"
        text = textwrap.fill(f"{title}  {report.status}, {summary}", LINE_WIDTH, subsequent_indent="  ")
        click.echo(click.style(title, bold=True) + text.removeprefix(title))
        if report.status == "refused":
            reason = f"refused: {report.refusal_reason or 'the receiver gave no reason'}"
            click.echo(textwrap.fill(reason, LINE_WIDTH, initial_indent="  ", subsequent_indent="    "))
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
