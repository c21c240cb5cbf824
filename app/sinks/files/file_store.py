"""The contract of a file store: a local folder, or an object store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID


class StagedFile(NamedTuple):
    """A complete file on a local disk, and its name in the store."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store. name: relative to the store, with "/" between folders. changed_at: aware UTC."""

    name: str
    size: int
    changed_at: datetime


class FileStore(Protocol):
    """Files by name. Readers see a file completely or not at all.

    Raises SinkUnavailable if the same call may succeed later, SinkRefused if a person has to correct the
    place first. Every call ends within a timeout.
    """

    def open_staging(self, load_id: UUID) -> Path:
        """Return a new empty folder for the files of a load, on a local disk."""
        ...

    def publish(self, files: Sequence[StagedFile]) -> None:
        """Make files durable and visible; each replaces the one of its name."""
        ...

    def list_partitions(self, account: str | None) -> list[str]:
        """Return the folders of an account, one for each resource. account: None for all."""
        ...

    def list_files(self, folder: str) -> Iterator[StoredFile]:
        """Yield the files with records in a folder and those below it, by name."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Delete files; those that are missing are skipped."""
        ...

    def remove_leftovers(self, folder: str) -> None:
        """Remove what interrupted attempts left in a folder, and in staging."""
        ...

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a local path; raises FileNotFoundError if it is missing."""
        ...
