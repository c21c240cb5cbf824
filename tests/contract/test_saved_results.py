"""Results of many deliveries that one statement writes, on both databases."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import select

from app.database.engine import Database
from app.store.inbox import Inbox
from app.store.models import (
    Attribution,
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
)
from app.store.pending import PendingDeliveries
from app.store.results import DeliveryResults
from app.store.schema import deliveries, sink_outcomes
from app.truto.events import Envelope

NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def put(store: Database, number: int) -> list[UUID]:
    incoming = [
        IncomingDelivery(b"%d" % n, b"%d" % n, NOW, Envelope(event_id=str(n), event="sync_job_run:record"))
        for n in range(number)
    ]
    return [receipt.delivery_id for receipt in Inbox(store).put(incoming)]


def make_outcome(id_: UUID, sink: str, message: str = "") -> SinkOutcome:
    return SinkOutcome(id_, sink, SinkOutcomeState.DONE, 3, 1, "reason", message, NOW, filtered=2)


def test_every_delivery_gets_its_own_result(store: Database) -> None:
    settled, retried, attributed, untouched, other = put(store, 5)
    PendingDeliveries(store).lease([settled, retried, attributed, untouched], worker="w", now=NOW, lease_s=9)
    results = [
        DeliveryResult(
            StateChange(settled, DeliveryState.SETTLED, 7, "", NOW, replaced_characters=4),
            outcomes=[make_outcome(settled, "b"), make_outcome(settled, "a", 'a "quoted" \\ text')],
        ),
        DeliveryResult(
            StateChange(retried, DeliveryState.PENDING, None, "sink_unavailable", LATER, is_attempt=False)
        ),
        DeliveryResult(
            StateChange(
                attributed, DeliveryState.DEAD, 0, "r", NOW, attribution=Attribution("account", "run", "run")
            )
        ),
        # Leased by nobody: unchanged.
        DeliveryResult(
            StateChange(other, DeliveryState.DEAD, 1, "", NOW), outcomes=[make_outcome(other, "a")]
        ),
    ]

    assert DeliveryResults(store).save(results, now=LATER, worker="w") == {settled, retried, attributed}

    columns = (
        *("state", "reason", "records", "replaced_characters", "attempts", "leased_by", "settled_at"),
        *("integrated_account_id", "sync_job_run_id", "account_source", "leased_until"),
    )
    rows = {
        row.id: tuple(row)[1:]
        for row in store.read(select(deliveries.c.id, *(deliveries.c[name] for name in columns)))
    }
    assert rows[settled] == ("settled", "", 7, 4, 1, "", LATER, "", "", "", None)
    assert rows[retried] == ("pending", "sink_unavailable", 0, 0, 0, "", None, "", "", "", LATER)
    assert rows[attributed] == ("dead", "r", 0, 0, 1, "", LATER, "account", "run", "run", None)
    assert rows[untouched][:6] == ("pending", "", 0, 0, 1, "w")
    assert rows[other][:6] == ("pending", "", 0, 0, 0, "")
    outcomes = DeliveryResults(store).find_outcomes([settled, other])
    assert outcomes == {
        settled: {
            "a": make_outcome(settled, "a", 'a "quoted" \\ text'),
            "b": make_outcome(settled, "b"),
        },
        other: {},
    }


def test_texts_that_a_database_cannot_store_do_not_fail_a_job(store: Database) -> None:
    ids = put(store, 2)
    PendingDeliveries(store).lease(ids, worker="w", now=NOW, lease_s=9)
    texts = ["a\0b", "a\ud800b"]
    results = [
        DeliveryResult(
            StateChange(id_, DeliveryState.SETTLED, 1, text, NOW), outcomes=[make_outcome(id_, "main", text)]
        )
        for id_, text in zip(ids, texts, strict=True)
    ]

    assert DeliveryResults(store).save(results, now=NOW, worker="w") == {*ids}

    assert {row.message for row in store.read(select(sink_outcomes.c.message))} == {"a\ufffdb"}
    assert {row.reason for row in store.read(select(deliveries.c.reason))} == {"a\ufffdb"}
