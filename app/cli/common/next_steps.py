"""Commands for the next step after a failure, as lines that can be pasted."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from uuid import UUID

from app.cli.common.messages import LINE_WIDTH
from app.cli.common.program import name_program
from app.store.models import DeliveryState
from app.store.reasons import RECORD, Reason, explain

_CODE_PATTERN = re.compile(r"\w{1,40}")
_INDENT = "    "
_MAX_RULES = 5
# The same as `build_default_routes`.
_DEFAULT_ROUTES = (
    "[sinks.main]",
    'type = "sql"',
    'url = "$DATABASE_URL"',
    "[[routes]]",
    'sinks = ["main"]',
)
# Their remedy is a change of the routes file, which workers read at their start.
_ROUTE_REASONS = (
    Reason.NO_ROUTE,
    Reason.NO_KEY,
    Reason.NO_ACCOUNT,
    Reason.TABLE_RESERVED,
    Reason.TABLE_TAKEN,
    Reason.TABLE_COLLISION,
)


def account_rule_lines(webhook_ids: Sequence[str], *, has_routes_file: bool) -> Iterator[str]:
    """Yield the lines of the routes file that name the accounts of these webhooks."""
    if not has_routes_file:
        yield "There is no routes file. Create routes.toml with the default routes:"
        yield from (f"{_INDENT}{line}" for line in _DEFAULT_ROUTES)
    if known_ids := [webhook_id for webhook_id in webhook_ids if webhook_id][:_MAX_RULES]:
        yield "If a webhook serves one account, add to the routes file:"
        for webhook_id in known_ids:
            yield f"{_INDENT}[[webhooks]]"
            yield f"{_INDENT}id = {json.dumps(webhook_id)}"
            yield f'{_INDENT}account = "the integrated account"'
    yield "If the records name their account, add its place to the route:"
    yield f'{_INDENT}account = "path.in.the.record"'
    yield "If you have a single customer, add an empty text:"
    yield f'{_INDENT}account = ""'


def group_command_lines(state: str, reason: str, example: UUID) -> Iterator[str]:
    """Yield the command for a group of failures. state: of the deliveries, or RECORD. example: a delivery."""
    if _CODE_PATTERN.fullmatch(reason):
        selection = f"--reason {reason}"
    else:
        # A reason of another shape is not safe to paste.
        selection = f"--id {example}" if state == RECORD else f"--state {state}"
    yield from _command_lines(state, reason, selection, example)


def delivery_command_lines(state: str, reason: str, delivery_id: UUID) -> Iterator[str]:
    """Yield the command for one failed delivery; nothing for other deliveries."""
    yield from _command_lines(state, reason, f"--id {delivery_id}", delivery_id)


def _command_lines(state: str, reason: str, selection: str, example: UUID) -> Iterator[str]:
    advice = explain(state, reason).advice
    if not advice or state == DeliveryState.PENDING:
        return
    if "replay" in advice:
        is_about_route = reason in _ROUTE_REASONS or (state, reason) == (RECORD, Reason.NOT_OBJECT)
        yield "Change the route, restart the workers, then run:" if is_about_route else "Run:"
        of_records = "--records " if state == RECORD else ""
        yield from _wrap_command(f"rapidbridge dead replay {of_records}{selection}")
    elif "inspect" in advice:
        yield "Inspect an example:"
        command = "dead show {} --raw" if state == RECORD else "deliveries show {} --body"
        yield from _wrap_command(f"rapidbridge {command.format(example)}")
    else:
        yield "Run:"
        because = shlex.quote(explain(state, reason).meaning)
        yield from _wrap_command(f"rapidbridge dead discard {selection} --because {because}")


def _wrap_command(command: str) -> Iterator[str]:
    """Yield a command, continued with backslashes before its arguments if it is too long."""
    line = _INDENT
    first, *arguments = re.split(r" (?=--|[0-9a-f]{8}-)", name_program(command))
    line += first
    for argument in arguments:
        if len(line) + len(argument) + len(" ") + len(r" \ ") > LINE_WIDTH:
            yield line + " \\"
            line = _INDENT + "  " + argument
        else:
            line += f" {argument}"
    yield line
