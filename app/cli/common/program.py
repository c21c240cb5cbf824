"""The program's name, version and commands."""

import re
import shlex
import shutil
import sys
from pathlib import Path

DEFAULT_PORT = 8000
# The module of each command and its summary. Listing the commands imports none of them.
COMMANDS = {
    "dead": ("app.cli.dead", "List, replay and discard deliveries and records that failed."),
    "deliveries": ("app.cli.deliveries", "List, show, export and follow received deliveries."),
    "demo": ("app.cli.demo", "Simulate runs against a temporary receiver and compare every row."),
    "doctor": ("app.cli.doctor", "Check the installation and print how to fix every problem."),
    "erase": ("app.cli.erase", "Delete the data of one integrated account everywhere."),
    "migrate": ("app.cli.migrate", "Create or update the tables in DATABASE_URL."),
    "prune": ("app.cli.prune", "Delete the bodies of old, finished deliveries."),
    "replay": ("app.cli.replay", "Replay stored deliveries, through the current routes."),
    "runs": ("app.cli.runs", "List, watch, reconcile, start and stop sync job runs."),
    "simulate": ("app.cli.simulate", "Send simulated sync job runs to a receiver."),
    "up": ("app.cli.up", "Start the web server, a worker and Valkey on this machine."),
    "webhook": ("app.cli.webhook", "Create, show and test the webhook at Truto."),
    "worker": ("app.cli.worker", "Write received deliveries to their sinks."),
}
_NAME = "rapidbridge"
_COMMAND_PATTERN = re.compile(rf"\b{_NAME} (?=({'|'.join(COMMANDS)})\b)")
_MAIN_FILE = Path(__file__).resolve().parents[1] / "__main__.py"


def program_name() -> str:
    """Return the words that start the program again, as the user typed them."""
    path = Path(sys.argv[0])
    if path.name == _MAIN_FILE.name and path.resolve() == _MAIN_FILE:
        return f"{shlex.quote(sys.orig_argv[0])} -m app.cli"
    # A program found in the PATH gets its whole path as its name.
    if path.name != _NAME or shutil.which(_NAME) == sys.argv[0]:
        return _NAME
    return shlex.quote(sys.argv[0])


def name_program(text: str, *, port: int = DEFAULT_PORT) -> str:
    """Return a text whose `rapidbridge COMMAND` hints run as the user called the program.

    port: of the receiver that the commands have to find; a port other than the default is named in them.
    """
    prefix = "" if port == DEFAULT_PORT else f"PORT={port} "
    # A function, because a replacement text must not contain backslashes.
    return _COMMAND_PATTERN.sub(lambda _: f"{prefix}{program_name()} ", text)
