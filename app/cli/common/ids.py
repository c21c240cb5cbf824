"""Ids as users type them: whole, or an unambiguous prefix."""

from collections.abc import Sequence
from typing import Any, NoReturn
from uuid import UUID

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import print_message
from app.cli.common.output import replace_control_chars
from app.store.id_prefixes import (
    MIN_PREFIX_DIGITS,
    UUID_DIGITS,
    find_delivery_ids,
    find_run_ids,
    read_id_digits,
)

_MAX_CANDIDATES = 5
_TOO_SHORT = f"pass a UUID, or at least its first {MIN_PREFIX_DIGITS} characters."


class DeliveryId(click.ParamType[UUID]):
    """A delivery's id; a shortened id is looked up in the database.

    Ends the command with exit code 1 if no delivery has the prefix, and with 2 if several have it.
    """

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> UUID:
        if isinstance(value, UUID):
            return value
        digits = read_id_digits(value)
        if len(digits) == UUID_DIGITS:
            return UUID(digits)
        if len(digits) < MIN_PREFIX_DIGITS:
            self.fail(_TOO_SHORT, param, ctx)
        database = open_interactive_database()
        try:
            ids = find_delivery_ids(database, digits, limit=_MAX_CANDIDATES + 1)
        finally:
            database.close()
        if len(ids) > 1:
            self.fail(_describe_candidates(value, list(map(str, ids))), param, ctx)
        if not ids:
            exit_not_found(value)
        return ids[0]


class RunId(click.ParamType[str]):
    """A sync job run's id; a shortened id of a run in the database is completed.

    Any other text stays as it is, unless `is_uuid`: Truto's API knows runs by their UUID only.
    """

    name = "id"

    def __init__(self, *, is_uuid: bool = False) -> None:
        self._is_uuid = is_uuid

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        digits = read_id_digits(value)
        if len(digits) == UUID_DIGITS:
            return str(UUID(digits))
        run_ids = self._find(value, digits) if len(digits) >= MIN_PREFIX_DIGITS else []
        if len(run_ids) > 1 and value not in run_ids:
            self.fail(_describe_candidates(value, run_ids), param, ctx)
        if not run_ids and self._is_uuid:
            self.fail("pass a UUID, or the first characters of a known run.", param, ctx)
        return run_ids[0] if len(run_ids) == 1 else str(value)

    def _find(self, value: str, digits: str) -> list[str]:
        database = open_interactive_database()
        try:
            return find_run_ids(database, digits, typed=value, limit=_MAX_CANDIDATES + 1)
        finally:
            database.close()


DELIVERY_ID = DeliveryId()
RUN_ID = RunId()
TRUTO_RUN_ID = RunId(is_uuid=True)


def exit_not_found(delivery_id: object) -> NoReturn:
    """Print that there is no such delivery, and end the command with exit code 1."""
    click.echo(f"There is no delivery {delivery_id} here.", err=True)
    raise click.exceptions.Exit(1)


def exit_run_not_found(run_id: str, context: click.Context) -> NoReturn:
    """Print that no event of a run was received, and end the command.

    The exit code is 1, or 2 if the text is too short for an id.
    """
    if len(run_id) < MIN_PREFIX_DIGITS:
        raise click.BadParameter(_TOO_SHORT, context, param_hint="'ID'")
    print_message(replace_control_chars(f"There is no run {run_id} here."))
    if is_uuid(run_id):
        print_message(f"To ask Truto, run: rapidbridge runs reconcile {run_id}")
    raise click.exceptions.Exit(1)


def is_uuid(text: str) -> bool:
    """Whether a text is a whole UUID, as the ids of Truto's runs are."""
    return len(read_id_digits(text)) == UUID_DIGITS


def parse_truto_ids(_context: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Check one or several ids of Truto's, for click; return them in Truto's spelling."""
    if isinstance(value, str):
        return _parse_truto_id(value)
    return tuple(map(_parse_truto_id, value or ()))


def _parse_truto_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not an id of Truto's: those are UUIDs.") from error


def _describe_candidates(prefix: str, ids: Sequence[str]) -> str:
    lines = [f"{prefix!r} is ambiguous: add more characters. Ids that begin with it:", *ids[:_MAX_CANDIDATES]]
    if len(ids) > _MAX_CANDIDATES:
        lines.append("…")
    return "\n  ".join(lines)
