"""The commands of `rapidbridge`, and the parsing of their words without running them."""

from collections.abc import Iterator, Sequence

import click

from app.cli import main


def _list_commands(group: click.Group, *prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _list_commands(command, *prefix, name)
        else:
            yield " ".join((*prefix, name)), command


assert isinstance(main, click.Group)
# Every command that does something, by its full name.
COMMANDS = dict(_list_commands(main))


def get_options(name: str) -> set[str]:
    """Return the options of a command, by its full name."""
    parameters = COMMANDS[name].params
    options = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    return {*options, "--help", "-h"}


def find_command(words: Sequence[str]) -> str | None:
    """Return the longest name of a command that the words begin with."""
    names = (" ".join(words[:length]) for length in (2, 1))
    return next((name for name in names if name in COMMANDS), None)


def parse_command(words: Sequence[str]) -> None:
    """Parse the words after `rapidbridge` as the command does: options, values and required arguments.

    Files that the command reads must exist. Raises click.UsageError.
    """
    name = find_command(words)
    if name is None:
        raise click.UsageError(f"there is no command {' '.join(words[:2])!r}")
    arguments = [word for word in words[len(name.split()) :] if word not in ("--help", "-h")]
    COMMANDS[name].make_context(name, arguments).close()
