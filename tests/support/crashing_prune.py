"""`rapidbridge prune`, ended by SIGKILL at a step: `python -m tests.support.crashing_prune STEP WORD...`."""

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from app.cli.prune import prune
from app.store import archive
from app.store import retention as pruning
from tests.support.crash_points import CrashPoint

STEPS: Mapping[str, Callable[[CrashPoint], None]] = {
    "archiving": lambda death: death.crash_before(archive, "_write_file"),
    "beside": lambda death: death.crash_before(Path, "replace"),
    "archived": lambda death: death.crash_before(pruning, "prune_bodies"),
    # Bodies are gone in a transaction that is not committed yet.
    "removing": lambda death: death.crash_after(pruning, "_lock_prunable"),
    "removed": lambda death: death.crash_after(pruning, "prune_bodies"),
}

if __name__ == "__main__":
    STEPS[sys.argv[1]](CrashPoint(signal.SIGKILL))
    prune(sys.argv[2:])
