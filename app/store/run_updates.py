"""Write run updates: a newer event changes its run, an older one does not."""

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, and_, case, func, literal, null, or_, tuple_

from app.database.upsert import Insert, insert_into
from app.store.models import RunUpdate
from app.store.schema import runs
from app.truto.runs import FINAL_RANK

_ID_COLUMNS = ("sync_job_id", "integrated_account_id", "environment_id", "webhook_id")


def upsert_runs(connection: Connection, updates: Iterable[RunUpdate]) -> None:
    """Write run updates in the caller's transaction.

    Events are ordered by their own time: an older event never overwrites a newer one. A delivery of a
    reconciled run causes the run to be reconciled and summarized again.
    """
    unique_updates: dict[tuple[str, datetime | None, int], RunUpdate] = {}
    for run_update in updates:
        unique_updates.setdefault(
            (run_update.sync_job_run_id, run_update.status_at, run_update.status_rank), run_update
        )
    # Ordered by key, so that two workers with the same runs cannot deadlock.
    rows = [
        _to_row(unique_updates[key])
        for key in sorted(unique_updates, key=lambda key: (key[0], str(key[1] or ""), key[2]))
    ]
    if rows:
        connection.execute(_upsert(connection.dialect.name), rows)


@cache
def _upsert(dialect: str) -> Insert:
    statement = insert_into(dialect, runs)
    new, old = statement.excluded, runs.c
    is_newer = and_(
        new.status_at.is_not(None),
        or_(
            old.status_at.is_(None),
            tuple_(old.status_at, old.status_rank) <= tuple_(new.status_at, new.status_rank),
        ),
    )

    def unless_empty(name: str) -> tuple[Column[Any], Any]:
        return old[name], case((new[name] != "", new[name]), else_=old[name])

    # A later event shows that the run was accepted after all, or continues.
    is_open_again = and_(is_newer, new.status != "", new.status_rank < FINAL_RANK)
    changed = dict(unless_empty(name) for name in _ID_COLUMNS)
    changed[old.refusal_reason] = case(
        (is_open_again, literal("")),
        (and_(new.refusal_reason != "", or_(is_newer, old.status_rank >= FINAL_RANK)), new.refusal_reason),
        else_=old.refusal_reason,
    )
    changed[old.status_at] = case((is_newer, new.status_at), else_=old.status_at)
    for name in ("status", "status_rank"):
        # An event may have no status.
        changed[old[name]] = case((and_(is_newer, new.status != ""), new[name]), else_=old[name])
    changed[old.run] = case((is_newer, func.coalesce(new.run, old.run)), else_=old.run)
    changed[old.stopped_at] = case(
        (is_open_again, null()),
        (or_(is_newer, old.status_rank >= FINAL_RANK), func.coalesce(old.stopped_at, new.stopped_at)),
        else_=old.stopped_at,
    )
    changed[old.reconciled_at] = null()
    changed[old.summarized_at] = null()
    changed[old.revision] = old.revision + 1
    has_changes = or_(
        is_newer,
        old.reconciled_at.is_not(None),
        and_(old.stopped_at.is_(None), new.stopped_at.is_not(None)),
        *(and_(old[name] == "", new[name] != "") for name in (*_ID_COLUMNS, "refusal_reason")),
    )
    return statement.on_conflict_do_update(
        index_elements=["sync_job_run_id"],
        set_={column.name: value for column, value in changed.items()},
        # Most batches change nothing, and then cost no write.
        where=has_changes,
    )


def _to_row(run_update: RunUpdate) -> dict[str, Any]:
    return {name: getattr(run_update, name) for name in RunUpdate.__slots__}
