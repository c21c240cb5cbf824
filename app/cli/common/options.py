"""The options by which commands choose deliveries; the same for all of them."""

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

import click

from app.cli.common.times import parse_time_option
from app.store.delivery_filter import DeliveryFilter
from app.store.models import DeliveryState

DELIVERY_STATES = tuple(state.value for state in DeliveryState)
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _parse_ids(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> tuple[UUID, ...]:
    try:
        return tuple(UUID(text) for text in value)
    except ValueError as error:
        raise click.BadParameter("a delivery's id is a UUID, as the answer to its POST names it.") from error


_FILTER_OPTIONS = (
    click.option(
        "--id", "ids", multiple=True, callback=_parse_ids, help="This delivery; may be given several times."
    ),
    click.option("--run", "sync_job_run_id", default="", help="Those of this sync job run."),
    click.option("--job", "sync_job_id", default="", help="Those of this sync job."),
    click.option("--account", "integrated_account_id", default="", help="Those of this integrated account."),
    click.option("--environment", "environment_id", default="", help="Those of this environment."),
    click.option("--webhook", "webhook_id", default="", help="Those that came by this webhook."),
    click.option("--event", default="", help="Those of this event; * matches anything."),
    click.option("--resource", default="", help="Those of this resource; * matches anything."),
    click.option("--method", default="", help="Those of this method."),
    click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice(DELIVERY_STATES),
        help="Those in this state; may be given several times.",
    ),
    click.option("--reason", default="", help="Those that are in their state for this reason."),
    click.option(
        "--since", callback=parse_time_option, help="Those that came since then: 12h, 7d, 2026-11-25T08:00."
    ),
    click.option("--until", callback=parse_time_option, help="Those that came before then."),
)


def filter_options(command: CommandT) -> CommandT:
    """Give a command the options; it takes them as keywords, for `selection_of`."""
    for option in reversed(_FILTER_OPTIONS):
        command = option(command)
    return command


def build_delivery_filter(options: dict[str, Any], **more: Any) -> DeliveryFilter:
    """Return what the options choose. options: a command's keywords, of which these are taken out."""
    names = DeliveryFilter.__dataclass_fields__.keys() & options.keys()
    return DeliveryFilter(**{name: options.pop(name) for name in names}, **more)
