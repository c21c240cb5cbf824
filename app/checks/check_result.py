"""What a check found, and what to do about it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

CheckLevel = Literal["green", "yellow", "red"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the doctor's.

    room: what it is about: settings, store, redis, a sink. check: a stable word. level: yellow works, but may
    turn out badly; red does not work, or loses deliveries. advice: what to do, "" where all is well.
    """

    component: str
    check: str
    level: CheckLevel
    message: str
    advice: str = ""


def ok(component: str, check: str, message: str) -> CheckResult:
    """All is well."""
    return CheckResult(component, check, "green", message)


def warn(component: str, check: str, message: str, advice: str) -> CheckResult:
    """It works, but may turn out badly."""
    return CheckResult(component, check, "yellow", message, advice)


def fail(component: str, check: str, message: str, advice: str) -> CheckResult:
    """It does not work, or loses deliveries."""
    return CheckResult(component, check, "red", message, advice)


_MIB = 1024 * 1024
_FAIL_BYTES = 256 * _MIB
_WARN_BYTES = 2048 * _MIB
_SLOW_S = 0.05


def evaluate_free_space(component: str, free_bytes: int) -> CheckResult:
    """Say whether a disk has room."""
    message = f"{free_bytes // _MIB:,} MiB are free"
    if free_bytes < _FAIL_BYTES:
        return fail(
            component, "room", message, "Make room, or move it to a larger disk: a full one takes nothing."
        )
    if free_bytes < _WARN_BYTES:
        return warn(component, "room", message, "Plan for more: deliveries are kept with their bodies.")
    return ok(component, "room", message)


def evaluate_latency(component: str, latency_s: float) -> CheckResult:
    """Say whether a server answers soon enough."""
    message = f"answers in {latency_s * 1000:.1f} ms"
    if latency_s <= _SLOW_S:
        return ok(component, "latency", message)
    return warn(
        component, "latency", message, "Bring it nearer: each delivery waits for it, and Truto with it."
    )


def evaluate_file_system(component: str, kind: str) -> Iterator[CheckResult]:
    """Say whether what is on a file system will be there tomorrow. kind: as the kernel names it."""
    if kind in ("tmpfs", "ramfs"):
        message = f"its file lies in memory ({kind}): it is gone after a restart"
        yield fail(component, "disk", message, "Put it on a real disk, or use PostgreSQL.")
    elif kind in ("overlay", "aufs"):
        message = "its file lies in a container's own layer: it is gone with the container"
        yield warn(component, "disk", message, "Put it on a volume, or use PostgreSQL.")
    elif kind.startswith(("nfs", "cifs", "smb", "9p", "fuse")):
        message = f"its file lies on a shared or foreign file system ({kind})"
        yield warn(component, "disk", message, "Put it on a local disk: SQLite cannot lock everywhere.")
