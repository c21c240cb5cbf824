"""Erasure removes all data of an account and nothing else."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import select, update

from app.clock import utc_now
from app.config.delivery_config import DeliveryConfig
from app.config.routes import Route, Routes
from app.erasure import Erasure, ErasureReport
from app.errors import OperationRefused
from app.redis.spool import Spool
from app.replay.operations import OperationRequest, start_replay
from app.replay.request import ReplayRequest
from app.runs.refetch import refetch_run
from app.sinks.base import Batch, Sink, WriteResult
from app.store.audit_log import AuditEntry, AuditLog
from app.store.compression import decompress
from app.store.delete_checks import (
    DeleteCheck,
    DeleteChecks,
    DeleteCheckState,
    make_check_id,
    save_delete_checks,
)
from app.store.delivery_filter import DeliveryFilter
from app.store.erased_names import make_pseudonym
from app.store.erasure import _mentions
from app.store.notifications import Notification, Notifications
from app.store.operations import Operations
from app.store.pending import PendingDeliveries
from app.store.restore import PrunedBodies
from app.store.retention import prune_bodies
from app.store.runs import Runs
from app.store.schema import dead_records, deliveries, metadata, record_errors, runs, sink_outcomes
from app.truto.client import TrutoClient
from app.truto.runs import strip_run_details
from tests.support.delivered_store import NOW, DeliveredStore
from tests.support.loads import run_loads
from tests.support.replaced_sink import ReplacedSink
from tests.support.replays import BY_TEST
from tests.support.sent_records import send
from tests.support.waiting import wait_until
from workers.delivery.processor import DeliveryProcessor

NAMESPACE = "test"
CONFIG = DeliveryConfig.build(Routes(sinks={}, routes=()), late_records="deliver", to_open_run=False)


@pytest.fixture
def delivered(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    made = DeliveredStore(store_url, tmp_path)
    yield made
    made.close()


def make_erasure(
    delivered: DeliveredStore, redis: Redis | None, account: str = "a1", messages: list[str] | None = None
) -> Erasure:
    return Erasure(
        delivered.store,
        account,
        spools=[Spool(redis, NAMESPACE)] if redis else [],
        sinks=delivered.sinks,
        on_wait=(messages if messages is not None else []).append,
    )


def find_account_data(delivered: DeliveredStore, redis: Redis, account: str = "a1") -> ErasureReport:
    return make_erasure(delivered, redis, account).count_data()


def read_everything(delivered: DeliveredStore) -> str:
    """Return everything in the store and the sinks as text."""
    texts = [path.read_text() for path in delivered.lake.rglob("*.jsonl")]
    texts += [str(delivered.inbox.read_body(id_)) for id_, body in delivered.read_bodies().items() if body]
    with delivered.store.engine.connect() as connection:
        for table in ("dead_records", "record_errors", "runs"):
            texts += map(str, connection.exec_driver_sql(f"SELECT * FROM rapidbridge_{table}").all())
        texts += map(str, connection.exec_driver_sql("SELECT data FROM crm_contacts").all())
    return "\n".join(texts)


def state(delivered: DeliveredStore, delivery: UUID) -> tuple[Any, ...]:
    columns = (deliveries.c.state, deliveries.c.reason, deliveries.c.records)
    with delivered.store.engine.connect() as connection:
        return tuple(connection.execute(select(*columns).where(deliveries.c.id == delivery)).one())


def test_an_erased_account_is_gone_everywhere_and_its_totals_stay(
    delivered: DeliveredStore, redis: Redis
) -> None:
    for account in ("a1", "a2"):
        delivered.add_run(account, f"run-{account}")
    totals, others = (
        delivered.read_totals(["run-a1", "run-a2"]),
        find_account_data(delivered, redis, "a2").counts,
    )
    assert "a1@example.com" in read_everything(delivered)

    before = find_account_data(delivered, redis)
    erased = make_erasure(delivered, redis).erase_data()

    assert before.counts == erased.counts
    assert before.counts == {
        "spool": 0,
        "bodies": 5,
        "pruned": 0,
        "pending": 0,
        "dead_records": 2,
        "record_errors": 1,
        "runs": 1,
        "syncs": 1,
        "names": 6,
        "sink lake": 2,
        "sink main": 2,
    }
    assert delivered.read_totals(["run-a1", "run-a2"]) == totals
    assert (delivered.count_rows_by_account(), delivered.count_files("a1"), delivered.count_files("a2")) == (
        {"a2": 2},
        0,
        2,
    )
    assert "a1@example.com" not in read_everything(delivered)
    assert '"a1"' not in read_everything(delivered)
    assert "a1 is away" not in read_everything(delivered)
    assert find_account_data(delivered, redis, "a2").counts == others
    again = make_erasure(delivered, redis).erase_data()
    assert (again.total, again.unreached) == (0, {})


def test_the_delete_checks_of_an_erased_account_are_gone(delivered: DeliveredStore, redis: Redis) -> None:
    at = utc_now()
    with delivered.store.transaction() as connection:
        for account in ("a1", "a2"):
            id_ = make_check_id(account, "crm/contacts", "", "main")
            row = ("job", account, "crm/contacts", "list", "main", "", at, at)
            check = DeleteCheck(id_, account, *row, state=DeleteCheckState.DUE, reason="", due_at=at)
            save_delete_checks(connection, [check], now=at)

    before = find_account_data(delivered, redis)
    erased = make_erasure(delivered, redis).erase_data()

    assert before.counts == erased.counts
    checks = DeleteChecks(delivered.store).list_newest(limit=9)
    assert [check.integrated_account_id for check in checks] == ["a2"]


def test_an_erased_pending_delivery_is_discarded_and_never_written(
    delivered: DeliveredStore, redis: Redis
) -> None:
    waiting, other = (delivered.put(a, integrated_account_id=a, records=[{"id": a}]) for a in ("a1", "a2"))

    erased = make_erasure(delivered, redis).erase_data()
    delivered.worker.deliver([waiting, other])

    assert (erased.counts["pending"], erased.counts["bodies"]) == (1, 1)
    assert state(delivered, waiting) == ("discarded", "erased", 0)
    assert state(delivered, other) == ("settled", "", 1)
    assert delivered.count_rows_by_account() == {"a2": 1}


@pytest.mark.parametrize("word", ["dead", "quarantined", "unrouted", "late"])
def test_an_erased_failed_delivery_keeps_its_state(
    delivered: DeliveredStore, redis: Redis, word: str
) -> None:
    delivery = delivered.deliver("1", records=[{"id": "1"}])
    delivered.set_state(delivery, word)

    make_erasure(delivered, redis).erase_data()

    assert state(delivered, delivery) == (word, "", 1)
    assert not delivered.read_bodies()[delivery]


def test_a_pruned_delivery_loses_its_remaining_data_when_erased(
    delivered: DeliveredStore, redis: Redis
) -> None:
    delivery = delivered.deliver("1", "record_error", error={"message": "Ada is away"})
    with delivered.store.engine.begin() as connection:
        connection.execute(deliveries.update().values(body=b"", pruned_at=datetime.now(UTC)))
        connection.execute(record_errors.update().values(raw=""))

    make_erasure(delivered, redis).erase_data()

    with delivered.store.engine.connect() as connection:
        assert list(connection.execute(select(record_errors.c.message)).scalars()) == [""]
    assert state(delivered, delivery) == ("settled", "", 0)


def test_spooled_deliveries_of_the_account_are_erased_and_others_stay(
    delivered: DeliveredStore, redis: Redis
) -> None:
    spool = Spool(redis, NAMESPACE)
    for name, account in (("1", "a1"), ("2", "a2"), ("3", "a1"), ("4", "a2")):
        spool.put(delivered.make_delivery(name, integrated_account_id=account, records=[]))

    assert find_account_data(delivered, redis).counts["spool"] == 2
    erased = make_erasure(delivered, redis).erase_data()

    assert (erased.counts["spool"], spool.count(), spool.count_for_account("a2")) == (2, 2, 2)


def test_a_delivery_drained_from_the_spool_during_the_erasure_is_erased(
    delivered: DeliveredStore, redis: Redis
) -> None:
    incoming = delivered.make_delivery("1", records=[{"id": "1"}])
    delivered.deliver("2", records=[{"id": "2"}])
    work = make_erasure(delivered, redis)

    class Late(Spool):
        """Put the delivery into the inbox only after the inbox was searched."""

        calls = 0

        def erase(self, account: str) -> int:
            self.calls += 1
            if self.calls == 2:
                delivered.inbox.put([incoming])
                DeliveryProcessor(delivered.store, delivered.routes, delivered.sinks).deliver(
                    list(delivered.read_bodies())
                )
            return super().erase(account)

    work._spools = [Late(redis, NAMESPACE)]
    erased = work.erase_data()

    assert erased.unreached == {}
    assert find_account_data(delivered, redis).total == 0


def test_the_report_names_unreachable_places(delivered: DeliveredStore, redis: Redis) -> None:
    delivered.deliver("1", records=[{"id": "1"}])
    delivered.lake.rename(delivered.lake.with_name("away"))

    away = make_erasure(delivered, None).erase_data()
    redis.xadd(Spool(redis, NAMESPACE).unreadable_key, {"empty": ""})
    delivered.lake.with_name("away").rename(delivered.lake)
    back = make_erasure(delivered, redis).erase_data()

    assert away.unreached.keys() == {"spool", "sink lake"}
    assert away.counts["sink main"] == 1
    assert (back.counts["sink lake"], set(back.unreached)) == (1, {"spool"})


def test_deliveries_without_an_account_belong_to_the_account_of_their_run(
    delivered: DeliveredStore, redis: Redis
) -> None:
    delivered.deliver("0", "started", id="r")
    nameless = delivered.deliver("1", integrated_account_id="", records=[{"id": "1", "name": "Ada"}])
    assert delivered.count_rows_by_account() == {"a1": 1}
    stranger = delivered.deliver("2", integrated_account_id="", sync_job_run_id="", records=[{"id": "2"}])

    erased = make_erasure(delivered, redis).erase_data()

    assert not delivered.read_bodies()[nameless]
    assert delivered.read_bodies()[stranger]
    assert not erased.unreached
    assert delivered.count_rows_by_account() == {}


def test_rows_that_a_route_wrote_without_an_account_are_reported(
    delivered: DeliveredStore, redis: Redis
) -> None:
    [route] = delivered.routes.routes
    routes = delivered.routes.model_copy(update={"routes": (route.model_copy(update={"account": ""}),)})
    delivered.put("0", "started", id="r", integrated_account_id="")
    nameless = delivered.put("1", integrated_account_id="", records=[{"id": "1", "name": "Ada"}])
    DeliveryProcessor(delivered.store, routes, delivered.sinks).deliver([nameless])
    delivered.deliver("2", "completed", id="r")

    erased = make_erasure(delivered, redis).erase_data()

    assert not delivered.read_bodies()[nameless]
    assert erased.unreached.keys() == {"rows without an account"}


def test_a_delivery_with_records_of_several_accounts_is_erased_for_each(
    delivered: DeliveredStore, redis: Redis
) -> None:
    [route] = delivered.routes.routes
    routes = delivered.routes.model_copy(update={"routes": (route.model_copy(update={"account": "of"}),)})
    records = [[{"id": "1", "of": account} for account in pair] for pair in (("a1", "ä2"), ("a3", "a4"))]
    mixed, other = (
        delivered.put(str(number), integrated_account_id="", records=pair)
        for number, pair in enumerate(records)
    )
    DeliveryProcessor(delivered.store, routes, delivered.sinks).deliver([mixed, other])
    run_loads(delivered.store, routes, delivered.sinks)
    assert delivered.count_rows_by_account() == {"a1": 1, "ä2": 1, "a3": 1, "a4": 1}
    erasure = make_erasure(delivered, redis, account="ä2")

    assert erasure.count_data().counts["bodies"] == 1
    erased = erasure.erase_data()

    assert not erased.unreached
    bodies = delivered.read_bodies()
    assert (bool(bodies[mixed]), bool(bodies[other])) == (False, True)
    assert delivered.count_rows_by_account() == {"a1": 1, "a3": 1, "a4": 1}


def test_a_pruned_delivery_with_records_of_several_accounts_cannot_be_restored(
    delivered: DeliveredStore, redis: Redis
) -> None:
    [route] = delivered.routes.routes
    routes = delivered.routes.model_copy(update={"routes": (route.model_copy(update={"account": "of"}),)})
    records = [{"id": "1", "of": account} for account in ("a1", "a2")]
    mixed = delivered.put("0", integrated_account_id="", records=records)
    DeliveryProcessor(delivered.store, routes, delivered.sinks).deliver([mixed])
    run_loads(delivered.store, routes, delivered.sinks)
    bodies, body = PrunedBodies(delivered.store), delivered.inbox.read_body(mixed)
    prune_bodies(delivered.store, [mixed], now=utc_now())
    assert bodies.restore(mixed, body)
    prune_bodies(delivered.store, [mixed], now=utc_now())
    erasure = make_erasure(delivered, redis)

    counted = erasure.count_data().counts["pruned"]
    erased = erasure.erase_data()

    assert (counted, erased.counts["pruned"]) == (1, 1)
    assert bodies.find_known([mixed])[mixed].is_erased
    assert not bodies.restore(mixed, body)
    assert not delivered.read_bodies()[mixed]
    assert make_erasure(delivered, redis).count_data().counts["pruned"] == 0


def test_a_damaged_body_with_records_of_several_accounts_is_erased(
    delivered: DeliveredStore, redis: Redis
) -> None:
    [route] = delivered.routes.routes
    routes = delivered.routes.model_copy(update={"routes": (route.model_copy(update={"account": "of"}),)})
    records = [{"id": "1", "of": account} for account in ("a1", "a2")]
    mixed = delivered.put("0", integrated_account_id="", records=records)
    DeliveryProcessor(delivered.store, routes, delivered.sinks).deliver([mixed])
    run_loads(delivered.store, routes, delivered.sinks)
    with delivered.store.engine.begin() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == mixed).values(body=b"damaged"))

    erased = make_erasure(delivered, redis).erase_data()

    assert not erased.unreached
    assert not delivered.read_bodies()[mixed]


class BlockingSink:
    """A real sink that pauses its worker just before the write."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.is_there, self.may_pass = threading.Event(), threading.Event()

    def write(self, batch: Batch, route: Route) -> WriteResult:
        self.is_there.set()
        assert self.may_pass.wait(30)
        return self.sink.write(batch, route)

    def count(self, account: str) -> int:
        return self.sink.count(account)

    def erase(self, account: str) -> int:
        return self.sink.erase(account)

    def close(self) -> None: ...


