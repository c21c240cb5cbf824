"""The archive of pruned deliveries: gzip-compressed JSON Lines in a folder."""

import fcntl
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

from app.database.engine import Database
from app.encryption import Keyring
from app.errors import ArchiveUnavailable
from app.folder_sync import sync_folder
from app.store.delivery_export import ExportedDelivery, read_stored_deliveries, write_line
from app.store.models import PrunableDelivery
from app.store.stored_body import decode_body

_SUFFIX = ".jsonl.gz"
_LEVEL = 6


class Archive:
    """Writes deliveries before they are pruned: dt=<day received>/<first>-<last>-<hash of ids>.jsonl.gz.

    A file is written under a temporary name, synced, then renamed, so it is complete or absent. A delivery
    that the archive already holds, because a prune stopped before it removed the body, is not written again.
    damaged: deliveries that could not be archived, because their bodies are damaged. Every method raises
    ArchiveUnavailable.
    """

    def __init__(self, url: str) -> None:
        self._root = Path(unquote(urlsplit(url).path))
        self.damaged: list[UUID] = []

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Wait for other processes that prune into this folder: two must not write the same deliveries."""
        with _translate_archive_errors(self._root):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            with _translate_archive_errors(self._root):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def write(self, database: Database, chunk: Sequence[PrunableDelivery]) -> list[UUID]:
        """Write deliveries of one day, oldest first; return the ids that the archive now holds on disk.

        Deliveries that another process pruned meanwhile are left out, and so are damaged bodies. Raises
        StoreUnavailable too.
        """
        first, last = chunk[0].received_at, chunk[-1].received_at
        folder = self._root / f"dt={first.astimezone(UTC).date().isoformat()}"
        with _translate_archive_errors(folder):
            for unfinished in folder.glob(".*.part"):
                # Left by a killed process: the lock excludes a running one.
                unfinished.unlink()
            archived_before = {
                id_ for path in _find_overlapping(folder, first, last) for id_ in _read_ids(path)
            }
            archived = [delivery.id for delivery in chunk if delivery.id in archived_before]
            missing_ids = [delivery.id for delivery in chunk if delivery.id not in archived_before]
            if new := read_stored_deliveries(database, missing_ids):
                folder.mkdir(mode=0o700, exist_ok=True)
                sync_folder(self._root)
                written = _write_file(
                    folder / _build_file_name(first, last, [delivery.id for delivery in new]),
                    new,
                    database.keyring,
                )
                archived += written
                self.damaged += [delivery.id for delivery in new if delivery.id not in set(written)]
        return archived


def _write_file(path: Path, stored: Sequence[ExportedDelivery], keyring: Keyring) -> list[UUID]:
    written = []
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    # "x": never through a link that another user placed there.
    with temporary.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        # Without time and name, the same deliveries make the same bytes.
        with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
            for delivery in stored:
                try:
                    body = decode_body(keyring, delivery.id, delivery.body)
                    line = write_line(replace(delivery, body=body))
                except ValueError:
                    continue
                packed.write(line)
                written.append(delivery.id)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    # A rename is durable once its folder is synced.
    sync_folder(path.parent)
    return written


def _build_file_name(first: datetime, last: datetime, ids: Sequence[UUID]) -> str:
    digest = hashlib.sha256(b"".join(id_.bytes for id_ in ids)).hexdigest()[:12]
    return f"{_format_time(first)}-{_format_time(last)}-{digest}{_SUFFIX}"


def _format_time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}"


def _find_overlapping(folder: Path, first: datetime, last: datetime) -> Iterator[Path]:
    for path in sorted(folder.glob(f"[0-9]*{_SUFFIX}")):
        begins, ends, _ = path.name.split("-")
        if begins <= _format_time(last) and ends >= _format_time(first):
            yield path


def _read_ids(path: Path) -> Iterator[UUID]:
    with gzip.open(path) as lines:
        for line in lines:
            yield UUID(json.loads(line)["id"])


@contextmanager
def _translate_archive_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise ArchiveUnavailable(
            f"the archive in {folder} failed ({reason}): no body of this chunk was removed"
        ) from error
