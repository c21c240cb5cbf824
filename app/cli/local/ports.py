"""TCP ports: a free one, and a check that one is free."""

import socket

from app.config.operating_system import bind_address, list_wildcard_addresses
from app.errors import ConfigError


def find_free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int, *, setting: str = "PORT") -> None:
    """Raise ConfigError if another process listens on a port: it would answer instead of the receiver.

    setting: the setting or option that the port comes from.
    """
    for address in list_wildcard_addresses():
        # As the web server does.
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bind_address(probe, address, port)
            except OSError as error:
                problem = f"{setting}: {port} is not available ({error.strerror})."
                raise ConfigError(
                    [f"{problem} Stop the process that uses it, or set another port."]
                ) from error
