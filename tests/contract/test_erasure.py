"""A customer who is erased is gone everywhere, and everybody else is left as they were."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import select

from app.config.routes import Route
from app.erasure import Erasure, ErasureReport
from app.redis.spool import UNREADABLE_KEY, Spool
from app.sinks.base import Batch, Record, Sink, WriteResult
from app.store.pending import PendingDeliveries
from app.store.schema import deliveries, record_errors, runs
from tests.support.delivered_store import DeliveredStore
from tests.support.replaced_sink import ReplacedSink
from tests.support.waiting import wait_until
from workers.delivery.processor import DeliveryProcessor


@pytest.fixture
def stock(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    made = DeliveredStore(store_url, tmp_path)
    yield made
    made.close()


def make_erasure(
    stock: DeliveredStore, redis: Redis | None, account: str = "a1", messages: list[str] | None = None
) -> Erasure:
    return Erasure(
        stock.store,
        account,
        spool=Spool(redis) if redis else None,
        sinks=stock.sinks,
        on_wait=(messages if messages is not None else []).append,
    )


def find_account_data(stock: DeliveredStore, redis: Redis, account: str = "a1") -> ErasureReport:
    return make_erasure(stock, redis, account).count_data()


def read_everything(stock: DeliveredStore) -> str:
    """All that the store and the sinks hold, as text."""
    texts = [path.read_text() for path in stock.lake.rglob("*.jsonl")]
    texts += [str(stock.inbox.read_body(id_)) for id_, body in stock.read_bodies().items() if body]
    with stock.store.engine.connect() as connection:
        for table in ("dead_records", "record_errors", "runs"):
            texts += map(str, connection.exec_driver_sql(f"SELECT * FROM rapidbridge_{table}").all())
        texts += map(str, connection.exec_driver_sql("SELECT data FROM crm_contacts").all())
    return "\n".join(texts)


def state(stock: DeliveredStore, delivery: UUID) -> tuple[Any, ...]:
    columns = (deliveries.c.state, deliveries.c.reason, deliveries.c.records)
    with stock.store.engine.connect() as connection:
        return tuple(connection.execute(select(*columns).where(deliveries.c.id == delivery)).one())


def test_an_account_is_gone_everywhere_and_its_totals_stay(stock: DeliveredStore, redis: Redis) -> None:
    for account in ("a1", "a2"):
        stock.add_run(account, f"run-{account}")
    totals, others = stock.read_totals(["run-a1", "run-a2"]), find_account_data(stock, redis, "a2").counts
    assert "a1@example.com" in read_everything(stock)

    before = find_account_data(stock, redis)
    erased = make_erasure(stock, redis).erase_data()

    assert before.counts == erased.counts
    assert before.counts == {
        "spool": 0,
        "bodies": 5,
        "pending": 0,
        "dead_records": 1,
        "record_errors": 1,
        "runs": 1,
        "sink lake": 2,
        "sink main": 2,
    }
    assert stock.read_totals(["run-a1", "run-a2"]) == totals
    assert (stock.count_rows_by_account(), stock.count_files("a1"), stock.count_files("a2")) == (
        {"a2": 2},
        0,
        2,
    )
    assert "a1@example.com" not in read_everything(stock)
    assert '"a1"' not in read_everything(stock)
    assert "a1 is away" not in read_everything(stock)
    assert find_account_data(stock, redis, "a2").counts == others
    again = make_erasure(stock, redis).erase_data()
    assert (again.total, again.unreached) == (0, {})


def test_what_is_pending_is_discarded_and_never_written(stock: DeliveredStore, redis: Redis) -> None:
    waiting, other = (stock.put(a, integrated_account_id=a, records=[{"id": a}]) for a in ("a1", "a2"))

    erased = make_erasure(stock, redis).erase_data()
    stock.worker.deliver([waiting, other])

    assert (erased.counts["pending"], erased.counts["bodies"]) == (1, 1)
    assert state(stock, waiting) == ("discarded", "erased", 0)
    assert state(stock, other) == ("settled", "", 1)
    assert stock.count_rows_by_account() == {"a2": 1}


@pytest.mark.parametrize("word", ["dead", "quarantined", "unrouted", "late"])
def test_what_is_stranded_is_erased_in_its_state(stock: DeliveredStore, redis: Redis, word: str) -> None:
    delivery = stock.deliver("1", records=[{"id": "1"}])
    stock.set_state(delivery, word)

    make_erasure(stock, redis).erase_data()

    assert state(stock, delivery) == (word, "", 1)
    assert not stock.read_bodies()[delivery]


def test_what_was_pruned_before_is_erased_to_the_end(stock: DeliveredStore, redis: Redis) -> None:
    delivery = stock.deliver("1", "record_error", error={"message": "Ada is away"})
    with stock.store.engine.begin() as connection:
        connection.execute(deliveries.update().values(body=b"", pruned_at=datetime.now(UTC)))
        connection.execute(record_errors.update().values(raw=""))

    make_erasure(stock, redis).erase_data()

    with stock.store.engine.connect() as connection:
        assert list(connection.execute(select(record_errors.c.message)).scalars()) == [""]
    assert state(stock, delivery) == ("settled", "", 0)


def test_what_waits_in_redis_is_erased_and_others_stay(stock: DeliveredStore, redis: Redis) -> None:
    spool = Spool(redis)
    for name, account in (("1", "a1"), ("2", "a2"), ("3", "a1"), ("4", "a2")):
        spool.put(stock.make_delivery(name, integrated_account_id=account, records=[]))

    assert find_account_data(stock, redis).counts["spool"] == 2
    erased = make_erasure(stock, redis).erase_data()

    assert (erased.counts["spool"], spool.count(), spool.count_for_account("a2")) == (2, 2, 2)


def test_what_moves_from_redis_meanwhile_is_erased_too(stock: DeliveredStore, redis: Redis) -> None:
    arrival = stock.make_delivery("1", records=[{"id": "1"}])
    stock.deliver("2", records=[{"id": "2"}])
    work = make_erasure(stock, redis)

    class Late(Spool):
        """Another drained it just before: it is in the inbox only once that was looked through."""

        calls = 0

        def erase(self, account: str) -> int:
            self.calls += 1
            if self.calls == 2:
                stock.inbox.put([arrival])
                DeliveryProcessor(stock.store, stock.routes, stock.sinks).deliver(list(stock.read_bodies()))
            return super().erase(account)

    work._spool = Late(redis)
    erased = work.erase_data()

    assert erased.unreached == {}
    assert find_account_data(stock, redis).total == 0


def test_what_cannot_be_reached_is_named(stock: DeliveredStore, redis: Redis) -> None:
    stock.deliver("1", records=[{"id": "1"}])
    stock.lake.rename(stock.lake.with_name("away"))

    away = make_erasure(stock, None).erase_data()
    redis.xadd(UNREADABLE_KEY, {"empty": ""})
    stock.lake.with_name("away").rename(stock.lake)
    back = make_erasure(stock, redis).erase_data()

    assert away.unreached.keys() == {"spool", "sink lake"}
    assert away.counts["sink main"] == 1
    assert (back.counts["sink lake"], set(back.unreached)) == (1, {"spool"})


def test_deliveries_of_its_runs_that_name_no_account_are_its_own(stock: DeliveredStore, redis: Redis) -> None:
    stock.deliver("0", "started", id="r")
    nameless = stock.deliver("1", integrated_account_id="", records=[{"id": "1", "name": "Ada"}])
    stranger = stock.deliver("2", integrated_account_id="", sync_job_run_id="", records=[{"id": "2"}])

    erased = make_erasure(stock, redis).erase_data()

    assert not stock.read_bodies()[nameless]
    assert stock.read_bodies()[stranger]
    assert erased.unreached.keys() == {"rows without an account"}


class BlockingSink:
    """The real sink, but a worker is stopped just before it writes."""

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


def test_what_a_worker_has_in_hand_is_not_written_after_it(stock: DeliveredStore, redis: Redis) -> None:
    stock.deliver("0", records=[{"id": "0"}])
    mine, other = (stock.put(a, integrated_account_id=a, records=[{"id": a}, "bad"]) for a in ("a1", "a2"))
    gate, told = BlockingSink(stock.sinks.open("main")), list[str]()
    worker = DeliveryProcessor(stock.store, stock.routes, ReplacedSink(stock.routes, "main", gate))

    with ThreadPoolExecutor(2) as pool:
        job = pool.submit(worker.deliver, [mine, other])
        assert gate.is_there.wait(30)
        work = pool.submit(make_erasure(stock, redis, messages=told).erase_data)
        wait_until(lambda: bool(told), what="the erasure to wait")
        assert not work.done()
        gate.may_pass.set()
        job.result(30)
        # The worker says so when it is done: nobody waits for its lease.
        erased = work.result(30)

    assert told == ["Waiting up to 40 s for workers that are processing 1 of the account's deliveries."]
    assert stock.count_rows_by_account() == {"a2": 1}
    assert (stock.count_files("a1"), stock.count_files("a2")) == (0, 1)
    assert state(stock, mine) == ("discarded", "erased", 0)
    assert (erased.counts["sink main"], erased.unreached) == (2, {})
    assert find_account_data(stock, redis).total == 0


def test_one_that_was_broken_off_is_gone_on_with(stock: DeliveredStore, redis: Redis) -> None:
    """Between inbox and sinks, with a worker at it that never comes back."""
    mine = stock.put("1", records=[{"id": "1"}])
    PendingDeliveries(stock.store).lease([mine], worker="gone", now=datetime.now(UTC), lease_s=2)
    list(make_erasure(stock, redis)._account_data.erase(now=datetime.now(UTC)))
    stock.sinks.open("main").write(batch_of(mine), Route(sinks=("main",)))
    began = datetime.now(UTC)

    assert find_account_data(stock, redis).in_progress == 1
    make_erasure(stock, redis).erase_data()

    assert (datetime.now(UTC) - began).total_seconds() > 1
    assert stock.count_rows_by_account() == {}


def batch_of(delivery: UUID) -> Batch:
    now = datetime.now(UTC)
    return Batch(delivery, now, now, "crm/contacts", "list", "a1", "j", "r", [Record(0, {"id": "1"})])


def test_a_run_of_it_keeps_what_its_totals_need(stock: DeliveredStore, redis: Redis) -> None:
    stock.add_run("a1", "r1")

    make_erasure(stock, redis).erase_data()

    with stock.store.engine.connect() as connection:
        [run] = connection.execute(select(runs.c.run)).scalars()
    assert run == '{"resource_stats": {"crm/contacts": {"list": {"fetched": 3, "persisted": 3}}}}'
