"""A worker that crashes: `python -m tests.support.crashing_worker [supervised] SIGNAL STEP [MARKER]`.

With a marker file only the first worker crashes; later workers with the same marker do not.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

from rq import SimpleWorker
from sqlalchemy import Connection

from app.cli.local.supervisor import Supervisor
from app.cli.worker import worker
from app.sinks.base import Batch
from app.sinks.files.local_store import LocalStore
from app.sinks.sql.dialect import Dialect
from app.sinks.sql.postgresql import PostgreSQL
from app.sinks.sql.sink import SqlSink
from app.sinks.sql.sqlite import SQLite
from app.store import load_results, results
from app.store.inbox import Inbox
from app.store.load_results import LoadResults
from app.store.loads import Loads
from app.store.pending import PendingDeliveries
from app.store.results import DeliveryResults
from tests.support.crash_points import CrashPoint
from workers import main

CRASHING_RECORD_ID = "deadly"


def _has_crashing_record(_sink: SqlSink, batches: Sequence[Batch], *_: object) -> bool:
    # Like a crash in a library, or a lack of memory.
    return any(record.value["id"] == CRASHING_RECORD_ID for batch in batches for record in batch.records)


def _crash_while_splitting(crash_point: CrashPoint) -> None:
    statements = count(1)

    def is_third(_dialect: Dialect, connection: Connection, *_: object) -> bool:
        # Only a split uses savepoints: the first has all rows, the second a half that is written.
        return connection.in_nested_transaction() and next(statements) == 3

    for dialect in (PostgreSQL, SQLite):
        crash_point.crash_before(dialect, "upsert", when=is_third)


STEPS: Mapping[str, Callable[[CrashPoint], None]] = {
    "at a record": lambda crash_point: crash_point.crash_before(
        SqlSink, "write_batches", when=_has_crashing_record
    ),
    "popped": lambda crash_point: crash_point.crash_before(SimpleWorker, "execute_job"),
    "started": lambda crash_point: crash_point.crash_before(PendingDeliveries, "lease"),
    "claimed": lambda crash_point: crash_point.crash_before(Inbox, "read_stored"),
    "in the database": lambda crash_point: crash_point.crash_after(SqlSink, "write_batches"),
    "load leased": lambda crash_point: crash_point.crash_after(Loads, "lease"),
    "load prepared": lambda crash_point: crash_point.crash_after(Loads, "prepare"),
    "in a file": lambda crash_point: crash_point.crash_after(LocalStore, "publish"),
    "load finishing": lambda crash_point: crash_point.crash_after(load_results, "make_unheld_due"),
    "load finished": lambda crash_point: crash_point.crash_after(LoadResults, "finish"),
    "beside the file": lambda crash_point: crash_point.crash_before(
        Path, "replace", when=lambda path, *_: path.suffix == ".part"
    ),
    "splitting": _crash_while_splitting,
    # The transaction holds all results and is not committed yet.
    "settling": lambda crash_point: crash_point.crash_after(results, "write_state_changes"),
    "settled": lambda crash_point: crash_point.crash_after(DeliveryResults, "save"),
}


def run_worker(signal_number: str, step: str, marker: str = "") -> None:
    """Run one worker until it ends."""
    STEPS[step](CrashPoint(int(signal_number), Path(marker) if marker else None))
    main.main()


def run_supervised(arguments: Sequence[str]) -> None:
    """Run `rapidbridge worker` with crashing workers."""
    start = Supervisor.start

    def start_crashing(self: Supervisor, name: str, _: object, *rest: object, **options: object) -> None:
        command = [sys.executable, "-m", "tests.support.crashing_worker", *arguments]
        start(self, name, command, *rest, **options)  # type: ignore[arg-type]  # passed on as they came

    Supervisor.start = start_crashing  # type: ignore[method-assign,assignment]  # the fault
    worker([])


if __name__ == "__main__":
    if sys.argv[1] == "supervised":
        run_supervised(sys.argv[2:])
    else:
        run_worker(*sys.argv[1:])
