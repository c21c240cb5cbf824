"""`rapidbridge prune`, ended by SIGKILL at a step: `python -m tests.support.crashing_prune STEP WORD...`."""

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from app.cli.prune import prune
from app.store import archive, pruner
from app.store import retention as pruning
from tests.support.crash_points import Death

STEPS: Mapping[str, Callable[[Death], None]] = {
    "archiving": lambda death: death.before(archive, "_store"),
    "beside": lambda death: death.before(Path, "replace"),
    "archived": lambda death: death.before(pruner, "remove"),
    # Bodies are gone in a transaction that is not committed yet.
    "removing": lambda death: death.after(pruning, "_hold"),
    "removed": lambda death: death.after(pruner, "remove"),
}

if __name__ == "__main__":
    STEPS[sys.argv[1]](Death(signal.SIGKILL))
    prune(sys.argv[2:])
