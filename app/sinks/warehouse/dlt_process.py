"""The process that runs dlt for one request, then ends; started by `dlt_client`.

dlt replaces signal handlers, has state for each process, and drivers may wait without a limit: a process of
its own can be ended at a deadline. It reads the request from standard input, and ends with its parent.
"""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.parquet as pq
from dlt.destinations.exceptions import DatabaseException

from app.errors import SinkRefused
from app.sinks.warehouse import statements
from app.sinks.warehouse.dlt_errors import describe_error

# Of dlt's schema and state in the dataset.
_PIPELINE = "rapidbridge"
_BATCH_ROWS = 1_000
# Only columns of the file's schema, and no other types: nothing is inferred from records.
_CONTRACT: Any = {"tables": "evolve", "columns": "evolve", "data_type": "freeze"}

Request = Mapping[str, Any]


def main() -> None:
    """Run the request of the standard input, then exit."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    run_request(request)
    # Threads of drivers may never end.
    os._exit(0)


def run_request(request: Request) -> None:
    """Run a request, and write its answer into a file in its folder."""
    try:
        answer = {"number": _ACTIONS[request["action"]](request)}
    except Exception as error:  # noqa: BLE001  # drivers raise errors of any class; all are classified
        answer = describe_error(error)
    (Path(request["folder"]) / "answer.json").write_text(json.dumps(answer))


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _load(request: Request) -> int:
    pipeline = _open_pipeline(request)
    files = request["files"]
    if request["is_repeated"]:
        _restore_tables(pipeline)
    if files:
        pipeline.run([_build_resource(request, file, number) for number, file in enumerate(files)])
    _keep_views(pipeline, files)
    # After the new rows are there: until then, readers see those of the earlier attempt.
    if request["is_repeated"]:
        for table in _list_tables(pipeline):
            _execute(pipeline, statements.build_cleaning, table, request["load"], request["attempt"])
    return len(files)


def _restore_tables(pipeline: Any) -> None:
    """Create the tables that a person has dropped: dlt takes a schema that it stored for complete."""
    pipeline.sync_destination()
    if pipeline.default_schema_name:
        with pipeline.destination_client() as client:
            client.update_stored_schema(force=True)


def _check(request: Request) -> int:
    with _open_pipeline(request).sql_client() as client:
        client.execute_sql("SELECT 1")
    return 0


def _count(request: Request) -> int:
    pipeline = _open_pipeline(request)
    pipeline.sync_destination()
    return sum(_count_rows(pipeline, table, request["account"]) for table in _list_tables(pipeline))


def _erase(request: Request) -> int:
    pipeline, number = _open_pipeline(request), 0
    pipeline.sync_destination()
    for table in _list_tables(pipeline):
        if rows := _count_rows(pipeline, table, request["account"]):
            _execute(pipeline, statements.build_erasure, table, request["account"])
            number += rows
    return number


_ACTIONS = {"load": _load, "check": _check, "count": _count, "erase": _erase}


def _open_pipeline(request: Request) -> Any:
    credentials = request["credentials"]
    options = {}
    if credentials:
        options["credentials"] = json.loads(credentials) if credentials.startswith("{") else credentials
    return dlt.pipeline(
        _PIPELINE,
        destination=getattr(dlt.destinations, request["destination"])(**options),
        dataset_name=request["dataset"],
        pipelines_dir=request["folder"],
    )


def _build_resource(request: Request, file: Mapping[str, str], number: int) -> Any:
    return dlt.resource(
        _read_file(request, file),
        name=f"file_{number}",
        table_name=file["table"],
        write_disposition="append",
        max_table_nesting=0,
        schema_contract=_CONTRACT,
    )


def _read_file(request: Request, file: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yield the rows of a file with the columns that all of them share."""
    shared = {"_resource": file["resource"], "_load": request["load"], "_attempt": request["attempt"]}
    with pq.ParquetFile(file["path"]) as parquet:
        for batch in parquet.iter_batches(_BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            for name, value in shared.items():
                field = pa.field(name, pa.string(), nullable=False)
                table = table.append_column(field, pa.repeat(pa.scalar(value), table.num_rows))
            yield table


def _list_tables(pipeline: Any) -> list[str]:
    """Return the tables that this sink has created in the dataset."""
    if not pipeline.default_schema_name:
        if _has_columns(pipeline, {"_dlt_version": ["schema_name"]}):
            # No tables would look like an account without rows.
            message = (
                "dlt's table _dlt_version has no rows, so the tables are unknown; restore it from a backup, "
                "or delete the rows by hand, by _account"
            )
            raise SinkRefused("sink_set_up", message)
        return []
    tables = pipeline.default_schema.data_tables()
    return [table["name"] for table in tables if "_attempt" in table["columns"]]


def _keep_views(pipeline: Any, files: Sequence[Mapping[str, str]]) -> None:
    """Create the views that are missing or lack a column; the grants of the others stay."""
    schema = pipeline.default_schema
    normalize = schema.naming.normalize_table_identifier
    tables = {normalize(file["view"]): normalize(file["table"]) for file in files}
    columns = {view: list(schema.get_table(table)["columns"]) for view, table in tables.items()}
    # A query for all, because each costs a second in some destinations.
    if not tables or _has_columns(pipeline, columns):
        return
    for view, table in tables.items():
        if not _has_columns(pipeline, {view: columns[view]}):
            with pipeline.sql_client() as client:
                full_view, full_table = map(client.make_qualified_table_name, (view, table))
                statement = statements.build_view(
                    full_view, full_table, columns[view], client.escape_column_name
                )
                client.execute_sql(statement)


def _has_columns(pipeline: Any, columns: Mapping[str, Sequence[str]]) -> bool:
    with pipeline.sql_client() as client:
        views = {client.make_qualified_table_name(view): names for view, names in columns.items()}
        try:
            client.execute_sql(statements.build_view_check(views, client.escape_column_name))
        except DatabaseException:
            return False
    return True


def _count_rows(pipeline: Any, table: str, account: str) -> int:
    return int(_execute(pipeline, statements.build_count, table, account)[0][0])


def _execute(pipeline: Any, build: Any, table: str, *parameters: str) -> Any:
    with pipeline.sql_client() as client:
        statement = build(client.make_qualified_table_name(table), client.escape_column_name)
        return client.execute_sql(statement, *parameters)


if __name__ == "__main__":
    main()
