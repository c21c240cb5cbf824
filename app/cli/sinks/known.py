"""The argument of commands about one sink."""

import click

from app.cli.common.suggestions import suggest
from app.config.load import Config


def check_sink_name(config: Config, name: str) -> None:
    """Raise click.BadParameter, with the known names, for a sink that the routes do not name."""
    known = sorted(config.routes.sinks)
    if name not in known:
        shown = ", ".join(known) or "none"
        message = f"no sink named {name}; known: {shown}.{suggest(name, known)}"
        raise click.BadParameter(message, param_hint="NAME")
