"""The files sink: JSON Lines files, named after deliveries and slices."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from app.config.routes import Route
from app.errors import SinkRefused, SinkUnavailable
from app.folder_sync import sync_folder
from app.sinks.base import Batch, Record, WriteResult
from app.truto.records import to_json

_MAX_NAME_CHARS = 200
_MAX_KNOWN_FOLDERS = 10_000
# Every other error lasts until a person corrects the folder or its disk.
# ENOENT: an erasure removed the folder at the same moment.
_TRANSIENT_ERRNOS = {errno.ENOENT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_TRANSIENT_ERRNOS |= {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT}
_ADVICE = {
    errno.EACCES: "give the worker's user the right to write it",
    errno.EPERM: "give the worker's user the right to write it",
    errno.EROFS: "mount it writable",
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "raise its quota, or free space",
    errno.ENOTDIR: "a part of its path is a file: correct `url` of the sink",
    errno.ENAMETOOLONG: "its path is too long: set a shorter `url` of the sink",
}


class FilesSink:
    """A folder: resource=<…>/account=<…>/dt=<day received>/<delivery>.jsonl, one record per line.

    The further slices of a large delivery are in <delivery>.<ordinal of its first record>.jsonl.
    A file is written under a temporary name, synced, then renamed: it is complete or missing. A repeated
    delivery overwrites its own file. Every version of a record is kept; readers take the greatest
    (_version, _vseq), as the SQL sink does.
    """

    def __init__(self, url: str) -> None:
        self._root = Path(unquote(urlsplit(url).path))
        self._durable_folders: set[Path] = set()

    def write(self, batch: Batch, _route: Route) -> WriteResult:
        """Write a batch; see Sink."""
        lines = [_format_line(batch, record) for record in batch.records]
        with _translate_errors():
            self._write_file(self._build_folder_path(batch), _build_file_name(batch), b"".join(lines))
        return WriteResult(len(lines))

    def count(self, account: str) -> int:
        """Count the files of an account; see Sink."""
        with _translate_errors():
            return sum(
                1 for folder in self._find_account_folders(account) for _ in folder.glob("dt=*/*.jsonl")
            )

    def erase(self, account: str) -> int:
        """Remove the files of an account, with temporary files of killed workers; see Sink."""
        with _translate_errors():
            return sum(_remove_folder(folder) for folder in self._find_account_folders(account))

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _find_account_folders(self, account: str) -> list[Path]:
        if not self._root.is_dir():
            # A lost mount looks like a sink that was never written to.
            raise SinkUnavailable("the sink's folder is missing: check its `url` and its mount")
        return sorted(self._root.glob(f"resource=*/account={_encode_account(account)}"))

    def _build_folder_path(self, batch: Batch) -> Path:
        day = batch.received_at.date().isoformat()
        return (
            self._root
            / f"resource={_encode_path_part(batch.resource)}"
            / f"account={_encode_account(batch.account)}"
            / f"dt={day}"
        )

    def _create_folder(self, folder: Path) -> None:
        """Create a folder durably: a power failure loses one whose parents are not synced, with its files."""
        if folder in self._durable_folders and folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        # Also if another worker has just created it, and has not synced its parents yet.
        for parent in takewhile(lambda parent: parent != self._root.parent, folder.parents):
            sync_folder(parent)
        if len(self._durable_folders) >= _MAX_KNOWN_FOLDERS:
            self._durable_folders.clear()
        self._durable_folders.add(folder)

    def _write_file(self, folder: Path, name: str, content: bytes) -> None:
        self._create_folder(folder)
        # Two workers may write the same delivery, in containers even with one process id.
        temporary_file = folder / f".{name}.{uuid4().hex[:12]}.part"
        with temporary_file.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary_file.replace(folder / f"{name}.jsonl")
        sync_folder(folder)


def _build_file_name(batch: Batch) -> str:
    # Of fixed width: names sort in the order of the records.
    return f"{batch.delivery_id}.{batch.first_ordinal:08d}" if batch.first_ordinal else f"{batch.delivery_id}"


def _format_line(batch: Batch, record: Record) -> bytes:
    members = {
        "_account": batch.account,
        "_key": record.key,
        "_version": record.version.isoformat(timespec="microseconds"),
        "_vseq": record.sequence,
        "_delivery": str(batch.delivery_id),
        "_ordinal": record.ordinal,
        "_received_at": batch.received_at.isoformat(timespec="microseconds"),
        "_job": batch.job,
        "_run": batch.run,
        "_method": batch.method,
        "_is_deletion": batch.is_deletion,
    }
    return f'{to_json(members)[:-1]},"data":{record.json}}}\n'.encode()


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "OSError")
        advice = _ADVICE.get(error.errno or 0, "check `url` of the sink, its disk and its mount")
        message = f"the sink's folder cannot be written ({code}); {advice}"
        if error.errno in _TRANSIENT_ERRNOS:
            raise SinkUnavailable(message) from error
        raise SinkRefused("sink_set_up", message) from error


def _remove_folder(folder: Path) -> int:
    """Remove a folder with its contents; return the number of files with records."""
    number = 0
    for parent, _, names in os.walk(folder, topdown=False, onerror=_raise_error):
        for name in names:
            (Path(parent) / name).unlink(missing_ok=True)
            number += name.endswith(".jsonl")
        # A worker may be writing a new file there: then the folder stays.
        with suppress(OSError):
            Path(parent).rmdir()
    return number


def _raise_error(error: OSError) -> None:
    raise error


def _encode_account(account: str) -> str:
    return _encode_path_part(account) or "_none"


def _encode_path_part(name: str) -> str:
    """Return a name as one path component, valid on any file system."""
    part = quote(name, safe="").replace(".", "%2E")
    if len(part) <= _MAX_NAME_CHARS:
        return part
    return f"{part[:_MAX_NAME_CHARS]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
