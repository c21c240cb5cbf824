"""A script that loads a JSONL file with dlt.

`benchmarks.loaders` runs it in dlt's own virtual environment.

`dlt_load.py URL FILE SCHEMA TABLE merge|append insert_values|csv nested|flat`
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import dlt
from dlt.common import json

_PAGE_SIZE = 1000


def _read_pages(path: Path) -> Iterator[list[Any]]:
    with path.open() as file:
        while page := [json.loads(line) for line in islice(file, _PAGE_SIZE)]:
            yield page


def main() -> None:
    """Run one pipeline from the file to the table, keyed by the records' ids."""
    url, path, schema, table, disposition, file_format, shape = sys.argv[1:]
    records = dlt.resource(
        _read_pages(Path(path)),
        name=table,
        write_disposition=disposition,
        primary_key="id",
        max_table_nesting=0 if shape == "flat" else None,
    )
    pipeline = dlt.pipeline(
        # Named for its database, so that it shares no state with another round.
        f"load_{url.rpartition('/')[2]}",
        destination=dlt.destinations.postgres(credentials=url),
        dataset_name=schema,
    )
    pipeline.run(records, loader_file_format=file_format).raise_on_failed_jobs()


if __name__ == "__main__":
    main()