def test_no_worker_writes_a_delivery_after_its_erasure_ended(delivered: DeliveredStore, redis: Redis) -> None:
    delivered.deliver("0", records=[{"id": "0"}])
    mine, other = (
        delivered.put(a, integrated_account_id=a, records=[{"id": a}, "bad"]) for a in ("a1", "a2")
    )
    gate, messages = BlockingSink(delivered.sinks.open("main")), list[str]()
    worker = DeliveryProcessor(
        delivered.store, delivered.routes, ReplacedSink(delivered.routes, "main", gate)
    )

    with ThreadPoolExecutor(2) as pool:
        job = pool.submit(worker.deliver, [mine, other])
        assert gate.is_there.wait(30)
        work = pool.submit(make_erasure(delivered, redis, messages=messages).erase_data)
        wait_until(lambda: bool(messages), what="the erasure to wait")
        assert not work.done()
        gate.may_pass.set()
        job.result(30)
        # The worker clears its lease, so the erasure need not wait until it ends.
        erased = work.result(30)

    assert messages == [
        "Waiting for workers that are processing 1 delivery of the account: "
        "up to 40 s, or 6 minutes for a load of a warehouse."
    ]
    assert delivered.count_rows_by_account() == {"a2": 1}
    run_loads(delivered.store, delivered.routes, delivered.sinks)
    assert (delivered.count_files("a1"), delivered.count_files("a2")) == (0, 1)
    assert state(delivered, mine) == ("discarded", "erased", 0)
    assert (erased.counts["sink main"], erased.unreached) == (2, {})
    assert find_account_data(delivered, redis).total == 0


