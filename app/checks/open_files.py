"""Check of the limit on open files."""

import resource
from collections.abc import Iterator

from app.checks.check_result import CheckResult, ok, warn
from app.config.operating_system import (
    MAX_CONNECTIONS,
    compute_max_connections,
    compute_max_files,
    compute_needed_files,
    list_wildcard_addresses,
)

_COMPONENT = "web"
_CHECK = "files"


def check_open_files() -> Iterator[CheckResult]:
    """Check the limit of this machine and user; the web process raises its soft limit by itself."""
    max_files = compute_max_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield evaluate_open_files(max_files, listeners=len(list_wildcard_addresses()))


def evaluate_open_files(max_files: int, *, listeners: int) -> CheckResult:
    """Return whether a web process can serve all its connections."""
    connections = compute_max_connections(max_files, listeners=listeners)
    if connections == MAX_CONNECTIONS:
        return ok(_COMPONENT, _CHECK, f"{max_files} open files, {connections} connections in a web process")
    needed = compute_needed_files(listeners=listeners)
    message = f"{max_files} open files: a web process serves {connections} connections, not {MAX_CONNECTIONS}"
    advice = (
        f"Raise the hard limit where the receiver starts, as root: ulimit -n {needed} "
        f"(Docker: --ulimit nofile={needed}; systemd: LimitNOFILE={needed})."
    )
    return warn(_COMPONENT, _CHECK, message, advice)
