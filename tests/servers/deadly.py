"""A worker that dies of certain records: `python -m tests.servers.deadly SIGNAL`."""

import os
import sys

from app.routes import Route
from workers import main
from workers.sinks.base import Batch, Written
from workers.sinks.sql.sink import SqlSink

DEADLY = "deadly"
_write = SqlSink.write


def write_or_die(sink: SqlSink, batch: Batch, route: Route) -> Written:
    """Write a batch; with a deadly record in it, end as by a crash in a library or for want of memory."""
    if any(record.value["id"] == DEADLY for record in batch.records):
        os.kill(os.getpid(), int(sys.argv[1]))
    return _write(sink, batch, route)


if __name__ == "__main__":
    SqlSink.write = write_or_die  # type: ignore[assignment]  # the fault
    main.main()
