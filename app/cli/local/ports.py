"""Free ports."""

import socket

from app.errors import ConfigError


def find_free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int, *, setting: str = "PORT") -> None:
    """Raise ConfigError where something listens on a port already, which would answer in our place.

    named: the setting or option that it comes from.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104  # as the web server will
        except OSError as error:
            problem = f"{setting}: {port} cannot be had ({error.strerror})."
            raise ConfigError([f"{problem} Stop what listens there, or set another."]) from error