def test_an_interrupted_erasure_can_be_repeated(delivered: DeliveredStore, redis: Redis) -> None:
    """Interrupt it between inbox and sinks, while a dead worker holds a lease."""
    mine = delivered.put("1", records=[{"id": "1"}])
    PendingDeliveries(delivered.store).lease([mine], worker="gone", now=datetime.now(UTC), lease_s=600)
    list(make_erasure(delivered, redis)._account_data.erase(now=datetime.now(UTC)))
    delivered.sinks.open("main").write(batch_of(mine), Route(sinks=("main",)))
    messages = list[str]()

    assert find_account_data(delivered, redis).in_progress == 1
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(make_erasure(delivered, redis, messages=messages).erase_data)
        wait_until(lambda: bool(messages), what="the erasure to wait")
        assert delivered.count_rows_by_account() == {"a1": 1}
        is_mine = deliveries.c.id == mine
        delivered.store.execute(update(deliveries).where(is_mine).values(leased_until=datetime.now(UTC)))
        work.result(60)

    assert delivered.count_rows_by_account() == {}


def batch_of(delivery: UUID) -> Batch:
    now = datetime.now(UTC)
    sent = send([{"id": "1"}], delivery_id=delivery, received_at=now, version=now)
    return sent.build_batch(Route(sinks=("main",)))


