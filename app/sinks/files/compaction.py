"""Compaction: merge the files of each partition, and drop superseded versions."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Self
from uuid import UUID, uuid4

from app.sinks.files.file_store import FileStore, StagedFile, StoredFile
from app.sinks.files.row_files import RowVersion, copy_rows, read_schema, read_versions

_COMPACTED = "compact-"
_UUID_CHARS = 36
_SUFFIXES = {"none": ".jsonl", "gzip": ".jsonl.gz", "zstd": ".jsonl.zst"}


@dataclass(frozen=True, slots=True)
class CompactionCounts:
    """Numbers of one or several folders. skipped: folders that were left unchanged."""

    files_before: int = 0
    files_after: int = 0
    rows_before: int = 0
    rows_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    skipped: int = 0

    def __add__(self, other: Self) -> "CompactionCounts":
        names = [field.name for field in fields(self)]
        return CompactionCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


class _Source(NamedTuple):
    """A file to merge, copied to a local path."""

    file: StoredFile
    path: Path

    @property
    def partition(self) -> str:
        return self.file.name.rpartition("/")[0]


class _NewestVersions:
    """The greatest versions of the records in a folder: one of the data, and one of the deletion."""

    def __init__(self) -> None:
        self._data: dict[bytes, str] = {}
        self._deletions: dict[bytes, str] = {}

    def add(self, version: RowVersion) -> None:
        newest = self._deletions if version.is_deletion else self._data
        if version.order > newest.get(version.record, ""):
            newest[version.record] = version.order

    def find_kept(self) -> "_KeptVersions":
        deletions = {
            record: order
            for record, order in self._deletions.items()
            # A deletion that is older than the data says nothing.
            if order > self._data.get(record, "")
        }
        return _KeptVersions(dict(self._data), deletions)


class _KeptVersions:
    """The versions to keep, each once: a load that was written twice may have left two rows."""

    def __init__(self, data: dict[bytes, str], deletions: dict[bytes, str]) -> None:
        self._data = data
        self._deletions = deletions

    def take(self, version: RowVersion) -> bool:
        """Whether to keep this row; False from the second equal one on."""
        kept = self._deletions if version.is_deletion else self._data
        if kept.get(version.record) != version.order:
            return False
        # Nothing is equal to it, and later rows of the record are dropped.
        kept[version.record] = ""
        return True


class Compactor:
    """Compacts the folders of a files sink, each of one resource and account.

    compression: of new files. list_open_loads: the ids of loads whose files may still be replaced. A new file
    is durable before those that it replaces are removed: a reader may see a row twice, and misses none. Any
    number may run at once, beside loads and erasures, and each may be killed at any time.
    """

    def __init__(
        self, store: FileStore, *, compression: str, list_open_loads: Callable[[], set[UUID]]
    ) -> None:
        self._store = store
        self._compression = compression
        self._list_open_loads = list_open_loads

    def list_folders(self) -> list[str]:
        """Return the folders of the sink; raises SinkUnavailable."""
        return self._store.list_partitions(None)

    def compact(self, folder: str, *, before: datetime, dry_run: bool = False) -> CompactionCounts:
        """Compact the files of a folder that were written before a time; raises SinkUnavailable.

        A folder is skipped if a file is unreadable, or is removed meanwhile, as by an erasure.
        """
        files = [file for file in self._store.list_files(folder) if file.changed_at < before]
        # In this order: a load that ended in between has all its files in the list.
        open_loads = self._list_open_loads()
        files = [file for file in files if _read_load_id(file.name) not in open_loads]
        if len(files) < 2 or all(_is_compacted(file.name) for file in files):
            return _count_unchanged(files)
        staging = self._store.open_staging(uuid4())
        try:
            return self._compact_files(files, staging, dry_run=dry_run)
        except (ValueError, FileNotFoundError):
            return _count_unchanged(files) + CompactionCounts(skipped=1)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _compact_files(
        self, files: Sequence[StoredFile], staging: Path, *, dry_run: bool
    ) -> CompactionCounts:
        sources = []
        for number, file in enumerate(files):
            sources.append(_Source(file, staging / f"{number}.source"))
            self._store.fetch(file.name, sources[-1].path)
        newest = _NewestVersions()
        for source in sources:
            for version in read_versions(source.path, source.file.name):
                newest.add(version)
        kept = newest.find_kept()
        counts = CompactionCounts()
        for number, group in enumerate(_group_sources(sources)):
            counts += self._merge(group, staging / f"{number}.part", kept, dry_run=dry_run)
        return counts

    def _merge(
        self, sources: Sequence[_Source], target: Path, kept: _KeptVersions, *, dry_run: bool
    ) -> CompactionCounts:
        """Replace files of one partition and format by one."""
        names = [source.file.name for source in sources]
        pairs = [(source.path, source.file.name) for source in sources]
        rows_before, rows_after = copy_rows(pairs, target, kept.take, compression=self._compression)
        bytes_before = sum(source.file.size for source in sources)
        if len(names) == 1 and rows_before == rows_after:
            return CompactionCounts(1, 1, rows_before, rows_after, bytes_before, bytes_before)
        bytes_after = target.stat().st_size if rows_after else 0
        counts = CompactionCounts(
            len(names), 1 if rows_after else 0, rows_before, rows_after, bytes_before, bytes_after
        )
        if not dry_run:
            self._replace(sources, StagedFile(target, self._name_file(sources)), has_rows=rows_after > 0)
        return counts

    def _replace(self, sources: Sequence[_Source], merged: StagedFile, *, has_rows: bool) -> None:
        names = [source.file.name for source in sources]
        if has_rows:
            self._store.publish([merged])
        present = {file.name for file in self._store.list_files(sources[0].partition)}
        if not present.issuperset(names):
            # An erasure may have removed them: their records must not come back.
            if has_rows:
                self._store.delete([merged.name])
            raise FileNotFoundError("a file was removed during the compaction")
        self._store.delete(names)

    def _name_file(self, sources: Sequence[_Source]) -> str:
        # Two compactions of the same files write the same file.
        place = "\n".join(f"{source.file.name} {source.file.size}" for source in sources)
        digest = hashlib.sha256(place.encode()).hexdigest()[:32]
        is_parquet = sources[0].file.name.endswith(".parquet")
        suffix = ".parquet" if is_parquet else _SUFFIXES[self._compression]
        return f"{sources[0].partition}/{_COMPACTED}{digest}{suffix}"


def _group_sources(sources: Sequence[_Source]) -> Iterator[Sequence[_Source]]:
    """Yield the files that can become one: of one partition, with equal columns."""

    def describe(source: _Source) -> tuple[str, str]:
        return source.partition, read_schema(source.path, source.file.name)

    for _, group in groupby(sorted(sources, key=describe), key=describe):
        yield list(group)


def _read_load_id(name: str) -> UUID | None:
    try:
        return UUID(name.rpartition("/")[2][:_UUID_CHARS])
    except ValueError:
        return None


def _is_compacted(name: str) -> bool:
    return name.rpartition("/")[2].startswith(_COMPACTED)


def _count_unchanged(files: Sequence[StoredFile]) -> CompactionCounts:
    size = sum(file.size for file in files)
    return CompactionCounts(len(files), len(files), 0, 0, size, size)
