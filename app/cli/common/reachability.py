"""Check that a receiver answers before anything is sent to it."""

import sys

import click
import httpx

from app.cli import EXIT_UNREACHABLE
from app.cli.common.program import DEFAULT_PORT, name_program
from app.http_client import open_http_client, send

_TIMEOUT_S = 5.0
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def require_reachable(url: str) -> None:
    """Return if a server answers at the URL, with any status; otherwise end the command with exit code 3."""
    try:
        with open_http_client(allow_private=True, trust_env=False) as client:
            send(client, "HEAD", url, timeout_s=_TIMEOUT_S, max_bytes=None)
    except (httpx.TransportError, httpx.InvalidURL):
        hint = (
            f"No server answers at {url}.\nIf it runs elsewhere, for example with another PORT, name that "
            "address instead.\nStart the receiver: rapidbridge up"
        )
        click.echo(name_program(hint, port=_read_local_port(url)), err=True)
        sys.exit(EXIT_UNREACHABLE)


def _read_local_port(url: str) -> int:
    """Return the port at which `up` would have to listen for a URL."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return DEFAULT_PORT
    return address.port or DEFAULT_PORT if address.host in _LOCAL_HOSTS else DEFAULT_PORT