def test_an_erased_run_keeps_the_numbers_of_its_totals(delivered: DeliveredStore, redis: Redis) -> None:
    delivered.add_run("a1", "r1")

    make_erasure(delivered, redis).erase_data()

    with delivered.store.engine.connect() as connection:
        [run] = connection.execute(select(runs.c.run)).scalars()
    assert run == '{"resource_stats": {"crm/contacts": {"list": {"fetched": 3, "persisted": 3}}}}'


def test_an_erased_run_keeps_the_list_of_events_that_it_sends() -> None:
    run = {"id": "r", "args": {"name": "n"}, "events_to_send": ["record"]}

    assert json.loads(strip_run_details(json.dumps(run))) == {
        "resource_stats": {},
        "events_to_send": ["record"],
    }


def test_no_column_of_any_table_names_an_erased_account(delivered: DeliveredStore, redis: Redis) -> None:
    account, other = "acct-5f3c2d61", "acct-5f3c2d61-2"
    ids = delivered.add_run(account, "run-1")
    delivered.add_run(other, "run-2")
    of_account = DeliveryFilter(integrated_account_id=account, ids=tuple(ids))
    replay = start_replay(delivered.store, ReplayRequest(of_account), requester=BY_TEST, config=CONFIG)
    AuditLog(delivered.store).add(
        AuditEntry(NOW, "dashboard", "", "replay", f"account={account}, state=dead")
    )
    Notifications(delivered.store).add(
        Notification("run.incomplete", "run-1", "c", NOW, {"integrated_account_id": account})
    )
    with delivered.store.transaction() as connection:
        reason = {"discard_reason": f"{account} has left"}
        connection.execute(update(deliveries).where(deliveries.c.id == ids[2]).values(reason))
        connection.execute(update(dead_records).values(message="no number: Ada"))
        connection.execute(update(sink_outcomes).values(message="rejected: Ada"))
        stop = {"stop_reason": f"account {account} has 3 runs"}
        connection.execute(update(runs).where(runs.c.sync_job_run_id == "run-1").values(stop))
    others = find_names(delivered, other)
    assert find_names(delivered, account) == {
        "audit_log.subject", "deliveries.body", "deliveries.discard_reason",
        "deliveries.integrated_account_id", "notifications.payload", "operations.request",
        "record_errors.message", "record_errors.raw", "replays.request", "runs.integrated_account_id", "runs.run",
        "runs.stop_reason", "syncs.integrated_account_id",
    }  # fmt: skip

    found = make_erasure(delivered, redis, account).count_data()
    erased = make_erasure(delivered, redis, account).erase_data()

    assert erased.counts == found.counts
    assert find_names(delivered, account) == set()
    assert find_names(delivered, "Ada") == {"dead_records.message", "sink_outcomes.message"}
    assert find_names(delivered, "Ada", of_deliveries=ids) == set()
    assert find_account_data(delivered, redis, account).total == 0
    # The requests can still be read, and the longer id is another account.
    operation = Operations(delivered.store).get(replay.id)
    assert operation
    request = OperationRequest.from_json(operation.request).delivery_filter
    assert (request.integrated_account_id, {*request.ids}) == (make_pseudonym(account), {*ids})
    assert find_names(delivered, other) == others


