"""A process that has imported dlt, and forks a child for each request: `python -P -m tests.support.dlt_forking`.

The child is the process of `app.sinks.warehouse.dlt_process`, less the seconds of CPU that its imports cost.
"""

import gc
import importlib
import inspect
import os
import signal
import socket
import warnings

# Those that dlt imports with the first load and the first ClickHouse client of a process.
_LATER_IMPORTS = (
    "clickhouse_connect",
    "clickhouse_driver",
    "dlt._workspace._plugins",
    "dlt.common.libs.pyarrow",
    "dlt.common.libs.sql_alchemy_compat",
    "dlt.common.normalizers.naming.sql_ci_v1",
    "dlt.destinations.impl.clickhouse.clickhouse",
    "dlt.destinations.impl.duckdb.duck",
    "dlt.sources.helpers.requests",
    "pyarrow.compute",
)


def main() -> None:
    """Fork a child for each socket that the standard input passes, until its end."""
    from app.sinks.warehouse import dlt_process  # noqa: PLC0415  # the tests' own process imports no dlt

    for name in _LATER_IMPORTS:
        importlib.import_module(name)
    # A child copies no pages for the garbage collector, and reads no file of a module again.
    gc.freeze()
    inspect.getmodule(main)
    # The kernel reaps the children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    requests = socket.socket(fileno=os.dup(0))
    while True:
        folder, descriptors, _, _ = socket.recv_fds(requests, 4096, 1)
        if not folder:
            return
        if os.fork():
            os.close(descriptors[0])
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        requests.close()
        os.dup2(descriptors[0], 0)
        os.close(descriptors[0])
        os.environ |= {"DLT_PROJECT_DIR": folder.decode(), "DLT_DATA_DIR": folder.decode()}
        dlt_process.main()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
