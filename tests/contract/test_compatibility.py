"""The tables of this release also serve the release before, which runs during an upgrade."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Inspector, inspect

from app.database.engine import Database, open_database
from app.store.migrate import is_current, migrate
from tests.support.old_store import upgrade_to
from tests.support.releases import find_newest_revision, get_previous_release


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    opened = open_database(empty_url)
    yield opened
    opened.close()


def test_the_release_before_finds_its_tables_and_may_leave_out_new_columns(database: Database) -> None:
    upgrade_to(database, find_newest_revision(get_previous_release()))
    earlier = inspect(database.engine)
    names = earlier.get_table_names()
    columns = {name: _describe_columns(earlier, name) for name in names}
    constraints = {name: _list_constraints(earlier, name) for name in names}
    assert "rapidbridge_deliveries" in names

    migrate(database)

    assert is_current(database)
    now = inspect(database.engine)
    for name in names:
        current = _describe_columns(now, name)
        assert {column: current.get(column) for column in columns[name]} == columns[name], name
        required = {column for column, (_, is_optional) in current.items() if not is_optional}
        assert required <= columns[name].keys(), f"{name}: the release before sets no value for {required}"
        assert _list_constraints(now, name) <= constraints[name], f"{name}: it may break a new constraint"


def _describe_columns(inspector: Inspector, table: str) -> dict[str, tuple[str, bool]]:
    """Return the type of each column, and whether an INSERT may leave it out."""
    return {
        column["name"]: (
            str(column["type"]),
            bool(column["nullable"] or column["default"] or column.get("autoincrement") is True),
        )
        for column in inspector.get_columns(table)
    }


def _list_constraints(inspector: Inspector, table: str) -> set[str]:
    unique_indexes = (index for index in inspector.get_indexes(table) if index["unique"])
    found: list[Any] = [
        ("key", inspector.get_pk_constraint(table)["constrained_columns"]),
        *(("unique", sorted(one["column_names"])) for one in inspector.get_unique_constraints(table)),
        *(("unique", sorted(map(str, one["column_names"]))) for one in unique_indexes),
        *(("check", one["sqltext"]) for one in inspector.get_check_constraints(table)),
        *(
            ("foreign", one["constrained_columns"], one["referred_table"])
            for one in inspector.get_foreign_keys(table)
        ),
    ]
    return {repr(one) for one in found}
