"""Checks of a server's URL: another machine, and a verified TLS connection. Pure."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from app.config.database_identity import list_hosts

_FALSE = ("0", "f", "false", "n", "no", "off")


def is_this_machine(host: str) -> bool:
    """Whether a host is a loopback address, or the folder of a socket. host: "" for the default socket."""
    if not host or host.startswith(("/", "@")) or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_plain_http(url: str) -> bool:
    """Whether a URL sends requests to another machine without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_this_machine(parts.hostname or "")


def is_unverified_database(url: str, variables: Mapping[str, str]) -> bool:
    """Whether a database on another machine could be replaced by somebody on the network.

    variables: of libpq, which apply if the URL has no such parameter.
    """
    hosts = list_hosts(url)
    parameters = {name: values[-1] for name, values in parse_qs(url.partition("?")[2]).items()}
    if url.startswith(("mysql", "mariadb")):
        default = "VERIFY_CA" if "ssl_ca" in parameters else "PREFERRED"
        is_verified = parameters.get("ssl_mode", default).upper().startswith("VERIFY_")
    else:
        hosts = [host or variables.get("PGHOST", "") for host in hosts]
        mode = parameters.get("sslmode", variables.get("PGSSLMODE", ""))
        # The server proves on this very TLS connection that it knows the password.
        binding = parameters.get("channel_binding", variables.get("PGCHANNELBINDING", ""))
        is_verified = mode in ("verify-ca", "verify-full") or binding == "require"
    return not is_verified and not all(map(is_this_machine, hosts))


def is_plain_redis(url: str) -> bool:
    """Whether a Redis on another machine is reached without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "redis" and not is_this_machine(parts.hostname or "")


def is_unverified_redis(url: str, *, tls_verify: bool) -> bool:
    """Whether a Redis with TLS may have any certificate."""
    parts = urlsplit(url)
    parameters = parse_qs(parts.query)
    is_verified = (
        tls_verify
        and parameters.get("ssl_cert_reqs", ["required"])[-1] == "required"
        and parameters.get("ssl_check_hostname", ["true"])[-1].lower() not in _FALSE
    )
    return parts.scheme == "rediss" and not is_verified


def is_unverified_warehouse(credentials: str) -> bool:
    """Whether the URL of a warehouse leads to another machine without verified TLS."""
    parts = urlsplit(credentials) if "://" in credentials else urlsplit("")
    parameters = {name: values[-1].lower() for name, values in parse_qs(parts.query).items()}
    if is_this_machine(parts.hostname or ""):
        return False
    if parts.scheme == "redshift":
        return parameters.get("sslmode") not in ("verify-ca", "verify-full")
    return parts.scheme == "clickhouse" and (
        parameters.get("secure") in _FALSE or parameters.get("verify") in _FALSE
    )
