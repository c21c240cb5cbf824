"""Every record lands under its own account, or nowhere: two customers may use the same record id."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import inspect, select, text, update

from app.config.routes_file import read_routes
from app.database.engine import Database
from app.runs.reconcile import reconcile_stored
from app.runs.reconciliation import GapReason, Reconciliation
from app.sinks.registry import SinkRegistry
from app.store.delivery_filter import DeliveryFilter
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.store.notifications import Notifications
from app.store.replays import Replays
from app.store.runs import Runs
from app.store.schema import dead_records, deliveries
from app.truto.events import Envelope, read_envelope
from tests.support.replays import begin_replay
from workers.background.attribution_monitor import AttributionMonitor
from workers.delivery.processor import DeliveryProcessor

ONE_ROUTE = '[[routes]]\nsinks = ["main"]\n'
TABLE = "crm_contacts"


class Receiver:
    """Receives events and delivers them by a routes file, each event in a job of its own."""

    def __init__(self, store: Database, url: str) -> None:
        self.store, self.url = store, url
        self.inbox = Inbox(store)
        self.events = 0
        self.sinks: SinkRegistry | None = None
        self.use_routes(ONE_ROUTE)

    def use_routes(self, routes: str, *, to_open_run: bool = False) -> None:
        file = f'[sinks.main]\ntype = "sql"\nurl = "{self.url}"\n{routes}'
        self.routes = read_routes(file, source="routes.toml", variables={})
        self.close()
        self.sinks = SinkRegistry(self.routes)
        self.processor = DeliveryProcessor(self.store, self.routes, self.sinks, to_open_run=to_open_run)

    def close(self) -> None:
        if self.sinks:
            self.sinks.close()

    def put(
        self, payload: dict[str, Any], event: str = "sync_job_run:record", *, age_s: float = 0, **more: Any
    ) -> UUID:
        self.events += 1
        members = {"id": f"e{self.events}", "event": event, "webhook_id": "w", "payload": payload, **more}
        members.setdefault("created_at", f"2026-11-26T10:00:{self.events:02}Z")
        body = json.dumps(members).encode()
        received_at = datetime.now(UTC) - timedelta(seconds=age_s)
        incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), received_at, read_envelope(body))
        return self.inbox.put([incoming])[0].delivery_id

    def deliver(self, payload: dict[str, Any], event: str = "sync_job_run:record", **more: Any) -> UUID:
        delivery = self.put(payload, event, **more)
        self.processor.deliver([delivery])
        return delivery

    def start_run(self, run: str, **members: Any) -> UUID:
        return self.deliver({"id": run, "status": "running", **members}, "sync_job_run:started")

    def row(self, delivery: UUID) -> dict[str, Any]:
        with self.store.engine.connect() as connection:
            row = connection.execute(select(deliveries).where(deliveries.c.id == delivery)).one()
        return dict(row._mapping)

    def state(self, delivery: UUID) -> tuple[str, str]:
        row = self.row(delivery)
        return row["state"], row["reason"]

    def records(self) -> dict[tuple[str, str], Any]:
        """Return the records by account and key."""
        if not inspect(self.store.engine).has_table(TABLE):
            return {}
        with self.store.engine.connect() as connection:
            rows = connection.execute(text(f'SELECT "_account", "_key", "data" FROM {TABLE}')).all()
        return {
            (account, key): json.loads(data) if isinstance(data, str) else data for account, key, data in rows
        }

    def make_due(self, delivery: UUID) -> None:
        with self.store.engine.begin() as connection:
            change = update(deliveries).where(deliveries.c.id == delivery)
            connection.execute(change.values(leased_until=None, due_at=datetime.now(UTC)))

    def replay_failed(self) -> None:
        replays = Replays(self.store)
        replay = begin_replay(self.store, now=datetime.now(UTC) + timedelta(seconds=1))
        candidates = replays.find_candidates(DeliveryFilter(), after=replay.cursor, limit=100)
        replays.requeue(replay, candidates, sink="", now=datetime.now(UTC))
        self.processor.deliver([candidate.id for candidate in candidates])


@pytest.fixture
def receiver(store: Database, store_url: str) -> Iterator[Receiver]:
    opened = Receiver(store, store_url)
    yield opened
    opened.close()


def batch(*ids: str, **payload: Any) -> dict[str, Any]:
    """Return the payload of a batch in the shape of runtime V4: it names no ids."""
    return {"resource": "crm/contacts", "records": [{"id": id_, "name": "n"} for id_ in ids], **payload}


NAMED_IN_THE_EVENT: dict[str, dict[str, Any]] = {
    "payload": {"integrated_account_id": "A"},
    "object": {"integrated_account": {"id": "A"}},
    "meta": {"meta": {"integrated_account_id": "A"}},
    "object in meta": {"meta": {"integrated_account": {"id": "A"}}},
    "run": {"sync_job_run": {"id": "r", "integrated_account_id": "A"}},
    "run in meta": {"meta": {"sync_job_run": {"id": "r", "integrated_account_id": "A"}}},
    "args": {"args": {"integrated_account_id": "A"}},
    "args of the run": {"sync_job_run": {"id": "r", "args": {"integrated_account_id": "A"}}},
    "args in meta": {"meta": {"args": {"hubspot_integrated_account_id": "A"}}},
    "only one in args": {"args": {"since": "2026", "hubspot_integrated_account_id": "A"}},
    "twice in args": {"args": {"x_integrated_account_id": "A", "y_integrated_account_id": "A"}},
    "named by the resource": {"args": {"crm_integrated_account_id": "A", "ats_integrated_account_id": "B"}},
    "named by meta": {
        "args": {"x_integrated_account_id": "A", "y_integrated_account_id": "B"}, "meta": {"node": {"use": "x"}}
    },
    "meta quotes the argument": {
        "args": {"x_integrated_account_id": "A", "y_integrated_account_id": "B"},
        "meta": {"account": "{{args.x_integrated_account_id}}"},
    },
    "the payload comes first": {"integrated_account_id": "A", "meta": {"integrated_account_id": "B"}},
    "meta before the run": {
        "meta": {"integrated_account_id": "A"}, "sync_job_run": {"integrated_account_id": "B"}
    },
    "blank is not an id": {"integrated_account_id": " ", "meta": {"integrated_account_id": "A"}},
    "a number": {"integrated_account_id": None, "args": {"integrated_account_id": "A"}},
}  # fmt: skip
NOT_NAMED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "two in args": {"args": {"x_integrated_account_id": "A", "y_integrated_account_id": "B"}},
    "meta names both": {
        "args": {"x_integrated_account_id": "A", "y_integrated_account_id": "B"}, "meta": {"nodes": ["x", "y"]}
    },
    "other types": {"integrated_account_id": ["A"], "args": ["A"], "meta": "A", "sync_job_run": True},
    "nested args": {"args": {"inner": {"integrated_account_id": "A"}}},
}  # fmt: skip


@pytest.mark.parametrize("place", NAMED_IN_THE_EVENT)
def test_the_account_is_read_from_any_place_of_the_event(receiver: Receiver, place: str) -> None:
    delivery = receiver.deliver(batch("1", **NAMED_IN_THE_EVENT[place]))

    assert receiver.state(delivery) == ("settled", "")
    assert receiver.records().keys() == {("A", "1")}
    assert receiver.row(delivery)["integrated_account_id"] == "A"
    assert receiver.row(delivery)["account_source"] == ""


@pytest.mark.parametrize("place", NOT_NAMED)
def test_a_batch_without_an_account_is_quarantined_and_written_nowhere(
    receiver: Receiver, place: str
) -> None:
    delivery = receiver.deliver(batch("1", **NOT_NAMED[place]))

    assert receiver.state(delivery) == ("quarantined", "no_account")
    assert receiver.row(delivery)["records"] == 1
    assert receiver.records() == {}


def test_the_same_id_of_two_accounts_is_two_rows(receiver: Receiver) -> None:
    receiver.start_run("r1", args={"integrated_account_id": "A"})
    receiver.start_run("r2", args={"crm_integrated_account_id": "B"})

    first, second = (receiver.deliver(batch("1", sync_job_run_id=run)) for run in ("r1", "r2"))

    assert receiver.records().keys() == {("A", "1"), ("B", "1")}
    assert [receiver.row(delivery)["account_source"] for delivery in (first, second)] == ["run", "run"]
    assert [receiver.row(delivery)["integrated_account_id"] for delivery in (first, second)] == ["A", "B"]
    run = Runs(receiver.store).get("r2")
    assert run
    assert run.integrated_account_id == "B"


def test_a_run_of_several_accounts_gives_each_batch_the_one_of_its_resource(receiver: Receiver) -> None:
    receiver.start_run("r", args={"crm_integrated_account_id": "A", "ats_integrated_account_id": "B"})
    # A batch that names its account must not lend it to the run's other batches.
    receiver.deliver(batch("0", sync_job_run_id="r", integrated_account_id="A"))

    receiver.deliver(batch("1", sync_job_run_id="r"))
    unknown = receiver.deliver(batch("2", sync_job_run_id="r", resource="hris/people"))

    assert receiver.records().keys() == {("A", "0"), ("A", "1")}
    assert receiver.state(unknown) == ("quarantined", "no_account")


def test_a_batch_that_overtakes_the_start_of_its_run_is_written_after_it(receiver: Receiver) -> None:
    monitor = AttributionMonitor(receiver.store)
    early, stranger = (receiver.deliver(batch("1", sync_job_run_id=run)) for run in ("r", "other"))
    assert receiver.state(early) == ("quarantined", "no_account")
    monitor.check_deliveries(now=datetime.now(UTC))
    assert receiver.state(early) == ("quarantined", "no_account")

    receiver.start_run("r", integrated_account_id="A")
    monitor.check_deliveries(now=datetime.now(UTC))
    receiver.processor.deliver([early, stranger])

    assert receiver.state(early) == ("settled", "")
    assert receiver.state(stranger) == ("quarantined", "no_account")
    assert receiver.records().keys() == {("A", "1")}


def test_a_batch_that_its_run_cannot_attribute_is_not_tried_for_ever(receiver: Receiver) -> None:
    monitor = AttributionMonitor(receiver.store)
    receiver.start_run("r", args={"x_integrated_account_id": "A", "y_integrated_account_id": "B"})
    delivery = receiver.deliver(batch("1", sync_job_run_id="r"))

    for _ in range(10):
        monitor.check_deliveries(now=datetime.now(UTC))
        receiver.processor.deliver([delivery])

    assert receiver.state(delivery) == ("quarantined", "no_account")
    assert receiver.row(delivery)["attempts"] == 5


def test_unknown_accounts_are_notified_until_they_are_known(receiver: Receiver) -> None:
    monitor, notifications = AttributionMonitor(receiver.store), Notifications(receiver.store)
    receiver.deliver(batch("1"))
    receiver.deliver(batch("2"), webhook_id="w2")
    now = datetime.now(UTC)
    monitor.check_deliveries(now=now)
    assert not notifications.list_open("account.unknown")

    for minutes in (2, 3):
        monitor.check_deliveries(now=now + timedelta(minutes=minutes))

    opened = notifications.list_open("account.unknown")
    assert sorted((item.subject, item.payload["deliveries"]) for item in opened) == [("w", 1), ("w2", 1)]
    receiver.use_routes(f'{ONE_ROUTE}[[webhooks]]\nid = "w"\naccount = "A"\n')
    receiver.replay_failed()
    monitor.check_deliveries(now=now + timedelta(minutes=4))
    assert [item.subject for item in notifications.list_open("account.unknown")] == ["w2"]


def test_a_batch_and_the_start_of_its_run_may_share_a_job(receiver: Receiver) -> None:
    start = receiver.put({"id": "r", "integrated_account_id": "A"}, "sync_job_run:started")
    delivery = receiver.put(batch("1", sync_job_run_id="r"))

    receiver.processor.deliver([start, delivery])

    assert receiver.records().keys() == {("A", "1")}


def test_a_webhook_may_serve_one_account(receiver: Receiver) -> None:
    receiver.use_routes(f'{ONE_ROUTE}[[webhooks]]\nid = "w"\naccount = "A"\n')

    of_rule = receiver.deliver(batch("1"))
    named = receiver.deliver(batch("1", integrated_account_id="B"))
    other = receiver.deliver(batch("1"), webhook_id="w2")

    assert receiver.records().keys() == {("A", "1"), ("B", "1")}
    assert [receiver.row(delivery)["account_source"] for delivery in (of_rule, named)] == ["webhook", ""]
    assert receiver.state(other) == ("quarantined", "no_account")


def test_the_run_comes_before_the_rule_of_the_webhook(receiver: Receiver) -> None:
    receiver.use_routes(f'{ONE_ROUTE}[[webhooks]]\nid = "w"\naccount = "A"\n')
    receiver.start_run("r", integrated_account_id="B")

    receiver.deliver(batch("1", sync_job_run_id="r"))

    assert receiver.records().keys() == {("B", "1")}


def test_a_route_may_name_the_place_of_the_account_in_a_record(receiver: Receiver) -> None:
    receiver.use_routes('[[routes]]\nsinks = ["main"]\naccount = "owner.tenants.0"\n')
    records = [
        {"id": "1", "owner": {"tenants": [account]}} for account in ("A", "B", 7, "", None, ["C"], "x" * 201)
    ]

    mixed = receiver.deliver({"resource": "crm/contacts", "records": records})
    single = receiver.deliver({"resource": "crm/contacts", "records": [{"id": "2", **records[0]}]})
    without = receiver.deliver(batch("3"))
    named = receiver.deliver(batch("4", integrated_account_id="D"))

    assert receiver.records().keys() == {("A", "1"), ("B", "1"), ("7", "1"), ("D", "4")}
    assert receiver.state(mixed) == ("settled", "")
    with receiver.store.engine.connect() as connection:
        dead = connection.execute(select(dead_records.c.ordinal, dead_records.c.reason)).all()
    assert sorted(dead) == [(ordinal, "no_account") for ordinal in (3, 4, 5, 6)]
    assert [receiver.row(delivery)["integrated_account_id"] for delivery in (mixed, single)] == ["", "A"]
    assert [receiver.row(delivery)["account_source"] for delivery in (mixed, single)] == ["record", "record"]
    assert receiver.state(without) == ("quarantined", "no_account")
    assert receiver.row(named)["account_source"] == ""


def test_a_route_may_write_without_an_account_on_purpose(receiver: Receiver) -> None:
    receiver.use_routes('[[routes]]\nsinks = ["main"]\naccount = ""\n')

    delivery = receiver.deliver(batch("1"))

    assert receiver.state(delivery) == ("settled", "")
    assert receiver.records().keys() == {("", "1")}


def test_a_route_without_sinks_needs_no_account(receiver: Receiver) -> None:
    receiver.use_routes("[[routes]]\nsinks = []\n")

    assert receiver.state(receiver.deliver(batch("1"))) == ("settled", "")


def test_an_empty_batch_needs_no_account(receiver: Receiver) -> None:
    assert receiver.state(receiver.deliver(batch())) == ("settled", "")


def test_a_quarantined_batch_is_written_once_the_rule_is_there(receiver: Receiver) -> None:
    delivery = receiver.deliver(batch("1"))
    receiver.use_routes(f'{ONE_ROUTE}[[webhooks]]\nid = "w"\naccount = "A"\n')

    receiver.replay_failed()

    assert receiver.state(delivery) == ("settled", "")
    assert receiver.records().keys() == {("A", "1")}


def test_a_corrected_rule_counts_in_a_replay(receiver: Receiver) -> None:
    receiver.use_routes(f'{ONE_ROUTE}[[webhooks]]\nid = "w"\naccount = "wrong"\n')
    delivery = receiver.deliver(batch("1"))
    assert receiver.row(delivery)["integrated_account_id"] == "wrong"
    receiver.use_routes(f'{ONE_ROUTE}[[webhooks]]\nid = "w"\naccount = "A"\n')

    receiver.replay_failed()

    assert receiver.row(delivery)["integrated_account_id"] == "A"
    assert ("A", "1") in receiver.records()


def test_a_delivery_that_an_earlier_release_stored_is_read_again(receiver: Receiver) -> None:
    body = json.dumps(
        {
            "id": "e",
            "event": "sync_job_run:record",
            "payload": batch("1", args={"x_integrated_account_id": "A"}),
        }
    ).encode()
    envelope = Envelope("e", "sync_job_run:record", resource="crm/contacts")
    incoming = IncomingDelivery(body, hashlib.sha256(body).digest(), datetime.now(UTC), envelope)
    [receipt] = receiver.inbox.put([incoming])

    receiver.processor.deliver([receipt.delivery_id])

    assert receiver.records().keys() == {("A", "1")}
    assert receiver.row(receipt.delivery_id)["integrated_account_id"] == "A"


class TestTheOnlyOpenRun:
    """The guess of the run, which ATTRIBUTE_TO_OPEN_RUN allows."""

    def test_it_is_not_used_by_default(self, receiver: Receiver) -> None:
        receiver.start_run("r", integrated_account_id="A")

        assert receiver.state(receiver.deliver(batch("1"))) == ("quarantined", "no_account")

    def test_it_gives_account_and_run(self, receiver: Receiver) -> None:
        receiver.use_routes(ONE_ROUTE, to_open_run=True)
        receiver.start_run("r", args={"integrated_account_id": "A"})

        row = receiver.row(receiver.deliver(batch("1")))

        assert receiver.records().keys() == {("A", "1")}
        assert (row["integrated_account_id"], row["account_source"]) == ("A", "open_run")
        assert (row["sync_job_run_id"], row["run_source"]) == ("r", "open_run")

    def test_it_gives_the_run_of_a_batch_that_names_its_account(self, receiver: Receiver) -> None:
        receiver.use_routes(ONE_ROUTE, to_open_run=True)
        receiver.start_run("r", integrated_account_id="A")

        own, other = (receiver.deliver(batch("1", integrated_account_id=account)) for account in ("A", "B"))

        assert [receiver.row(delivery)["sync_job_run_id"] for delivery in (own, other)] == ["r", ""]
        assert receiver.records().keys() == {("A", "1"), ("B", "1")}

    def test_two_open_runs_are_no_answer(self, receiver: Receiver) -> None:
        receiver.use_routes(ONE_ROUTE, to_open_run=True)
        receiver.start_run("r1", integrated_account_id="A")
        receiver.start_run("r2", integrated_account_id="B")

        delivery = receiver.deliver(batch("1"))

        assert receiver.state(delivery) == ("quarantined", "no_account")
        assert receiver.records() == {}

    def test_a_run_of_another_webhook_does_not_count(self, receiver: Receiver) -> None:
        receiver.use_routes(ONE_ROUTE, to_open_run=True)
        receiver.start_run("r", integrated_account_id="A")

        delivery = receiver.deliver(batch("1"), webhook_id="w2")

        assert receiver.state(delivery) == ("pending", "no_account")

    def test_a_run_that_ended_before_does_not_count(self, receiver: Receiver) -> None:
        receiver.use_routes(ONE_ROUTE, to_open_run=True)
        receiver.start_run("r", integrated_account_id="A")
        receiver.deliver({"id": "r", "status": "completed"}, "sync_job_run:completed")

        delivery = receiver.put(batch("1"), age_s=0)
        receiver.processor.deliver([delivery])

        assert receiver.state(delivery) == ("pending", "no_account")

    def test_a_run_that_ended_since_still_counts(self, receiver: Receiver) -> None:
        receiver.use_routes(ONE_ROUTE, to_open_run=True)
        receiver.start_run("r1", integrated_account_id="A")
        receiver.start_run("r2", integrated_account_id="B")
        delivery = receiver.put(batch("1"))
        later = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
        receiver.deliver({"id": "r2", "status": "completed"}, "sync_job_run:completed", created_at=later)

        receiver.processor.deliver([delivery])

        assert receiver.state(delivery) == ("quarantined", "no_account")

    def test_a_pending_lifecycle_event_may_begin_another_run(self, receiver: Receiver) -> None:
        receiver.use_routes(ONE_ROUTE, to_open_run=True)
        receiver.start_run("r1", integrated_account_id="A")
        receiver.put({"id": "r2", "integrated_account_id": "B"}, "sync_job_run:started")

        delivery = receiver.deliver(batch("1"))

        assert receiver.state(delivery) == ("pending", "no_account")


@pytest.mark.parametrize("resource", [{}, {"resource": ""}, {"resource": " "}, {"resource": ["crm"]}])
@pytest.mark.parametrize("event", ["sync_job_run:record", "record:created"])
def test_a_batch_without_a_resource_is_quarantined(
    receiver: Receiver, event: str, resource: dict[str, Any]
) -> None:
    payload = {"integrated_account_id": "A", "records": [{"id": "1"}], **resource}

    delivery = receiver.deliver(payload, event)

    assert receiver.state(delivery) == ("quarantined", "no_resource")
    tables = inspect(receiver.store.engine).get_table_names()
    assert not {"sync_job_run", "record"} & set(tables)


def test_events_of_an_account_belong_to_it(receiver: Receiver) -> None:
    receiver.use_routes(
        '[[routes]]\nevent = "*"\nsinks = ["main"]\ntable = "events"\nresource = "integrated_account"\n'
    )

    delivery = receiver.deliver({"id": "A", "status": "active"}, "integrated_account:created")

    assert receiver.row(delivery)["integrated_account_id"] == "A"
    assert receiver.state(delivery) == ("settled", "")


def test_batches_without_a_run_do_not_make_their_run_incomplete(receiver: Receiver) -> None:
    receiver.start_run("r", args={"integrated_account_id": "A"})
    for number in range(2):
        receiver.deliver(batch(str(number), args={"integrated_account_id": "A"}))
    stats = {"crm/contacts": {"list": {"fetched": 2, "persisted": 2}}}
    receiver.deliver({"id": "r", "status": "completed", "resource_stats": stats}, "sync_job_run:completed")
    run = Runs(receiver.store).get("r")
    assert run
    assert run.integrated_account_id == "A"

    reconciliation = reconcile_stored(receiver.store, run, now=datetime.now(UTC) + timedelta(hours=1))

    [counts] = reconciliation.resources
    assert (reconciliation.verdict, counts.missing) == ("unknown", 2)
    assert counts.gap_reasons == [GapReason("without_run", 2)]


def end_run(receiver: Receiver, fetched: int, **members: Any) -> Reconciliation:
    """Return the reconciliation of run r after its end."""
    stats = {"crm/contacts": {"list": {"fetched": fetched, "persisted": fetched}}}
    receiver.deliver(
        {"id": "r", "status": "completed", "resource_stats": stats, **members}, "sync_job_run:completed"
    )
    run = Runs(receiver.store).get("r")
    assert run
    return reconcile_stored(receiver.store, run, now=datetime.now(UTC) + timedelta(hours=1))


@pytest.mark.parametrize("account", [{}, {"args": {"integrated_account_id": "A"}}], ids=["several", "one"])
def test_batches_without_a_run_and_an_account_are_the_reason_of_a_gap(
    receiver: Receiver, account: dict[str, Any]
) -> None:
    receiver.start_run("r", **account)
    receiver.deliver(batch("1", "2"))
    receiver.deliver(batch("3"), webhook_id="another")

    reconciliation = end_run(receiver, 3)

    [counts] = reconciliation.resources
    assert (reconciliation.verdict, reconciliation.has_gaps) == ("incomplete", True)
    assert counts.gap_reasons == [GapReason("unattributed", 2), GapReason("unexplained", 1)]


def test_batches_without_an_account_that_were_written_are_no_gap(receiver: Receiver) -> None:
    receiver.use_routes('[[routes]]\nsinks = ["main"]\naccount = "tenant"\n')
    receiver.start_run("r")
    records = [{"id": "1", "tenant": "A"}, {"id": "1", "tenant": "B"}]
    delivery = receiver.deliver(batch(records=records))
    assert receiver.row(delivery)["integrated_account_id"] == ""
    assert receiver.state(delivery) == ("settled", "")

    reconciliation = end_run(receiver, 2)

    [counts] = reconciliation.resources
    assert (reconciliation.verdict, reconciliation.has_gaps) == ("unknown", False)
    assert counts.gap_reasons == [GapReason("without_run", 2)]


def test_a_gap_without_an_account_closes_after_the_webhook_is_named(receiver: Receiver) -> None:
    receiver.start_run("r", args={"integrated_account_id": "A"})
    receiver.deliver(batch("1", "2"))
    assert end_run(receiver, 2).resources[0].gap_reasons == [GapReason("unattributed", 2)]

    receiver.use_routes(f'[[webhooks]]\nid = "w"\naccount = "A"\n{ONE_ROUTE}')
    receiver.replay_failed()

    assert end_run(receiver, 2).resources[0].gap_reasons == [GapReason("without_run", 2)]
