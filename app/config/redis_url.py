"""Check of the URL of Redis. No message quotes a value."""

import difflib
import math
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, urlsplit

_SCHEMES = ("redis", "rediss", "unix")
# Parameters of redis-py and the types of their values. Written out, because gunicorn reads the settings
# before gevent patches the modules that redis-py imports.
REDIS_PARAMETERS: Mapping[str, type[str | int | float]] = {
    "client_name": str,
    "db": int,
    "health_check_interval": int,
    "max_connections": int,
    "password": str,
    "protocol": int,
    "socket_connect_timeout": float,
    "socket_keepalive": str,
    "socket_timeout": float,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_cert_reqs": str,
    "ssl_certfile": str,
    "ssl_check_hostname": str,
    "ssl_ciphers": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "username": str,
}
_ONE_SERVER = "set the URL of one server, or of a proxy that follows the primary, as redis:// or rediss://"
_MALFORMED = (
    "is malformed; write redis://:PASSWORD@HOST:6379/0, and percent-encode special characters in the "
    "password: %2F for /, %3F for ?, %23 for #, %40 for @"
)


def check_redis_url(url: str) -> str:
    """Return a URL of Redis; raise ValueError if the client would refuse it or ignore a part of it."""
    scheme, _, rest = url.partition("://")
    for kind in ("cluster", "sentinel"):
        if kind in scheme.lower():
            raise ValueError(f"names a Redis {kind.capitalize()}, which is not supported; {_ONE_SERVER}")
    if scheme not in _SCHEMES:
        raise ValueError(
            "does not start with redis://, rediss:// or unix://; set the URL of a Redis or Valkey server"
        )
    if scheme != "unix" and "," in re.split("[/?]", rest.rpartition("@")[2])[0]:
        raise ValueError(f"names several servers, which is not supported; {_ONE_SERVER}")
    parts = _split_url(url)
    if scheme == "unix":
        _check_socket(parts)
    else:
        _check_server(parts)
    _check_parameters(parts)
    return url


def _split_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # The parser's error quotes a part of the password.
        raise ValueError(_MALFORMED) from None
    # A rest of the password: the parser ended the login too early.
    if "#" in url or "@" in parts.query or (parts.scheme != "unix" and "@" in parts.path):
        raise ValueError(_MALFORMED)
    return parts


def _check_socket(parts: SplitResult) -> None:
    if len(parts.path) < 2 or parts.netloc.rpartition("@")[2]:
        raise ValueError("names no socket; write unix:///PATH, with three slashes")


def _check_server(parts: SplitResult) -> None:
    if not parts.hostname or " " in parts.hostname:
        raise ValueError(f"names no host; write {parts.scheme}://HOST:6379/0")
    if parts.port == 0:
        raise ValueError("has the port 0; use the port of the server, 6379 by default")
    # The client ignores a database that is no number, and uses database 0.
    if not re.fullmatch(r"/?|/[0-9]{1,5}/?", parts.path):
        raise ValueError(f"has a database that is no number; write {parts.scheme}://HOST:6379/0")


def _check_parameters(parts: SplitResult) -> None:
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        kind = REDIS_PARAMETERS.get(name)
        if kind is None:
            near = difflib.get_close_matches(name, REDIS_PARAMETERS, n=1)
            hint = f"use {near[0]}" if near else f"use one of: {', '.join(REDIS_PARAMETERS)}"
            raise ValueError(f"has the unknown parameter {name[:40]}; {hint}")
        if name.startswith("ssl_") and parts.scheme != "rediss":
            raise ValueError(f"has the parameter {name} without TLS; use rediss://, or remove {name}")
        if name == "socket_keepalive" and parts.scheme == "unix":
            raise ValueError("has the parameter socket_keepalive without TCP; remove it")
        try:
            is_valid = kind is str or 0 <= float(kind(value)) < math.inf
        except ValueError:
            is_valid = False
        if not is_valid:
            raise ValueError(f"has a parameter {name} that is no number from 0 up; correct it")
