"""A `prune` that is killed: `python -m tests.support.crashing_prune STEP OPTION...`."""

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from app.cli.prune import prune
from app.store import archive, retention
from tests.support.crash_points import CrashPoint

STEPS: Mapping[str, Callable[[CrashPoint], None]] = {
    "archiving": lambda point: point.crash_before(archive, "_write_file"),
    "beside": lambda point: point.crash_before(Path, "replace"),
    "archived": lambda point: point.crash_before(retention, "prune_bodies"),
    # The bodies are deleted in a transaction that is not committed yet.
    "removing": lambda point: point.crash_after(retention, "_lock_prunable"),
    "removed": lambda point: point.crash_after(retention, "prune_bodies"),
}

if __name__ == "__main__":
    STEPS[sys.argv[1]](CrashPoint(signal.SIGKILL))
    prune(sys.argv[2:])
