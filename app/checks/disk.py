"""What lies beneath a folder: how much room, and which file system."""

import shutil
from pathlib import Path


def find_existing_folder(folder: Path) -> Path:
    """Return a folder, or the one in which it would be created."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def read_free_bytes(folder: Path) -> int:
    """Return how much can still be written."""
    return shutil.disk_usage(find_existing_folder(folder)).free


def read_file_system(folder: Path) -> str:
    """Return the kernel's name of the file system; "" where the kernel is not Linux."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    place = find_existing_folder(folder).resolve()
    mounts = [(Path(words[1].replace("\\040", " ")), words[2]) for words in map(str.split, lines)]
    over = [
        (len(mount.parts), number, kind)
        for number, (mount, kind) in enumerate(mounts)
        if place.is_relative_to(mount)
    ]
    # Of several at one place, the last one is seen.
    return max(over)[2] if over else ""
