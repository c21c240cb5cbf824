"""Files, rights, signals, a heartbeat folder and addresses of a process."""

import os
import resource
import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

MAX_CONNECTIONS = 256
# Other files of a process: listeners, logs, the event loop, the database, Redis, and modules being imported.
_OTHER_FILES = 96
# More are of no use, and some systems allow a billion.
_MAX_FILES = 4096
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def compute_max_files(soft: int, hard: int) -> int:
    """Return the open files that a process may have once its soft limit is raised.

    soft, hard: as returned by resource.getrlimit; they may be RLIM_INFINITY.
    """
    soft_files, hard_files = (
        _MAX_FILES if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)
    )
    return max(soft_files, min(hard_files, _MAX_FILES))


def raise_max_files() -> int:
    """Raise the soft limit of this process and its children as far as it is of use; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    max_files = compute_max_files(soft, hard)
    if soft != resource.RLIM_INFINITY and soft < max_files:
        # The kernel may have a limit of its own, as on macOS.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, hard))
            return max_files
        return soft
    return max_files


def compute_max_connections(max_files: int, *, listeners: int = 1) -> int:
    """Return the clients that a web process serves at once on each listener; at least 1."""
    return max(1, min(MAX_CONNECTIONS, (max_files - _OTHER_FILES) // listeners))


def compute_needed_files(*, listeners: int) -> int:
    """Return the open files that a web process needs for MAX_CONNECTIONS on each listener."""
    return MAX_CONNECTIONS * listeners + _OTHER_FILES


def keep_new_files_private() -> None:
    """Create files and folders of this process and its children with rights for their owner only."""
    os.umask(0o077)


def hold_stop_signals_in_forks() -> None:
    """Hold the signals that stop a process until each new fork of this one calls `release_stop_signals`.

    Until a fork has handlers of its own, it would take a signal with those of its parent, and lose it.
    """
    # Of a program that was executed by a fork before its release.
    release_stop_signals()
    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS),
        after_in_parent=release_stop_signals,
    )


def release_stop_signals() -> None:
    """Receive the signals that stop this process, also those that arrived before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


def find_heartbeat_folder(memory_folder: Path = Path("/dev/shm")) -> Path | None:  # noqa: S108
    """Return a writable folder for gunicorn's heartbeat files, in memory if possible; None if there is none.

    On a disk, a heartbeat can block a process for seconds.
    """
    if memory_folder.is_dir() and os.access(memory_folder, os.W_OK | os.X_OK):
        return memory_folder
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return None


def list_wildcard_addresses() -> list[str]:
    """Return the addresses for all interfaces: IPv4, and IPv6 if this machine has it."""
    return ["0.0.0.0", *(["::"] if _has_ipv6() else [])]  # noqa: S104  # a server for the public


def bind_address(listener: socket.socket, address: str, port: int) -> None:
    """Bind a socket to an address; "::" leaves the IPv4 addresses to another socket."""
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            bind_address(probe, "::", 0)
    except OSError:
        return False
    return True
