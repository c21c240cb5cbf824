"""The sync job runs: what is known of each, and what was found out about it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, exists, func, literal, or_, select, text, tuple_, update

from app.database.engine import Store, one_statement, store_faults
from app.store.facts import RunSeen
from app.store.notifications import Notice, add_notice
from app.store.run_updates import record_runs
from app.store.schema import deliveries, runs
from app.truto.runs import FINAL_RANK

_PAGE = 1000
# When something last came of it.
_LAST_SEEN = (
    select(func.max(deliveries.c.received_at))
    .where(deliveries.c.sync_job_run_id == runs.c.sync_job_run_id)
    .scalar_subquery()
)
_HAS_PENDING = exists().where(
    deliveries.c.sync_job_run_id == runs.c.sync_job_run_id, deliveries.c.settled_at.is_(None)
)


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run as the store knows it; see the table in `schema`. last_seen_at: of its newest delivery."""

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
    refused: str
    settled_at: datetime | None
    stop_cause: str
    stop_asked_at: datetime | None
    log: str | None
    last_seen_at: datetime | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.status_rank >= FINAL_RANK


_COLUMNS = [
    *(runs.c[name] for name in KnownRun.__dataclass_fields__ if name != "last_seen_at"),
    _LAST_SEEN.label("last_seen_at"),
]


