"""Counts with a limit: a page shows "10,000+" instead of reading a million rows."""

from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import ScalarSelect, Select, func, select

from app.plural import format_count

COUNT_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class BoundedCount:
    """A count that stops at a limit. is_exact: False if there are more than `number`, or may be.

    No int on purpose: every text must show that there are more.
    """

    number: int
    is_exact: bool = True

    @classmethod
    def build(cls, counted: int, limit: int | None = None) -> Self:
        """Return a count of rows that were counted up to limit + 1, by default COUNT_LIMIT + 1."""
        limit = COUNT_LIMIT if limit is None else limit
        return cls(min(counted, limit), is_exact=counted <= limit)

    @property
    def as_number(self) -> int:
        """The count for metrics and columns, which have no "+": one more than `number` if it is not exact."""
        return self.number + (not self.is_exact)

    def format(self, noun: str) -> str:
        """Return the count with its noun, such as "1 delivery" or "10,000+ deliveries"."""
        return format_count(self.number, noun, has_more=not self.is_exact)

    def __str__(self) -> str:
        return f"{self.number:,}{'' if self.is_exact else '+'}"

    def __bool__(self) -> bool:
        return self.as_number > 0

    def __add__(self, other: Self) -> Self:
        return type(self)(self.number + other.number, is_exact=self.is_exact and other.is_exact)


ONE = BoundedCount(1)


def count_up_to(statement: Select[Any], *, limit: int | None = None) -> ScalarSelect[int]:
    """Return the number of a statement's rows as an expression, for `BoundedCount.build`.

    limit: COUNT_LIMIT by default.
    """
    limit = COUNT_LIMIT if limit is None else limit
    return select(func.count()).select_from(statement.limit(limit + 1).subquery()).scalar_subquery()
