"""Check of the URL of Redis. No message quotes a value."""

import difflib
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

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


def check_redis_url(url: str) -> str:
    """Return a URL of Redis; raise ValueError for another scheme, several servers or an unknown parameter."""
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
    _check_parameters(url)
    return url


def _check_parameters(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("is malformed; percent-encode special characters in its password") from None
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
            kind(value)
        except ValueError:
            raise ValueError(f"has a parameter {name} that is no number; correct it") from None
