"""Counts with a limit: a page shows "10,000+" instead of reading a million rows."""

from typing import Any

from sqlalchemy import ScalarSelect, Select, func, select

COUNT_LIMIT = 10_000


def count_up_to(statement: Select[Any], *, limit: int = COUNT_LIMIT) -> ScalarSelect[int]:
    """Return the number of a statement's rows as an expression; `limit` + 1 stands for more."""
    return select(func.count()).select_from(statement.limit(limit + 1).subquery()).scalar_subquery()
