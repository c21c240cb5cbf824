"""Syncing of folders, so that new names in them are durable."""

import errno
import os
from pathlib import Path

# CIFS, FUSE and some network file systems cannot sync a folder; they make a rename durable in their own way.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)


def sync_folder(folder: Path) -> None:
    """Make the new names in a folder durable, if its file system can; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