class RunBook:
    """The runs. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, run_id: str) -> KnownRun | None:
        """Return a run; None where nothing of it was ever seen."""
        return next(iter(self._read(runs.c.sync_job_run_id == run_id, most=1)), None)

    def find(self, filters: Mapping[str, str], *, since: datetime | None, most: int) -> list[KnownRun]:
        """Return the newest runs. filters: values of their columns, by name. since: when they were seen."""
        conditions = [runs.c[name] == value for name, value in filters.items()]
        conditions += [runs.c.first_seen_at >= since] if since else []
        return self._read(*conditions, most=most)

    def unsettled(self, *, page: int = _PAGE) -> Iterator[KnownRun]:
        """Yield the runs that nobody has found to be over yet, the oldest first."""
        place = tuple_(runs.c.first_seen_at, runs.c.sync_job_run_id)
        after: list[Any] = []
        while True:
            found = self._read(runs.c.settled_at.is_(None), *after, most=page, newest_first=False)
            yield from found
            if len(found) < page:
                return
            after = [place > (found[-1].first_seen_at, found[-1].sync_job_run_id)]

    def going_on(self, *, ended_since: datetime, most: int) -> list[KnownRun]:
        """Return the newest runs that have not ended, or did so lately."""
        is_shown = or_(runs.c.status_rank < FINAL_RANK, ended_since <= _LAST_SEEN)
        return self._read(runs.c.settled_at.is_(None), is_shown, most=most)

    def note(self, seen: RunSeen) -> None:
        """Write down what is known of a run from elsewhere than a delivery."""
        with store_faults(), self._store.begin() as connection:
            record_runs(connection, [seen])

    def webhook_ids(self, *, since: datetime) -> list[str]:
        """Return the webhooks to which runs were sent that were first heard of since then."""
        statement = select(runs.c.webhook_id).where(runs.c.first_seen_at >= since, runs.c.webhook_id != "")
        with store_faults(), one_statement(self._store) as connection:
            return list(connection.execute(statement.distinct()).scalars())

    def stops(self, run_ids: Iterable[str]) -> dict[str, datetime]:
        """Return when these runs were stopped, those that were."""
        statement = select(runs.c.sync_job_run_id, runs.c.stopped_at).where(
            runs.c.sync_job_run_id.in_(sorted(run_ids)), runs.c.stopped_at.is_not(None)
        )
        with store_faults(), one_statement(self._store) as connection:
            return {row.sync_job_run_id: row.stopped_at for row in connection.execute(statement)}

    def has_pending(self, run_id: str) -> bool:
        """Whether deliveries of a run wait for their sinks."""
        statement = select(_HAS_PENDING).where(runs.c.sync_job_run_id == run_id)
        with store_faults(), one_statement(self._store) as connection:
            return bool(connection.execute(statement).scalar())

    def settle(self, run: KnownRun, *, now: datetime, notices: Sequence[Notice] = ()) -> bool:
        """Note that a run is over, and what is to be told of it; False where more has come meanwhile."""
        statement = (
            update(runs)
            .where(
                runs.c.sync_job_run_id == run.sync_job_run_id,
                runs.c.settled_at.is_(None),
                # Said by the same event as when we looked.
                runs.c.status_at.is_not_distinct_from(literal(run.status_at, runs.c.status_at.type)),
                _LAST_SEEN.is_not_distinct_from(literal(run.last_seen_at, runs.c.status_at.type)),
                ~_HAS_PENDING,
            )
            .values(settled_at=now)
        )
        with store_faults(), self._store.begin() as connection:
            is_over: bool = connection.execute(statement).rowcount > 0
            for notice in notices if is_over else ():
                add_notice(connection, notice, over_at=notice.at)
        return is_over

    def note_log(self, run_id: str, log: str) -> None:
        """Keep what Truto's log says of a run, JSON."""
        self._change(update(runs).where(runs.c.sync_job_run_id == run_id).values(log=log))

    def want_stop(self, run_id: str, cause: str) -> bool:
        """Note that a run is to be stopped, and why; False where that was known, or it has ended."""
        statement = (
            update(runs)
            .where(runs.c.sync_job_run_id == run_id, runs.c.stop_cause == "", runs.c.status_rank < FINAL_RANK)
            .values(stop_cause=cause)
        )
        return self._change(statement)

    def note_stop_asked(self, run_id: str, *, now: datetime) -> None:
        """Note that Truto was asked to stop a run, and answered."""
        self._change(update(runs).where(runs.c.sync_job_run_id == run_id).values(stop_asked_at=now))

    def open(self, seen: RunSeen, *, heard_since: datetime) -> str | None:
        """Note that a run starts, unless another of its job and account is open: then return that one's id.

        heard_since: one of which nothing has come since then is taken for lost. Two that start at once are
        asked one after the other.
        """
        other = (
            select(runs.c.sync_job_run_id)
            .where(
                runs.c.sync_job_id == seen.sync_job_id,
                runs.c.integrated_account_id == seen.integrated_account_id,
                runs.c.sync_job_run_id != seen.sync_job_run_id,
                runs.c.settled_at.is_(None),
                runs.c.status_rank.in_((0, 1)),
                func.coalesce(_LAST_SEEN, runs.c.first_seen_at) >= heard_since,
            )
            .limit(1)
        )
        with store_faults(), self._store.begin() as connection:
            if connection.dialect.name == "postgresql":
                pair = f"{seen.sync_job_id}/{seen.integrated_account_id}"
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtextextended(:pair, 0))"), {"pair": pair}
                )
            found: str | None = connection.execute(other).scalar()
            if found is None:
                record_runs(connection, [seen])
        return found

    def _read(self, *conditions: Any, most: int, newest_first: bool = True) -> list[KnownRun]:
        order = (runs.c.first_seen_at, runs.c.sync_job_run_id)
        ordered = [each.desc() for each in order] if newest_first else order
        statement = select(*_COLUMNS).where(*conditions).order_by(*ordered).limit(most)
        with store_faults(), one_statement(self._store) as connection:
            return [_known(row) for row in connection.execute(statement).mappings()]

    def _change(self, statement: Any) -> bool:
        with store_faults(), one_statement(self._store) as connection:
            changed: int = connection.execute(statement).rowcount
            return changed > 0


def _known(row: RowMapping) -> KnownRun:
    return KnownRun(**{name: row[name] for name in KnownRun.__dataclass_fields__})
