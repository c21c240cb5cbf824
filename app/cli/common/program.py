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
    "deletes": ("app.cli.deletes", "List and approve the rows that full syncs no longer have."),
    "deliveries": ("app.cli.deliveries", "List, show, export and follow received deliveries."),
    "demo": ("app.cli.demo", "Simulate runs against a temporary receiver and compare every row."),
    "doctor": ("app.cli.doctor", "Check the installation and print how to fix every problem."),
    "erase": ("app.cli.erase", "Delete the data of one integrated account everywhere."),
    "files": ("app.cli.files", "Compact the files of a files sink."),
    "keys": ("app.cli.keys", "Make, list and rotate the keys that encrypt stored data."),
    "mcp": ("app.cli.mcp", "Serve the receiver to an agent, over the Model Context Protocol."),
    "migrate": ("app.cli.migrate", "Create or update the tables in DATABASE_URL."),
    "operations": ("app.cli.operations", "List, follow and cancel replays and discards."),
    "prune": ("app.cli.prune", "Delete the bodies of old, finished deliveries."),
    "replay": ("app.cli.replay", "Replay stored deliveries, through the current routes."),
    "routes": ("app.cli.routes", "Check the routes file, explain routes, and suggest columns."),
    "runs": ("app.cli.runs", "List, watch, reconcile, start and stop sync job runs."),
    "simulate": ("app.cli.simulate", "Send simulated sync job runs to a receiver."),
    "sinks": ("app.cli.sinks", "List, pause and resume the sinks of the routes file."),
    "support-bundle": (
        "app.cli.support_bundle",
        "Write a file that describes this installation, for a bug report.",
    ),
    "up": ("app.cli.up", "Start the web server, a worker and Valkey on this machine."),
    "webhook": ("app.cli.webhook", "Create, show and test the webhook at Truto."),
    "worker": ("app.cli.worker", "Write received deliveries to their sinks."),
}
_NAME = "rapidbridge"
_COMMAND_PATTERN = re.compile(rf"\b{_NAME} (?=({'|'.join(COMMANDS)})\b)")
# These find the receiver at PORT, or start it there.
_USES_PORT_PATTERN = re.compile(r"(up|simulate|doctor|webhook listen)\b")
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


def name_program(text: str, *, port: int | None = None) -> str:
    """Return a text whose `rapidbridge COMMAND` hints run as the user called the program.

    port: of the receiver that the commands have to find; None for PORT. Commands that use a port other than
    the default name it.
    """

    def name_command(match: re.Match[str]) -> str:
        prefix = ""
        if _USES_PORT_PATTERN.match(text, match.end()):
            in_force = _read_port()
            used = in_force if port is None else port
            prefix = "" if used == in_force == DEFAULT_PORT else f"PORT={used} "
        return f"{prefix}{program_name()} "

    return _COMMAND_PATTERN.sub(name_command, text)


def _read_port() -> int:
    # Loaded for a hint only: reading settings takes longer than listing the commands.
    from app.config.settings import read_environment  # noqa: PLC0415

    text = read_environment().get("PORT", "")
    return int(text) if text.isdecimal() else DEFAULT_PORT
