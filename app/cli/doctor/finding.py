"""What a check found, and what to do about it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["green", "yellow", "red"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    room: what it is about: settings, store, redis, a sink. check: a stable word. level: yellow works, but may
    turn out badly; red does not work, or loses deliveries. advice: what to do, "" where all is well.
    """

    room: str
    check: str
    level: Level
    message: str
    advice: str = ""


def green(room: str, check: str, message: str) -> Finding:
    """All is well."""
    return Finding(room, check, "green", message)


def yellow(room: str, check: str, message: str, advice: str) -> Finding:
    """It works, but may turn out badly."""
    return Finding(room, check, "yellow", message, advice)


def red(room: str, check: str, message: str, advice: str) -> Finding:
    """It does not work, or loses deliveries."""
    return Finding(room, check, "red", message, advice)


_MIB = 1024 * 1024
_RED_BYTES = 256 * _MIB
_YELLOW_BYTES = 2048 * _MIB
_SLOW_S = 0.05


def judge_room(room: str, free_bytes: int) -> Finding:
    """Say whether a disk has room."""
    message = f"{free_bytes // _MIB:,} MiB are free"
    if free_bytes < _RED_BYTES:
        return red(room, "room", message, "Make room, or move it to a larger disk: a full one takes nothing.")
    if free_bytes < _YELLOW_BYTES:
        return yellow(room, "room", message, "Plan for more: deliveries are kept with their bodies.")
    return green(room, "room", message)


def judge_latency(room: str, latency_s: float) -> Finding:
    """Say whether a server answers soon enough."""
    message = f"answers in {latency_s * 1000:.1f} ms"
    if latency_s <= _SLOW_S:
        return green(room, "latency", message)
    return yellow(room, "latency", message, "Bring it nearer: each delivery waits for it, and Truto with it.")


def judge_file_system(room: str, kind: str) -> Iterator[Finding]:
    """Say whether what is on a file system will be there tomorrow. kind: as the kernel names it."""
    if kind in ("tmpfs", "ramfs"):
        message = f"its file lies in memory ({kind}): it is gone after a restart"
        yield red(room, "disk", message, "Put it on a real disk, or use PostgreSQL.")
    elif kind in ("overlay", "aufs"):
        message = "its file lies in a container's own layer: it is gone with the container"
        yield yellow(room, "disk", message, "Put it on a volume, or use PostgreSQL.")
    elif kind.startswith(("nfs", "cifs", "smb", "9p", "fuse")):
        message = f"its file lies on a shared or foreign file system ({kind})"
        yield yellow(room, "disk", message, "Put it on a local disk: SQLite cannot lock everywhere.")
