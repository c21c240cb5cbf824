"""docs/scaling.md: its numbers follow from the measurements, the code and its assumptions."""

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from app.checks.connections import count_max_connections
from app.config.load import Config
from app.config.machine import Machine
from app.config.routes import build_default_routes
from app.config.settings import read_settings
from app.redis.queue import IDS_PER_JOB, MAX_JOBS
from app.store.retention import PAGE as PRUNED_AT_ONCE
from tests.support.documentation import PAGES, ROOT, read_marked_block
from tests.unit.test_alerts import run_promtool

PAGE = PAGES["docs/scaling.md"]
URL = "postgresql://h/d"
INBOX = ("rapidbridge_deliveries", "rapidbridge_sink_outcomes")
DAYS_OF_YEAR, HOUR_S, RECORDS_OF_FIRST_SYNC = 365, 3600, 1_000_000
MACHINE_BYTES = 64 * 2**30
# PostgreSQL's defaults: max_connections, without superuser_reserved_connections.
MAX_CONNECTIONS, USABLE_CONNECTIONS = 100, 97


def read_table(mark: str) -> list[list[str]]:
    """Return the cells of a marked table, without its head."""
    lines = PAGE.partition(f"<!-- scaling: {mark} -->\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def read_measurements(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((ROOT / f"docs/performance/{name}.json").read_text())["rows"]
    return rows


def measure_cpu_us(step: str, *parts: str) -> float:
    """Return the CPU time of a record, each part at its most expensive number of processes."""
    rows = [row for row in read_measurements("scale") if row["step"] == step]
    counts = {row["processes"] for row in rows}
    by_count = [
        [
            [row[f"{part}_us"] / row["records"] for row in rows if row["processes"] == count]
            for count in counts
        ]
        for part in parts
    ]
    return float(sum(max(map(median, rounds)) for rounds in by_count))


WEB_US = measure_cpu_us("accept", "web")
WORKER_US = measure_cpu_us("drain", "worker", "supervisor")
POSTGRES_FOR_WEB_US = measure_cpu_us("accept", "PostgreSQL")
POSTGRES_FOR_WORKERS_US = measure_cpu_us("drain", "PostgreSQL")
POSTGRES_US = POSTGRES_FOR_WEB_US + POSTGRES_FOR_WORKERS_US
STORED_BYTES = {row["part"]: row["bytes"] for row in read_measurements("storage")}
ASSUMPTIONS = {cells[0].strip("`"): int(cells[2]) for cells in read_table("assumptions")}


def add_stored_bytes(tables: Sequence[str], suffix: str = "") -> int:
    return sum(STORED_BYTES[f"{table}{suffix}: {part}"] for table in tables for part in ("rows", "indexes"))


def count_connections(web: int, workers: int) -> int:
    variables = {"WEB_CONCURRENCY": str(web), "WORKER_CONCURRENCY": str(workers), "DATABASE_URL": URL}
    return count_max_connections(Config(read_settings(variables), build_default_routes(URL)))


OF_WEB = count_connections(2, 1) - count_connections(1, 1)
OF_WORKER = count_connections(1, 2) - count_connections(1, 1)
OF_BACKGROUND = count_connections(1, 1) - OF_WEB - OF_WORKER


def format_number(number: float) -> str:
    """Return two significant digits, and all digits of a larger number."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.{1 - math.floor(math.log10(number))}f}"


def test_the_figures_of_one_process_are_those_of_the_benchmarks() -> None:
    most_mb = {row["process"]: row["most_mb"] for row in read_measurements("footprint") if "most_mb" in row}
    [web, worker, background, postgres] = read_table("process")

    assert web[1] == f"{1e6 / WEB_US / 50:,.0f} pages of 50 records a second"
    most_web_mb = max(mb for process, mb in most_mb.items() if process.startswith("web "))
    assert web[2].startswith(f"{most_web_mb:.0f} MB, and ")
    master = "gunicorn's master"
    assert f"{most_mb[master]:.0f} MB for {master}" in web[2]
    assert worker[1] == f"{1e6 / WORKER_US:,.0f} records a second into PostgreSQL"
    assert worker[2] == f"{most_mb['worker 1']:.0f} MB"
    assert background[2] == f"{most_mb['supervisor of workers']:.0f} MB"
    assert postgres[1].startswith(f"{1e6 / POSTGRES_US:,.0f} records a second")
    assert "nine tenths of its work is for the workers" in PAGE
    assert 0.9 <= POSTGRES_FOR_WORKERS_US / POSTGRES_US < 0.95


def test_the_connections_are_those_that_doctor_counts() -> None:
    [web, worker, background, _] = read_table("process")
    assert (web[3], background[3]) == (str(OF_WEB), str(OF_BACKGROUND))
    assert worker[3] == f"{OF_WORKER - 1}, and 1 for each sink in the same database"

    totals = []
    for machines, *cells in read_table("connections"):
        web_number, workers, written = map(int, cells)
        if "by default" in machines:
            machine = Machine(int(re.findall(r"\d+", machines)[0]), MACHINE_BYTES)
            defaults = (machine.compute_web_concurrency(), machine.compute_worker_concurrency())
            assert (web_number, workers) == defaults, machines
        total = web_number * OF_WEB + OF_BACKGROUND + workers * OF_WORKER
        assert total == count_connections(web_number, workers)
        totals.append(2 * total if machines.startswith("two") else total)
        assert written == totals[-1], machines
    assert totals[-1] > MAX_CONNECTIONS > max(totals[:-1])


def test_the_limit_of_worker_machines_follows_from_the_connections() -> None:
    machines = (USABLE_CONNECTIONS - 4 * OF_WEB) // (OF_BACKGROUND + 2 * OF_WORKER)

    example = f"with `WORKER_CONCURRENCY=2`, {USABLE_CONNECTIONS} usable connections and 4 web processes"
    assert f"{example}, {machines} worker machines" in PAGE
    assert f"at most {MAX_JOBS} jobs of {IDS_PER_JOB} deliveries" in PAGE


def test_the_sizes_of_vacuum_and_prune_are_those_of_the_code() -> None:
    autovacuum = (ROOT / "app/store/migrations/versions/0004_autovacuum.py").read_text()
    [changes] = re.findall(r"autovacuum_vacuum_threshold = (\d+)", autovacuum)

    assert f"after every {int(changes):,} changes" in PAGE
    assert f"{PRUNED_AT_ONCE} deliveries in 20 ms" in PAGE


def test_the_needs_of_customers_follow_from_the_assumptions() -> None:
    a = ASSUMPTIONS
    numbers = [10, 100, 1_000]
    page_counts = [float(number * a["pages"]) for number in numbers]
    peaks = [pages * a["peak"] / 100 / HOUR_S for pages in page_counts]
    rates = [peak * a["records"] for peak in peaks]
    in_use = [pages * add_stored_bytes(INBOX) / 1e9 for pages in page_counts]
    kept = [pages * add_stored_bytes(INBOX, ", pruned") * DAYS_OF_YEAR / 1e9 for pages in page_counts]
    spooled = [peak * HOUR_S * STORED_BYTES["spool, in Redis"] / 1e6 for peak in peaks]
    busy_workers = [peak * a["write"] / 1000 / (a["busy"] / 100) for peak in peaks]
    expected: dict[str, list[float]] = {
        "pages a day": page_counts,
        "busiest hour: pages a second": peaks,
        "busiest hour: records a second": rates,
        "busiest hour: web, % of a core": [rate * WEB_US / 1e4 for rate in rates],
        "busiest hour: workers, % of a core": [rate * WORKER_US / 1e4 for rate in rates],
        "busiest hour: PostgreSQL, % of a core": [rate * POSTGRES_US / 1e4 for rate in rates],
        "workers for the slow HTTP sink": [],
        "Redis for an hour without database, MB": spooled,
        "inbox, GB a day": in_use,
        "inbox, GB within the retention": [gb * a["retention"] for gb in in_use],
        "rows that stay, GB a year": kept,
    }

    rows = read_table("customers")

    written = [[name, *(format_number(value) for value in values)] for name, values in expected.items()]
    written[6] += [str(math.ceil(number)) for number in busy_workers]
    assert rows == written
    assert f"{in_use[-1] * DAYS_OF_YEAR / 1e3:.1f} TB a year with 1,000 customers" in PAGE
    web_machines, worker_machines = 2 * 2 * OF_WEB, 2 * (OF_BACKGROUND + 2 * OF_WORKER)
    assert f"two processes each ({web_machines + worker_machines} connections)" in PAGE
    assert f"two web processes and one worker ({count_connections(2, 1)} connections)" in PAGE


def test_the_disk_space_of_a_page_is_the_measured_one() -> None:
    sent = STORED_BYTES["body, as sent"]
    stored, pruned = add_stored_bytes(INBOX), add_stored_bytes(INBOX, ", pruned")

    assert f"is sent as {sent / 1e3:.1f} KB and stored as {stored / 1e3:.1f} KB" in PAGE
    assert f"its row and outcome stay: {pruned / 1e3:.2f} KB" in PAGE
    in_sink = add_stored_bytes(["crm_contacts"]) / ASSUMPTIONS["records"]
    assert f"has {in_sink / 1e3:.1f} KB for each record" in PAGE


def test_the_time_of_a_first_sync_follows_from_the_rate_of_one_worker() -> None:
    drained = [row for row in read_measurements("scale") if row["step"] == "drain" and row["processes"] == 1]
    per_s = median(row["deliveries_per_s"] * row["records"] for row in drained)

    assert f"{RECORDS_OF_FIRST_SYNC // ASSUMPTIONS['records']:,} pages" in PAGE
    assert f"wrote {round(per_s, -2):,.0f} records a second" in PAGE
    assert f"takes about {RECORDS_OF_FIRST_SYNC / per_s:.0f} s" in PAGE


CASES = """
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'rapidbridge_oldest_pending_age_seconds{{instance="a"}}', values: "300 7200 7200 300 stale"}}
      - {{series: 'rapidbridge_oldest_pending_age_seconds{{instance="b"}}', values: "299 7199 7199 299 stale"}}
      - {{series: 'rapidbridge_queued_jobs{{instance="a"}}', values: "128 0 2 3 3"}}
      - {{series: 'rapidbridge_workers{{instance="a"}}', values: "2 2 2 0 0"}}
    promql_expr_test:
      # A backlog; a delivery that is retried; the same with some traffic; a backlog without workers; no database.
      - {{expr: '{rule}', eval_time: 0m, exp_samples: [{{value: 300, labels: "{{}}"}}]}}
      - {{expr: '{rule}', eval_time: 1m, exp_samples: [{{value: 0, labels: "{{}}"}}]}}
      - {{expr: '{rule}', eval_time: 2m, exp_samples: [{{value: 0, labels: "{{}}"}}]}}
      - {{expr: '{rule}', eval_time: 3m, exp_samples: [{{value: 300, labels: "{{}}"}}]}}
      - {{expr: '{rule}', eval_time: 4m, exp_samples: []}}
"""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_workers_are_added_for_a_backlog_and_not_for_a_retried_delivery(tmp_path: Path) -> None:
    cases = tmp_path / "cases.yml"
    cases.write_text(CASES.format(rule=read_marked_block("docs/scaling.md", "autoscaling").strip()))

    run_promtool("test", "rules", str(cases))
