"""Rows as one JSON parameter of PostgreSQL: one statement instead of one for each row."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import FromClause, bindparam, cast, column, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import Text, TypeEngine

from app.store.bulk_insert import encode_rows

_ROWS = "rows"


def build_row_set(types: Mapping[str, TypeEngine[Any]]) -> FromClause:
    """Return the rows of `bind_rows` as a table with these columns."""
    rows = func.jsonb_to_recordset(cast(bindparam(_ROWS, type_=Text), JSONB))
    columns = (column(name, type_) for name, type_ in types.items())
    return rows.table_valued(*columns).render_derived(name="given", with_types=True)


def bind_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the parameter of a statement with a row set. Not for large rows: jsonb takes 256 MB at most."""
    return {_ROWS: encode_rows(rows)}
