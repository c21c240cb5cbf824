"""Whether somebody is there to be sent to."""

import sys

import click
import httpx

from app.cli import EXIT_UNREACHABLE


def require_reachable(url: str) -> None:
    """Return if anybody answers there, whatever it says; end with 3 otherwise."""
    try:
        httpx.head(url, trust_env=False)
    except (httpx.TransportError, httpx.InvalidURL):
        click.echo(f"Nobody answers at {url}. Is the receiver up? Start it with: rapidbridge up", err=True)
        sys.exit(EXIT_UNREACHABLE)
