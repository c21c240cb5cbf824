"""Commands with a host name and process ids of their own, as containers have them."""

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

# A shell is process 1: as process 1, the command itself would ignore signals without a handler.
_SET_HOST_NAME_AND_RUN = 'hostname "$0" && "$@"; exit $?'


def build_container_command(command: Sequence[str], host_name: str) -> list[str]:
    """Return a command that runs another in namespaces; the signals are sent to the child of its child."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    isolation = ["--pid", "--mount-proc", "--uts", "--fork", "--kill-child", *as_root]
    return ["unshare", *isolation, "sh", "-c", _SET_HOST_NAME_AND_RUN, host_name, *command]


@cache
def can_run_containers() -> bool:
    """Whether this machine lets this user create namespaces."""
    try:
        result = subprocess.run(
            build_container_command(["true"], "worker"), capture_output=True, timeout=20, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def find_pid_in_container(pid: int) -> int:
    """Return the id that a process has in its own container."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("NSpid:"))
