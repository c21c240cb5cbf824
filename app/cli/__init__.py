"""The `rapidbridge` command: one file a command group, loaded when it is used."""

from importlib import import_module

import click

from app.errors import ConfigError, TransientError

# Where each is, and what it is for: told here, so that a list of them loads none.
_COMMANDS = {
    "dead": ("app.cli.dead", "See to what did not reach its sinks."),
    "deliveries": ("app.cli.deliveries", "Look at what arrived, and what became of it."),
    "demo": ("app.cli.demo", "Prove it: everything started, played against, compared."),
    "erase": ("app.cli.erase", "Remove all of an integrated account."),
    "doctor": ("app.cli.doctor", "Say whether everything is set up, and what to do where it is not."),
    "migrate": ("app.cli.migrate", "Bring the tables up to date."),
    "prune": ("app.cli.prune", "Remove the bodies of old deliveries."),
    "replay": ("app.cli.replay", "Deliver again what was delivered, or is dead."),
    "runs": ("app.cli.runs", "Start and stop sync job runs at Truto."),
    "simulate": ("app.cli.simulate", "Play Truto against a receiver."),
    "up": ("app.cli.up", "Start everything on this machine."),
    "webhook": ("app.cli.webhook", "Create, look at and try out the webhook at Truto."),
    "worker": ("app.cli.worker", "Take deliveries to their sinks."),
}
EXIT_CONFIG_ERROR = 2
EXIT_UNREACHABLE = 3


class _LazyGroup(click.Group):
    """Imports a command's file only when it is asked for, and turns our errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command = getattr(import_module(module), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{cmd_name} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in sorted(_COMMANDS.items())])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for problem in error.problems:
                click.echo(problem, err=True)
            ctx.exit(EXIT_CONFIG_ERROR)
        except TransientError as error:
            click.echo(str(error), err=True)
            ctx.exit(EXIT_UNREACHABLE)


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rapidbridge-receiver")
def main() -> None:
    """Receive the webhooks of Truto's RapidBridge and land every record in your own stores.

    Settings are read from the environment, and from a .env file in the working folder.
    Exit codes: 0 fine, 1 the answer is bad news, 2 wrong usage or configuration, 3 something needed cannot
    be reached.
    """
