"""Passes of dlt: `python -m benchmarks.dlt_load URL SCHEMA TABLE rows|arrow FILE…`, in dlt's environment.

FILE: the bodies of one pass, one a line. rows: records as dictionaries, a column for each field, lists and
objects as JSON; dlt's usual way. arrow: Arrow tables of id, version and the record as JSON text, which dlt
passes to the ADBC driver as they are; its fastest way.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import dlt
import orjson
import pyarrow as pa

from benchmarks.timed_passes import serve_passes

# Larger tables cost dlt less for each record.
_PAGES_PER_TABLE = 20
_JSON_COLUMNS = {
    "id": {"data_type": "text", "nullable": False},
    "version": {"data_type": "text"},
    "data": {"data_type": "json"},
}
_FILE_FORMATS = {"rows": "csv", "arrow": "parquet"}


def _read_pages(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the version and the records of each body."""
    with path.open("rb") as file:
        for line in file:
            event = orjson.loads(line)
            yield event["created_at"], event["payload"]["records"]


def _read_rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    for _, records in _read_pages(path):
        yield records


def _read_tables(path: Path) -> Iterator[pa.Table]:
    pages = _read_pages(path)
    while group := list(islice(pages, _PAGES_PER_TABLE)):
        rows = [(version, record) for version, records in group for record in records]
        yield pa.table(
            {
                "id": [record["id"] for _, record in rows],
                "version": [version for version, _ in rows],
                "data": [orjson.dumps(record).decode() for _, record in rows],
            }
        )


def _describe_columns(path: Path) -> dict[str, Any]:
    """Return the columns of the first record's fields, so that dlt need not infer them."""
    record = next(_read_rows(path))[0]
    return {name: {"data_type": _choose_type(name, value)} for name, value in record.items()}


def _choose_type(name: str, value: object) -> str:
    if isinstance(value, list | dict):
        return "json"
    return "timestamp" if name.endswith("_at") else "text"


def main() -> None:
    """Load the file of each pass by one run of the pipeline."""
    url, schema, table, shape, *paths = sys.argv[1:]
    files = [Path(path) for path in paths]
    columns = _JSON_COLUMNS if shape == "arrow" else _describe_columns(files[0])

    def run_pass(number: int) -> None:
        records = dlt.resource(
            _read_tables(files[number]) if shape == "arrow" else _read_rows(files[number]),
            name=table,
            write_disposition={"disposition": "merge", "strategy": "upsert"},
            primary_key="id",
            columns=columns,
            max_table_nesting=0,
        )
        pipeline = dlt.pipeline(
            # Named for its database, so that it shares no state with another round.
            f"load_{url.rpartition('/')[2]}",
            destination=dlt.destinations.postgres(credentials=url),
            dataset_name=schema,
        )
        pipeline.run(records, loader_file_format=_FILE_FORMATS[shape]).raise_on_failed_jobs()

    serve_passes(run_pass)


if __name__ == "__main__":
    main()
