"""A sink that writes each slice of a delivery to a file of its own, for tests of slices."""

import json
from pathlib import Path

from app.config.routes import Route
from app.sinks.base import Batch, WriteResult


class SliceFiles:
    """A sink that writes batches, as a file each. A file is named for its delivery and first ordinal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, batch: Batch, _route: Route) -> WriteResult:
        slice_name = f".{batch.first_ordinal:08d}" if batch.first_ordinal else ""
        name = f"{batch.delivery_id}{slice_name}.jsonl"
        lines = [
            json.dumps({"_account": batch.account, "_ordinal": record.ordinal}) for record in batch.records
        ]
        (self._folder / name).write_text("".join(f"{line}\n" for line in lines))
        return WriteResult(len(lines))

    def count(self, _account: str) -> int:
        return 0

    def erase(self, _account: str) -> int:
        return 0

    def close(self) -> None:
        """Do nothing."""
