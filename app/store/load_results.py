"""Results of loads: the outcomes of all deliveries of a load, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Integer, bindparam, case, delete, exists, func, select, update

from app.database.engine import Database
from app.store.encryption_keys import EncryptionKeys
from app.store.held import IS_FAILING
from app.store.loads import Load, split_ids
from app.store.models import DeadRecord, Delivery, DeliveryState, SinkOutcome, SinkOutcomeState
from app.store.pending import lock_pending, make_unheld_due
from app.store.results import upsert_dead_records
from app.store.run_summaries import outdate_summaries
from app.store.schema import dead_records, deliveries, loads, sink_outcomes

_OUTCOME_COLUMNS = ("state", "written", "dead", "filtered", "reason", "message", "updated_at")
_IS_SETTLED_BY_LOAD = ~exists().where(sink_outcomes.c.delivery_id == deliveries.c.id, IS_FAILING)
_DEAD_REASON = (
    select(func.min(sink_outcomes.c.reason))
    .where(sink_outcomes.c.delivery_id == deliveries.c.id, sink_outcomes.c.state == SinkOutcomeState.DEAD)
    .scalar_subquery()
)


@dataclass(frozen=True, slots=True)
class LoadedDelivery:
    """A delivery in a load, and its outcome. replaced_characters: of its records that the load read."""

    delivery: Delivery
    outcome: SinkOutcome
    replaced_characters: int = 0


class LoadResults:
    """The results of loads. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = EncryptionKeys(database)

    def delete_dead_records(self, load: Load, ids: Sequence[UUID]) -> None:
        """Delete the dead records that an earlier attempt stored for these deliveries of a load."""
        with self._database.transaction() as connection:
            for page in split_ids(ids):
                of_page = dead_records.c.delivery_id.in_(page)
                connection.execute(delete(dead_records).where(of_page, dead_records.c.sink == load.sink))

    def save_dead_records(self, records: Sequence[DeadRecord], resources: Mapping[UUID, str]) -> None:
        """Store dead records before their load ends: their text is large. resources: by delivery."""
        self._keys.register()
        with self._database.transaction() as connection:
            upsert_dead_records(connection, records, resources, self._database.keyring)

    def finish(
        self, load: Load, loaded: Sequence[LoadedDelivery], *, worker: str, now: datetime
    ) -> dict[UUID, DeliveryState] | None:
        """End a load: store its outcomes, and settle the deliveries that all their sinks have.

        An outcome in the state `failing` gives its delivery back to workers. Returns the new states of
        the deliveries that were settled; None if the lease is lost. Deliveries that a person discarded
        meanwhile are left unchanged.
        """
        by_id = {one.delivery.id: one for one in loaded}
        settled: dict[UUID, DeliveryState] = {}
        run_ids: set[str] = set()
        with self._database.transaction() as connection:
            owned = delete(loads).where(loads.c.id == load.id, loads.c.leased_by == worker)
            if not connection.execute(owned).rowcount:
                return None
            for page in split_ids(sorted(by_id)):
                pending = sorted(lock_pending(connection, page, worker=None))
                if rows := [_to_parameters(by_id[id_].outcome, load) for id_ in pending]:
                    connection.execute(_SAVE_OUTCOME, rows)
                numbers = {id_: by_id[id_].replaced_characters for id_ in pending}
                if replaced := [{"of": id_, "number": number} for id_, number in numbers.items() if number]:
                    connection.execute(_SAVE_REPLACED, replaced)
                for row in _settle(connection, pending, now):
                    settled[row.id] = DeliveryState(row.state)
                    run_ids.add(row.sync_job_run_id)
                make_unheld_due(connection, pending, now)
            rest = update(sink_outcomes).where(
                IS_FAILING, sink_outcomes.c.sink == load.sink, sink_outcomes.c.held_scope == load.scope
            )
            connection.execute(rest.values(held_scope=None, held_received_at=None))
            outdate_summaries(connection, run_ids)
        return settled


# A worker has counted those of a small delivery already.
_SAVE_REPLACED = (
    update(deliveries)
    .where(
        deliveries.c.id == bindparam("of"),
        deliveries.c.replaced_characters < bindparam("number", type_=Integer),
    )
    .values(replaced_characters=bindparam("number", type_=Integer))
)
_SAVE_OUTCOME = (
    update(sink_outcomes)
    .where(
        sink_outcomes.c.delivery_id == bindparam("of_delivery"),
        sink_outcomes.c.sink == bindparam("of_sink"),
        sink_outcomes.c.held_scope == bindparam("of_scope"),
    )
    .values({name: bindparam(f"new_{name}") for name in _OUTCOME_COLUMNS})
    .values(held_scope=None, held_received_at=None, progress="")
)


def _to_parameters(outcome: SinkOutcome, load: Load) -> dict[str, Any]:
    return {
        "of_delivery": outcome.delivery_id,
        "of_sink": load.sink,
        "of_scope": load.scope,
        **{f"new_{name}": getattr(outcome, name) for name in _OUTCOME_COLUMNS},
    }


def _settle(connection: Connection, ids: Sequence[UUID], now: datetime) -> Sequence[Any]:
    """Settle the deliveries that no sink lacks, except those that a worker has leased: it settles them."""
    is_dead = _DEAD_REASON.is_not(None)
    change = (
        update(deliveries)
        .where(
            deliveries.c.id.in_(ids),
            deliveries.c.settled_at.is_(None),
            deliveries.c.leased_by == "",
            _IS_SETTLED_BY_LOAD,
        )
        .values(
            state=case((is_dead, DeliveryState.DEAD.value), else_=DeliveryState.SETTLED.value),
            reason=func.coalesce(_DEAD_REASON, ""),
            attempts=deliveries.c.attempts + 1,
            due_at=deliveries.c.received_at,
            leased_until=None,
            settled_at=now,
        )
        .returning(deliveries.c.id, deliveries.c.state, deliveries.c.sync_job_run_id)
    )
    return connection.execute(change).all()