@pytest.mark.parametrize(
    "spelling", ["ä/2😀", r"\u00e4/2\ud83d\ude00", r"\u00E4\/2\uD83D\uDE00", r"ä\u002f2😀"]
)
def test_an_account_is_recognized_in_every_spelling_of_json(spelling: str) -> None:
    body = f'{{"of": "{spelling}"}}'.encode()
    assert json.loads(body)["of"] == "ä/2😀"

    assert _mentions(body, "ä/2😀")
    assert not _mentions(body, "ä/3😀")


def test_a_run_of_an_erased_account_is_not_fetched_again(delivered: DeliveredStore, redis: Redis) -> None:
    delivered.add_run("a1", "r1")
    make_erasure(delivered, redis).erase_data()
    run = Runs(delivered.store).get("r1")
    assert run

    # Without a request to this closed port.
    with pytest.raises(OperationRefused, match="rapidbridge runs start"):
        refetch_run(TrutoClient("http://127.0.0.1:9", "token"), run)


def find_names(
    delivered: DeliveredStore, name: str, *, of_deliveries: Sequence[UUID] | None = None
) -> set[str]:
    """Return the columns of all tables that contain a name, in the rows of some deliveries or in all."""
    pattern = re.compile(rf"{re.escape(name)}(?!-)")
    found = set()
    for table in metadata.sorted_tables:
        statement = select(table)
        if of_deliveries is not None:
            if "delivery_id" not in table.c:
                continue
            statement = statement.where(table.c.delivery_id.in_(of_deliveries))
        for row in delivered.store.read(statement):
            for column, value in row._mapping.items():
                text = decompress(value).decode() if isinstance(value, bytes) and value else str(value)
                if pattern.search(text):
                    found.add(f"{table.name.removeprefix('rapidbridge_')}.{column}")
    return found
