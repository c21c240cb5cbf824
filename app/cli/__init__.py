"""The `rapidbridge` command: loads a command's module when the command is used."""

import difflib
from importlib import import_module
from typing import Any

import click

from app.cli.common.messages import format_message, print_message
from app.cli.common.program import COMMANDS, program_name
from app.cli.common.streams import (
    describe_os_error,
    escape_unencodable,
    exit_with_error,
    is_color_refused,
)
from app.config.operating_system import keep_new_files_private
from app.config.version import VERSION
from app.errors import ConfigError, TransientError

# Below it, `tune` would be taken for `prune`.
_SIMILARITY = 0.7
EXIT_CONFIG_ERROR = 2
EXIT_UNREACHABLE = 3


class _MainGroup(click.Group):
    """Imports a command's module on use, and turns this project's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), cmd_name.replace("-", "_"))
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{cmd_name} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # click suggests a command only among those that are loaded.
            similar = _find_similar(error.command_name)
            raise click.NoSuchCommand(error.command_name, possibilities=similar, ctx=ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if parent is None and is_color_refused():
            extra["color"] = False
        # Usage and hints need the whole name; shell completion registers the short one, which click passes.
        return super().make_context(program_name() if info_name else None, args, parent, **extra)

    def main(self, *args: Any, **options: Any) -> Any:
        escape_unencodable()
        try:
            return super().main(*args, **options)
        except OSError as error:
            message = describe_os_error(error)
            if message is None:
                raise
            exit_with_error(format_message(message))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                print_message(problem)
            ctx.exit(EXIT_CONFIG_ERROR)
        except TransientError as error:
            print_message(str(error))
            ctx.exit(EXIT_UNREACHABLE)
        except click.ClickException as error:
            message = format_message(error.format_message(), prefix="Error: ")
            error.format_message = lambda: message  # type: ignore[method-assign]  # shown by click later
            raise


def _find_similar(name: str) -> list[str]:
    """Return the commands that a misspelt one may mean: a singular, a plural, or a close match."""
    by_prefix = [command for command in COMMANDS if command.startswith(name) or name.startswith(command)]
    return by_prefix or difflib.get_close_matches(name, COMMANDS, cutoff=_SIMILARITY)


@click.command(cls=_MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="rapidbridge")
def main() -> None:
    """Receive the webhooks of Truto's RapidBridge and write every record to your own databases and files.

    Settings are read from the environment and from a .env file in the working directory.

    Exit codes: 0 success, 1 problems found, 2 wrong usage or configuration, 3 a service cannot be reached.
    """


def run() -> None:
    """Run the program. Files that it creates are private."""
    keep_new_files_private()
    main(prog_name="rapidbridge")
