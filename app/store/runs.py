"""The sync job runs: find, start, stop and mark as reconciled."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, literal, or_, select, text, tuple_, update

from app.database.engine import Database
from app.store.delete_checks import DeleteCheck, save_delete_checks
from app.store.models import RunUpdate
from app.store.notifications import Notification, insert_notification
from app.store.run_summaries import HAD_PENDING, OUTDATE_SUMMARY
from app.store.run_updates import upsert_runs
from app.store.schema import deliveries, runs
from app.truto.runs import FINAL_RANK

_PAGE_SIZE = 1000
# The time of a run's newest delivery.
_LAST_SEEN = (
    select(func.max(deliveries.c.received_at))
    .where(deliveries.c.sync_job_run_id == runs.c.sync_job_run_id)
    .scalar_subquery()
)
_HAS_PENDING = exists().where(
    deliveries.c.sync_job_run_id == runs.c.sync_job_run_id, deliveries.c.settled_at.is_(None)
)


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A stored run; the columns are described in `schema`. last_seen_at: of its newest delivery.

    last_delivery_at, summarized_at: of its summary.
    """

    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    environment_id: str
    webhook_id: str
    status: str
    status_at: datetime | None
    status_rank: int
    first_seen_at: datetime
    run: str | None
    stopped_at: datetime | None
    refusal_reason: str
    reconciled_at: datetime | None
    stop_reason: str
    stop_sent_at: datetime | None
    log_totals: str | None
    last_seen_at: datetime | None
    last_delivery_at: datetime | None = None
    summarized_at: datetime | None = None
    revision: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether the run has a final status."""
        return self.status_rank >= FINAL_RANK


_COLUMNS = [
    _LAST_SEEN.label(name) if name == "last_seen_at" else runs.c[name]
    for name in StoredRun.__dataclass_fields__
]


class Runs:
    """The runs. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, run_id: str) -> StoredRun | None:
        """Return a run; None if it is unknown."""
        return next(iter(self._read(runs.c.sync_job_run_id == run_id, limit=1)), None)

    def find_runs(self, filters: Mapping[str, str], *, since: datetime | None, limit: int) -> list[StoredRun]:
        """Return the newest runs. filters: values by column name. since: of first_seen_at."""
        conditions = [runs.c[name] == value for name, value in filters.items()]
        conditions += [runs.c.first_seen_at >= since] if since else []
        return self._read(*conditions, limit=limit)

    def list_unreconciled(self, *, page_size: int = _PAGE_SIZE) -> Iterator[StoredRun]:
        """Yield the runs that are not reconciled, oldest first."""
        position = tuple_(runs.c.first_seen_at, runs.c.sync_job_run_id)
        after: list[Any] = []
        while True:
            page = self._read(runs.c.reconciled_at.is_(None), *after, limit=page_size, newest_first=False)
            yield from page
            if len(page) < page_size:
                return
            after = [position > (page[-1].first_seen_at, page[-1].sync_job_run_id)]

    def list_unsummarized(self, *, limit: int) -> list[StoredRun]:
        """Return the runs that changed since their summary, newest first."""
        return self._read(runs.c.summarized_at.is_(None), limit=limit)

    def list_summarized_with_pending(self, *, before: datetime, limit: int) -> list[StoredRun]:
        """Return runs with pending deliveries at their summary, oldest summary first. before: a time."""
        statement = (
            select(*_COLUMNS)
            .where(runs.c.summarized_at < before, HAD_PENDING)
            .order_by(runs.c.summarized_at)
            .limit(limit)
        )
        return [StoredRun(*row) for row in self._database.read(statement)]

    def list_active(self, *, ended_since: datetime, limit: int) -> list[StoredRun]:
        """Return the newest runs that have not ended, or had a delivery since `ended_since`."""
        is_active = or_(runs.c.status_rank < FINAL_RANK, ended_since <= _LAST_SEEN)
        return self._read(runs.c.reconciled_at.is_(None), is_active, limit=limit)

    def upsert(self, run_update: RunUpdate) -> None:
        """Write a run update from Truto's API."""
        with self._database.transaction() as connection:
            upsert_runs(connection, [run_update])

    def list_webhook_ids(self, *, since: datetime) -> list[str]:
        """Return the ids of the webhooks of runs first seen since a time."""
        statement = select(runs.c.webhook_id).where(runs.c.first_seen_at >= since, runs.c.webhook_id != "")
        return [row.webhook_id for row in self._database.read(statement.distinct())]

    def find_stop_times(self, run_ids: Iterable[str]) -> dict[str, datetime]:
        """Return the stop times by run id; runs that were not stopped are left out."""
        statement = select(runs.c.sync_job_run_id, runs.c.stopped_at).where(
            runs.c.sync_job_run_id.in_(sorted(run_ids)), runs.c.stopped_at.is_not(None)
        )
        return {row.sync_job_run_id: row.stopped_at for row in self._database.read(statement)}

    def has_pending(self, run_id: str) -> bool:
        """Whether a run has pending deliveries."""
        statement = select(_HAS_PENDING).where(runs.c.sync_job_run_id == run_id)
        return any(has_pending for (has_pending,) in self._database.read(statement))

    def mark_reconciled(
        self,
        run: StoredRun,
        *,
        now: datetime,
        notifications: Sequence[Notification] = (),
        delete_checks: Sequence[DeleteCheck] = (),
    ) -> bool:
        """Mark a run as reconciled, add notifications and checks; return False if it changed meanwhile."""
        statement = (
            update(runs)
            .where(
                runs.c.sync_job_run_id == run.sync_job_run_id,
                runs.c.reconciled_at.is_(None),
                # The status is still from the event that was reconciled.
                runs.c.status_at.is_not_distinct_from(literal(run.status_at, runs.c.status_at.type)),
                _LAST_SEEN.is_not_distinct_from(literal(run.last_seen_at, runs.c.status_at.type)),
                ~_HAS_PENDING,
            )
            .values(reconciled_at=now, **OUTDATE_SUMMARY)
        )
        with self._database.transaction() as connection:
            is_reconciled: bool = connection.execute(statement).rowcount > 0
            for notification in notifications if is_reconciled else ():
                insert_notification(connection, notification, closed_at=notification.occurred_at)
            if is_reconciled:
                save_delete_checks(connection, delete_checks, now=now)
        return is_reconciled

    def save_log(self, run_id: str, log_totals: str) -> None:
        """Store the sums of Truto's log of a run, as JSON."""
        self._database.execute(
            update(runs)
            .where(runs.c.sync_job_run_id == run_id)
            .values(log_totals=log_totals, **OUTDATE_SUMMARY)
        )

    def request_stop(self, run_id: str, reason: str) -> bool:
        """Store the reason to stop a run; return False if it has one already, or has ended."""
        statement = (
            update(runs)
            .where(
                runs.c.sync_job_run_id == run_id, runs.c.stop_reason == "", runs.c.status_rank < FINAL_RANK
            )
            # The monitor skips reconciled runs, such as one that was silent for a day.
            .values(stop_reason=reason, reconciled_at=None)
        )
        return self._database.execute(statement) > 0

    def list_unsent_stops(self, *, limit: int) -> list[StoredRun]:
        """Return the newest unreconciled runs with a stop that Truto has not accepted yet."""
        return self._read(
            runs.c.reconciled_at.is_(None),
            runs.c.stop_reason != "",
            runs.c.stop_sent_at.is_(None),
            runs.c.status_rank < FINAL_RANK,
            limit=limit,
        )

    def mark_stop_sent(self, run_id: str, *, now: datetime) -> None:
        """Mark that Truto accepted the request to stop a run."""
        self._database.execute(update(runs).where(runs.c.sync_job_run_id == run_id).values(stop_sent_at=now))

    def start_unless_overlapping(self, run_update: RunUpdate, *, active_since: datetime) -> str | None:
        """Start a run, unless another run of its job and account is active: then return the id of that run.

        active_since: a run without deliveries since then does not count. Concurrent starts are serialized.
        """
        other = (
            select(runs.c.sync_job_run_id)
            .where(
                runs.c.sync_job_id == run_update.sync_job_id,
                runs.c.integrated_account_id == run_update.integrated_account_id,
                runs.c.sync_job_run_id != run_update.sync_job_run_id,
                runs.c.reconciled_at.is_(None),
                runs.c.status_rank.in_((0, 1)),
                func.coalesce(_LAST_SEEN, runs.c.first_seen_at) >= active_since,
            )
            .limit(1)
        )
        with self._database.transaction() as connection:
            if connection.dialect.name == "postgresql":
                pair = f"{run_update.sync_job_id}/{run_update.integrated_account_id}"
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtextextended(:pair, 0))"), {"pair": pair}
                )
            overlapping_run_id: str | None = connection.execute(other).scalar()
            if overlapping_run_id is None:
                upsert_runs(connection, [run_update])
        return overlapping_run_id

    def _read(self, *conditions: Any, limit: int, newest_first: bool = True) -> list[StoredRun]:
        order = (runs.c.first_seen_at, runs.c.sync_job_run_id)
        ordered = [column.desc() for column in order] if newest_first else order
        statement = select(*_COLUMNS).where(*conditions).order_by(*ordered).limit(limit)
        # _COLUMNS are in the order of the fields.
        return [StoredRun(*row) for row in self._database.read(statement)]
