"""Counts with a limit: a page shows "10,000+" instead of reading a million rows."""

from typing import Any

from sqlalchemy import ScalarSelect, Select, func, select

COUNT_LIMIT = 10_000


def count_up_to(statement: Select[Any]) -> ScalarSelect[int]:
    """Return the number of a statement's rows as an expression; COUNT_LIMIT + 1 stands for more."""
    return select(func.count()).select_from(statement.limit(COUNT_LIMIT + 1).subquery()).scalar_subquery()
