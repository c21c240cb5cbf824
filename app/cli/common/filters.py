"""Filters of deliveries: the same options for every command that has them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from app.cli.common.ids import DELIVERY_ID, RUN_ID
from app.cli.common.suggestions import SuggestingChoice, check_reason
from app.cli.common.times import parse_time_option
from app.store.delivery_filter import DeliveryFilter
from app.store.failures import FAILED_STATES
from app.store.models import DeliveryState

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class FilterOption(click.Option):
    """An option that help lists under "Filters"."""


class FilterCommand(click.Command):
    """A command whose help lists its own options and the shared filters apart."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, is_filter in (("Options", False), ("Filters (all given must match)", True)):
            records = [
                record
                for parameter in self.get_params(ctx)
                if isinstance(parameter, click.Option)
                and isinstance(parameter, FilterOption) == is_filter
                and (record := parameter.get_help_record(ctx))
            ]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def make_filter_options(states: Sequence[str] = tuple(DeliveryState)) -> Callable[[CommandT], CommandT]:
    """Return a decorator that adds the filters; `build_delivery_filter` takes their values.

    states: accepted by --state. The command's class must be FilterCommand.
    """
    options = [
        _filter_option(
            "--id",
            "ids",
            multiple=True,
            type=DELIVERY_ID,
            metavar="ID",
            help="A delivery's id, or its first characters. Repeatable.",
        ),
        _filter_option(
            "--run",
            "sync_job_run_id",
            type=RUN_ID,
            metavar="ID",
            help="A sync job run's id, or its first characters.",
        ),
        _filter_option("--job", "sync_job_id", metavar="ID", help="A sync job's id."),
        _filter_option(
            "--account", "integrated_account_id", metavar="ID", help="An integrated account's id."
        ),
        _filter_option("--environment", "environment_id", metavar="ID", help="A Truto environment's id."),
        _filter_option("--webhook", "webhook_id", metavar="ID", help="The id of the receiving webhook."),
        _filter_option("--event", metavar="NAME", help="An event's name; * matches any text."),
        _filter_option("--resource", metavar="NAME", help="A resource, such as 'crm/*'."),
        _filter_option("--method", metavar="NAME", help="A method, such as list."),
        _filter_option(
            "--state",
            "states",
            multiple=True,
            # Texts, because click takes the name of an enum's member, not its value.
            type=SuggestingChoice([str(state) for state in states]),
            metavar="STATE",
            help=f"A delivery's state. Repeatable: {', '.join(states)}.",
        ),
        _filter_option(
            "--reason",
            metavar="CODE",
            callback=check_reason,
            help="The reason code of a state, such as no_route.",
        ),
        _filter_option(
            "--since",
            metavar="TIME",
            callback=parse_time_option,
            help="Received at or after: 12h, 7d, 2026-11-25T08:00.",
        ),
        _filter_option("--until", metavar="TIME", callback=parse_time_option, help="Received before."),
    ]

    def add_options(command: CommandT) -> CommandT:
        for option in reversed(options):
            command = option(command)
        return command

    return add_options


def _filter_option(*names: str, **settings: Any) -> Callable[[CommandT], CommandT]:
    is_time = settings.get("callback") is parse_time_option
    default = {} if settings.get("multiple") or is_time else {"default": ""}
    return click.option(*names, cls=FilterOption, **default, **settings)


filter_options = make_filter_options()
failure_filter_options = make_filter_options(FAILED_STATES)


def build_delivery_filter(options: dict[str, Any], **more: Any) -> DeliveryFilter:
    """Return the filter that options describe. options: a command's keywords; filters are removed from it."""
    names = DeliveryFilter.__dataclass_fields__.keys() & options.keys()
    return DeliveryFilter(**{name: options.pop(name) for name in names}, **more)
