"""Files in a folder of this machine."""

import errno
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from app.errors import SinkRefused, SinkUnavailable
from app.folder_sync import sync_folder
from app.sinks.files.file_store import StagedFile, StoredFile
from app.sinks.files.names import format_account, has_records

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
# Readers of such folders skip names that begin with a dot.
_STAGING = ".staging"
# A file and a folder inside have those of the sink's folder that are named here. Others never write.
_FILE_RIGHTS, _FOLDER_RIGHTS = 0o664, 0o2775
_OWNER_OF_FILE, _OWNER_OF_FOLDER = 0o600, 0o700
# Longer than the lease of a load: nobody writes there any more.
_ABANDONED_AFTER_S = 120.0


class LocalStore:
    """A folder. A file is written in a staging folder inside, synced, then renamed. See FileStore.

    Files and folders inside can be read by those who can read the folder itself. A missing folder is created
    with the rights that the process gives to new ones.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def open_staging(self, load_id: UUID) -> Path:
        # Two workers may write the same load, if one of them lost its lease.
        folder = self._root / _STAGING / f"{load_id}.{uuid4().hex[:12]}"
        with translate_errors():
            self._create_folder(folder.parent)
            folder.mkdir()
        return folder

    def publish(self, files: Sequence[StagedFile]) -> None:
        with translate_errors():
            folders = {self._root / name.rpartition("/")[0] for _, name in files}
            created = {parent for folder in sorted(folders) for parent in self._create_folder(folder)}
            rights = self._root.stat().st_mode & _FILE_RIGHTS | _OWNER_OF_FILE
            for path, name in files:
                _set_rights(path, rights)
                path.replace(self._root / name)
            for folder in sorted(folders | created):
                sync_folder(folder)

    def _create_folder(self, folder: Path) -> list[Path]:
        """Create a folder; return the folders that have a new name in them."""
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        rights = self._root.stat().st_mode & _FOLDER_RIGHTS | _OWNER_OF_FOLDER
        for created in missing:
            if self._root in created.parents:
                _set_rights(created, rights)
        return [created.parent for created in missing]

    def list_partitions(self, account: str | None) -> list[str]:
        if not self._root.is_dir():
            # A lost mount looks like a sink that was never written to.
            raise SinkUnavailable("the sink's folder is missing: check its `url` and its mount")
        pattern = f"resource=*/{'account=*' if account is None else format_account(account)}"
        with translate_errors():
            return sorted(folder.relative_to(self._root).as_posix() for folder in self._root.glob(pattern))

    def list_files(self, folder: str) -> Iterator[StoredFile]:
        with translate_errors():
            for parent, folders, names in os.walk(self._root / folder, onerror=_raise_error):
                folders.sort()
                for path in (Path(parent) / name for name in sorted(names) if has_records(name)):
                    # Removed meanwhile by an erasure or a compaction.
                    with suppress(FileNotFoundError):
                        status = path.stat()
                        changed_at = datetime.fromtimestamp(status.st_mtime, UTC)
                        name = path.relative_to(self._root).as_posix()
                        yield StoredFile(name, status.st_size, changed_at)

    def delete(self, names: Sequence[str]) -> None:
        with translate_errors():
            for name in names:
                (self._root / name).unlink(missing_ok=True)
            for folder in sorted({self._root / name.rpartition("/")[0] for name in names}):
                if folder.is_dir():
                    sync_folder(folder)
                _remove_empty_folders(folder, self._root)

    def remove_leftovers(self, folder: str) -> None:
        with translate_errors():
            for parent, _, names in os.walk(self._root / folder, topdown=False, onerror=_raise_error):
                # Temporary files of earlier releases.
                for name in names:
                    if name.endswith(".part"):
                        (Path(parent) / name).unlink(missing_ok=True)
                with suppress(OSError):
                    Path(parent).rmdir()
            for staging in (self._root / _STAGING).glob("*"):
                with suppress(FileNotFoundError):
                    if time.time() - staging.stat().st_mtime > _ABANDONED_AFTER_S:
                        shutil.rmtree(staging, ignore_errors=True)

    def fetch(self, name: str, path: Path) -> None:
        try:
            shutil.copyfile(self._root / name, path)
        except FileNotFoundError:
            raise
        except OSError as error:
            with translate_errors():
                raise error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise SinkUnavailable or SinkRefused for errors of the file system."""
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "OSError")
        advice = _ADVICE.get(error.errno or 0, "check `url` of the sink, its disk and its mount")
        message = f"the sink's folder cannot be written ({code}); {advice}"
        if error.errno in _TRANSIENT_ERRNOS:
            raise SinkUnavailable(message) from error
        raise SinkRefused("sink_set_up", message) from error


def _set_rights(path: Path, rights: int) -> None:
    # Some mounted file systems have fixed rights, and another user's worker may have created the folder.
    with suppress(OSError):
        path.chmod(rights)


def _remove_empty_folders(folder: Path, root: Path) -> None:
    while folder != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _raise_error(error: OSError) -> None:
    # Removed meanwhile by an erasure.
    if error.errno != errno.ENOENT:
        raise error
