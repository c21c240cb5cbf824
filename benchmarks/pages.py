"""The time of every page with one million deliveries: `python -m benchmarks.pages [--deliveries N] …`.

Fills a PostgreSQL with runs, failures and backlogs, starts gunicorn, and requests every page several times
over one connection. Then it requests each page once more with every query's plan recorded, and prints the
plan of the slowest. A page whose median is longer than 200 ms, or 50 ms for the metrics, is marked as slow.
Exits 1 if a page fails.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import quote

from benchmarks.dashboard_inbox import DELIVERIES, DashboardInbox, fill_dashboard_inbox
from benchmarks.environment import BenchmarkEnvironment, running_environment
from benchmarks.results import save_results
from benchmarks.seeded_inbox import connect_without_limits
from tests.support.dashboard import SETTINGS, DashboardClient
from tests.support.web_process import WebProcess

_MAX_PAGE_MS, _MAX_METRICS_MS = 200.0, 50.0
_METRICS = "/metrics"
# The metrics are kept for five seconds.
_METRICS_PAUSE_S = 5.1
_METRICS_REQUESTS = 3
_MAX_PLAN_LINES = 60
_RECORD_PLANS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
}
_PLAN = re.compile(r"LOG:  duration: ([\d.]+) ms  plan:\n((?:\t.*\n)+)")


@dataclass(frozen=True, slots=True)
class PageTimes:
    """The answers to the requests for one page. is_slow: they took longer than the limit."""

    path: str
    status: int
    body_bytes: int
    times_ms: Sequence[float]
    is_slow: bool


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """A query with its plan, as PostgreSQL recorded it."""

    duration_ms: float
    text: str


def list_paths(inbox: DashboardInbox) -> list[str]:
    """Return the paths of all pages, with the filters that are hardest on an inbox of this size."""
    large, small, account = quote(inbox.large_run), quote(inbox.small_run), quote(inbox.account)
    return [
        "/",
        "/?state=incomplete",
        "/?q=zzzz",
        f"/accounts/{account}",
        "/overview",
        "/runs",
        "/runs?verdict=incomplete",
        f"/runs?account={account}",
        f"/runs/{small}",
        f"/runs/{large}",
        "/deliveries",
        "/deliveries?state=pending",
        "/deliveries?state=discarded",
        "/deliveries?resource=none",
        f"/deliveries?account={account}&state=dead",
        f"/deliveries?run={large}&state=settled",
        f"/deliveries/{inbox.failed_delivery}",
        f"/deliveries/{inbox.failed_delivery}/body",
        "/failed",
        "/failed?window=24h",
        "/failed?kind=records",
        f"/failed?account={account}",
        "/operations",
        "/sinks",
        "/routes",
        "/routes?event=sync_job_run:record&resource=crm/contacts&method=list",
        "/audit",
        _METRICS,
    ]


def _measure(web: WebProcess, paths: Sequence[str], requests: int) -> list[PageTimes]:
    with DashboardClient(web.url) as client:
        return [_measure_page(client, path, requests) for path in paths]


def _measure_page(client: DashboardClient, path: str, requests: int) -> PageTimes:
    times_ms = []
    is_metrics = path == _METRICS
    # The first request compiles the template and the statements.
    response = client.get(path)
    for _ in range(min(requests, _METRICS_REQUESTS) if is_metrics else requests):
        if is_metrics:
            time.sleep(_METRICS_PAUSE_S)
        started = time.perf_counter()
        response = client.get(path)
        times_ms.append((time.perf_counter() - started) * 1000)
    limit_ms = _MAX_METRICS_MS if is_metrics else _MAX_PAGE_MS
    return PageTimes(path, response.status_code, len(response.content), times_ms, median(times_ms) > limit_ms)


def _record_plans(
    environment: BenchmarkEnvironment, paths: Sequence[str]
) -> Iterator[tuple[str, list[QueryPlan]]]:
    """Yield the plans of all queries of every page, slowest first."""
    with connect_without_limits(environment.database_url) as connection:
        for name, value in _RECORD_PLANS.items():
            connection.execute(f"ALTER ROLE postgres SET {name} = '{value}'".encode())
    log = environment.postgres.folder / "log"
    with environment.web(1, **SETTINGS) as web, DashboardClient(web.url) as client:
        for path in paths:
            client.get(path)
            position = log.stat().st_size
            if path == _METRICS:
                time.sleep(_METRICS_PAUSE_S)
            client.get(path)
            with log.open("rb") as file:
                file.seek(position)
                text = file.read().decode(errors="replace")
            plans = [QueryPlan(float(match[1]), match[2]) for match in _PLAN.finditer(text)]
            yield path, sorted(plans, key=lambda plan: -plan.duration_ms)


def _print_times(pages: Sequence[PageTimes]) -> None:
    print("| page | status | KiB | median ms | max ms | |\n|---|--:|--:|--:|--:|---|")
    for page in pages:
        remark = "SLOW" if page.is_slow else ""
        numbers = f"{median(page.times_ms):.1f} | {max(page.times_ms):.1f}"
        print(f"| {page.path} | {page.status} | {page.body_bytes / 1024:.0f} | {numbers} | {remark} |")


def main() -> None:
    """Print the time of every page, then the slowest queries of slow pages; exit 1 if a page fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--deliveries", type=int, default=DELIVERIES, help="(default: %(default)s)")
    parser.add_argument("--requests", type=int, default=10, help="of every page (default: %(default)s)")
    parser.add_argument("--plans", action="store_true", help="print the slowest plan of every page")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    with running_environment() as environment:
        with connect_without_limits(environment.postgres.url("postgres")) as connection:
            # Checkpoints would slow the filling and disturb the measurements.
            connection.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
            connection.execute("SELECT pg_reload_conf()")
        started = time.perf_counter()
        inbox = fill_dashboard_inbox(environment.database_url, options.deliveries)
        print(f"{options.deliveries:,} deliveries generated in {time.perf_counter() - started:.0f} s\n")
        paths = list_paths(inbox)
        with environment.web(1, **SETTINGS) as web:
            pages = _measure(web, paths, options.requests)
        _print_times(pages)
        shown = paths if options.plans else [page.path for page in pages if page.is_slow]
        for path, plans in _record_plans(environment, shown):
            print(f"\n{path}: {len(plans)} queries, {sum(plan.duration_ms for plan in plans):.1f} ms")
            for plan in plans[:1]:
                lines = plan.text.splitlines()
                print(f"slowest: {plan.duration_ms:.1f} ms", *lines[:_MAX_PLAN_LINES], sep="\n")
    rows = [
        {
            "page": page.path,
            "median_ms": round(median(page.times_ms), 1),
            "max_ms": round(max(page.times_ms), 1),
        }
        for page in pages
    ]
    save_results(options.json, rows)
    sys.exit(1 if any(page.status != 200 for page in pages) else 0)


if __name__ == "__main__":
    main()
