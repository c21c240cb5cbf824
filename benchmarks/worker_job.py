"""A worker's job beside its bare statement: `python -m benchmarks.worker_job [--records N] …`.

Writes the same records to one PostgreSQL that commits durably, over one connection, in turns, each time to an
empty table:

- the SQL sink's own statement with prepared parameters, executed by the driver alone;
- the same records routed, made into rows and written by the sink;
- the whole job of a worker: deliveries leased, read, parsed, routed, written and settled.

The client and the server share the cores: the ratios hold elsewhere, the absolute numbers do not.
"""

import argparse
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

import psycopg
import structlog
from sqlalchemy import Engine, event

from app.config.routes import build_default_routes
from app.redis.queue import IDS_PER_JOB
from app.sinks.registry import SinkRegistry
from app.sinks.sql.sink import SqlSink
from app.store.inbox import Inbox
from app.truto.records import read_records
from benchmarks.environment import BenchmarkEnvironment, running_environment
from benchmarks.payloads import RESOURCE, TABLE, make_delivery
from benchmarks.results import save_results
from benchmarks.round import CpuMeter, list_process_tree
from tests.support.sent_records import SentRecords, send
from workers.delivery.processor import DeliveryProcessor

_BARE = "bare statement"
_Write = Callable[[], object]
_Statement = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round of one subject."""

    records: int
    seconds: float
    client_cpu_s: float
    postgres_cpu_s: float

    @property
    def cpu_us(self) -> float:
        """The CPU time of client and server for one record."""
        return (self.client_cpu_s + self.postgres_cpu_s) / self.records * 1e6


class Subjects:
    """The three ways to write records."""

    def __init__(
        self, environment: BenchmarkEnvironment, driver: psycopg.Connection[Any], batch: int
    ) -> None:
        url = environment.database_url
        routes = build_default_routes(url)
        [self._route] = routes.routes
        self._driver = driver
        self._batch = batch
        self._numbers = itertools.count()
        self._inbox = Inbox(environment.database)
        self._sink = SqlSink(url)
        self._processor = DeliveryProcessor(environment.database, routes, SinkRegistry(routes))

    def prepare_bare(self, records: int) -> Sequence[_Write]:
        """Return the execution of each delivery's statement."""
        with _recorded_statements() as statements:
            for write in self.prepare_sink(records):
                write()
        return [
            partial(self._driver.execute, statement.encode(), parameters)
            for statement, parameters in statements
        ]

    def prepare_sink(self, records: int) -> Iterator[_Write]:
        """Yield the routing and writing of each delivery; its records are parsed just before."""
        for _ in range(records // self._batch):
            page = self._make_page()
            yield partial(self._route_and_write, page)

    def prepare_job(self, records: int) -> Sequence[_Write]:
        """Return the processing of stored deliveries, in jobs as large as they are under load."""
        count = records // self._batch
        receipts = self._inbox.put([make_delivery(next(self._numbers), self._batch) for _ in range(count)])
        ids = [receipt.delivery_id for receipt in receipts]
        return [
            partial(self._processor.deliver, ids[start : start + IDS_PER_JOB])
            for start in range(0, count, IDS_PER_JOB)
        ]

    def empty_table(self) -> None:
        """Delete all rows."""
        self._driver.execute(f"TRUNCATE {TABLE}".encode())

    def count_rows(self) -> int:
        """Count the rows of the table."""
        [[rows]] = self._driver.execute(f"SELECT count(*) FROM {TABLE}".encode()).fetchall()
        return int(rows)

    def _route_and_write(self, page: SentRecords) -> None:
        self._sink.write(page.build_batch(self._route), self._route)

    def _make_page(self) -> SentRecords:
        delivery = make_delivery(next(self._numbers), self._batch)
        parsed = read_records(delivery.body)
        assert parsed
        now = datetime.now(UTC)
        values = [value for _, value in parsed.records]
        return send(values, delivery_id=uuid4(), received_at=now, version=now, resource=RESOURCE)


@contextmanager
def _recorded_statements() -> Iterator[list[_Statement]]:
    """Yield the statements that write to the table."""
    statements: list[_Statement] = []

    def record(*arguments: Any) -> None:
        _, _, statement, parameters, *_ = arguments
        if statement.startswith(f'INSERT INTO "{TABLE}"'):
            statements.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


def _measure(environment: BenchmarkEnvironment, options: argparse.Namespace) -> dict[str, list[Measurement]]:
    with psycopg.connect(environment.database_url, autocommit=True) as driver:
        subjects = Subjects(environment, driver, options.batch)
        prepare: dict[str, Callable[[int], Iterable[_Write]]] = {
            _BARE: subjects.prepare_bare,
            "routed and written": subjects.prepare_sink,
            "whole job": subjects.prepare_job,
        }
        measured: dict[str, list[Measurement]] = {name: [] for name in prepare}
        # To create the table.
        for write in subjects.prepare_sink(options.batch):
            write()
        # The first round warms up.
        for number in range(options.rounds + 1):
            for name, prepare_round in prepare.items():
                writes = prepare_round(options.records)
                subjects.empty_table()
                measurement = _measure_round(writes, options.records, environment.postgres.pid)
                rows = subjects.count_rows()
                assert rows == options.records, f"{name}: {rows} rows for {options.records} records"
                if number:
                    measured[name].append(measurement)
    return measured


def _measure_round(writes: Iterable[_Write], records: int, postgres_pid: int) -> Measurement:
    meter = CpuMeter({"postgres": partial(list_process_tree, postgres_pid)})
    seconds = cpu_s = 0.0
    for write in writes:
        cpu_before_s, started = time.process_time(), time.perf_counter()
        write()
        seconds += time.perf_counter() - started
        cpu_s += time.process_time() - cpu_before_s
    return Measurement(records, seconds, cpu_s, meter.read_s()["postgres"])


def _format_line(name: str, rounds: Sequence[Measurement], bare: Sequence[Measurement]) -> str:
    rate = median(measured.records / measured.seconds for measured in rounds)
    # Of the same round: other load on the machine affects both.
    pairs = list(zip(rounds, bare, strict=True))
    share = median(base.seconds / measured.seconds for measured, base in pairs)
    # Processes of others change the rate, and hardly the CPU time.
    cpu_share = median(base.cpu_us / measured.cpu_us for measured, base in pairs)
    client_us = median(measured.client_cpu_s / measured.records for measured in rounds) * 1e6
    postgres_us = median(measured.postgres_cpu_s / measured.records for measured in rounds) * 1e6
    return f"| {name} | {rate:,.0f} | {share:.0%} | {client_us:.1f} | {postgres_us:.1f} | {cpu_share:.0%} |"


def main() -> None:
    """Print a table, one row for each subject."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker_job", description=__doc__)
    parser.add_argument(
        "--records", type=int, default=9_600, help="records in a round (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=100, help="records in a delivery (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each subject (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    # The log line of each delivery would hide the table.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with running_environment() as environment:
        measured = _measure(environment, options)
    print(f"\n{options.records} records, {options.batch} in a delivery\n")
    print("| | records/s | of bare | CPU client, µs a record | CPU postgres | CPU, of bare |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, rounds in measured.items():
        print(_format_line(name, rounds, measured[_BARE]))
    rows = [
        {"subject": name, "batch": options.batch, **asdict(measurement)}
        for name, rounds in measured.items()
        for measurement in rounds
    ]
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
