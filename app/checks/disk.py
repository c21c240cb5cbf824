"""Free space and file system of the disk that holds a folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from app.checks.check_result import CheckResult, fail, ok, warn

_MIB = 1024 * 1024
_FAIL_BYTES = 256 * _MIB
_WARN_BYTES = 2048 * _MIB
_COUNT_OLD = "To count the bodies that may go, run: rapidbridge prune --older-than 30d --dry-run"


def check_disk(component: str, folder: Path) -> Iterator[CheckResult]:
    """Check the disk on which a database file is, or would be created."""
    yield evaluate_free_space(component, read_free_bytes(folder))
    yield from evaluate_file_system(component, read_file_system(folder))


def read_free_bytes(folder: Path) -> int:
    """Return the free space of a folder's disk, in bytes; the folder need not exist yet."""
    return shutil.disk_usage(_find_existing_folder(folder)).free


def read_file_system(folder: Path) -> str:
    """Return the kernel's name of a folder's file system; "" on systems other than Linux."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    existing = _find_existing_folder(folder).resolve()
    mounts = [(Path(words[1].replace("\\040", " ")), words[2]) for words in map(str.split, lines)]
    candidates = [
        (len(mount_point.parts), number, file_system)
        for number, (mount_point, file_system) in enumerate(mounts)
        if existing.is_relative_to(mount_point)
    ]
    # A later mount on the same folder hides the earlier ones.
    return max(candidates)[2] if candidates else ""


def _find_existing_folder(folder: Path) -> Path:
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def evaluate_free_space(component: str, free_bytes: int) -> CheckResult:
    """Return whether a disk has enough free space."""
    message = f"{free_bytes // _MIB:,} MiB free"
    if free_bytes < _FAIL_BYTES:
        advice = f"A full disk cannot store deliveries. Free some space, or use a larger disk. {_COUNT_OLD}"
        return fail(component, "space", message, advice)
    if free_bytes < _WARN_BYTES:
        return warn(component, "space", message, f"Plan for a larger disk. {_COUNT_OLD}")
    return ok(component, "space", message)


def evaluate_file_system(component: str, file_system: str) -> Iterator[CheckResult]:
    """Yield the risks of keeping a database on a file system.

    file_system: the kernel's name, as in /proc/self/mounts.
    """
    if file_system in ("tmpfs", "ramfs"):
        message = f"the database file is in memory ({file_system}) and is lost at a restart"
        yield fail(component, "disk", message, "Move it to a real disk, or use PostgreSQL.")
    elif file_system in ("overlay", "aufs"):
        message = "the database file is in the container's own layer and is lost with the container"
        yield warn(component, "disk", message, "Move it to a volume, or use PostgreSQL.")
    elif file_system.startswith(("nfs", "cifs", "smb", "9p", "fuse")):
        message = f"the database file is on a network or foreign file system ({file_system})"
        yield warn(
            component, "disk", message, "Move it to a local disk: SQLite cannot lock files everywhere."
        )
