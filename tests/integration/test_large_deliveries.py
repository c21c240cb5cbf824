"""Large deliveries are written in slices, over several jobs, while other deliveries go on."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import select, text, update

from app.config.routes import Route
from app.config.sinks import FilesSinkConfig
from app.database.engine import Database, open_database
from app.errors import SinkUnavailable
from app.redis.queue import JOB_TIMEOUT_S
from app.runs.reconciliation import reconcile_counts
from app.sinks.base import Batch, WriteResult
from app.sinks.sql import sink as sql_sink
from app.store.erasure import AccountData
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.notifications import Notifications
from app.store.requeue import delete_outcomes, mark_pending
from app.store.run_totals import SinkTotals, read_run_totals
from app.store.runs import Runs
from app.store.schema import dead_records, deliveries, record_errors, runs, sink_outcomes
from app.store.sink_states import SinkStates
from app.store.sink_status import list_failing_sinks
from app.truto import record_slices
from app.truto.events import read_envelope
from app.web.enqueuer import NewDelivery
from tests.integration.test_delivery import EVERYTHING, DeliverySetup, batch
from tests.support.processes import Command, find_descendants
from tests.support.redis_keys import open_queue
from tests.support.replaced_sink import ReplacedSink
from tests.support.slice_files import SliceFiles
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment
from workers.background.releaser import Releaser
from workers.delivery import parser, processor, sink_writer
from workers.delivery.processor import DeliveryProcessor

LARGE_PAGE = 300_000
# Each of the 300 statements of the large page waits: a fast machine, too, needs several jobs for it.
SLOW_STATEMENTS = """
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.025); RETURN NULL; END $$;
CREATE TRIGGER wait AFTER INSERT ON crm_contacts FOR EACH STATEMENT EXECUTE FUNCTION wait();
"""
# Four times the page, and what Python and the libraries take.
MAX_WORKER_MIB = 200
PAGE_WITH_UNREADABLE_RECORD = (
    '[{"id": "0"}, {"id": "1"}, {"id": "2"}, {"id": "3"}, NaN, {"id": "5"}, {"id": "6"}]'
)


def put(inbox: Inbox, records: str, *, event_id: str) -> UUID:
    """Receive one page, as the web process does."""
    envelope = json.dumps(
        {"id": event_id, "event": "sync_job_run:record", "created_at": "2026-11-24T10:00:00Z"}
    )
    ids = {"sync_job_run_id": "r", "integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
    payload = f'{json.dumps(ids)[:-1]}, "records": [{records}]}}'
    body = f'{envelope[:-1]}, "payload": {payload}}}'.encode()
    digest = hashlib.sha256(body).digest()
    [receipt] = inbox.put([IncomingDelivery(body, digest, datetime.now(UTC), read_envelope(body))])
    return receipt.delivery_id


def find_worker(command: Command) -> int:
    """Return the process id of the only worker."""
    commands = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in find_descendants(command.pid)
    }
    [worker] = [pid for pid, arguments in commands.items() if b"workers.main" in arguments]
    return worker


def read_peak_mib(pid: int) -> int:
    """Return the largest resident memory of a process so far."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:6] == "VmHWM:"]
    return int(line.split()[1]) // 1024


@pytest.fixture
def store(postgres_url: str) -> Iterator[Database]:
    database = open_database(postgres_url)
    migrate(database)
    yield database
    database.close()


def test_a_large_page_delays_no_other_and_survives_a_killed_worker(
    tmp_path: Path, store: Database, postgres_url: str, redis_url: str, redis: Redis
) -> None:
    inbox = Inbox(store)

    def query(statement: str) -> int:
        with store.engine.connect() as connection:
            return int(connection.execute(text(statement)).scalar_one())

    def count_states() -> dict[str, int]:
        return {state: number for state, number in inbox.count_by_state().items() if number}

    setup = DeliverySetup(store, postgres_url, EVERYTHING)
    setup.processor.deliver([put(inbox, '{"id":"first"}', event_id="first")])
    setup.sinks.close()
    store.execute(text(SLOW_STATEMENTS))
    settings = make_environment(DATABASE_URL=postgres_url, REDIS_URL=redis_url)
    records = ",".join(f'{{"id":"{number:07d}","n":{number}}}' for number in range(LARGE_PAGE))
    large = put(inbox, records, event_id="large")
    small = [put(inbox, f'{{"id":"small-{number}"}}', event_id=f"{number}") for number in range(40)]
    with Command(["app.cli", "worker", "-n", "1"], folder=tmp_path, environment=settings) as command:
        open_queue(redis, store).enqueue([NewDelivery(id_) for id_ in (large, *small)])

        # The small ones are behind the large one in the same queue.
        wait_until(lambda: count_states().get("settled", 0) == 41, timeout_s=60, what=lambda: command.log)
        assert count_states()["pending"] == 1
        written = (
            "SELECT coalesce(max(written), 0) FROM rapidbridge_sink_outcomes WHERE reason = 'in_progress'"
        )
        wait_until(lambda: query(written) > LARGE_PAGE / 4, timeout_s=120, what=lambda: command.log)
        worker = find_worker(command)
        peak_mib = read_peak_mib(worker)
        os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: count_states() == {"settled": 42},
            timeout_s=300,
            what=lambda: command.log,
        )

        peak_mib = max(peak_mib, read_peak_mib(find_worker(command)))
    assert query("SELECT count(*) FROM crm_contacts") == LARGE_PAGE + 41
    assert query("SELECT sum((data->>'n')::bigint) FROM crm_contacts") == sum(range(LARGE_PAGE))
    assert query("SELECT sum(written) FROM rapidbridge_sink_outcomes WHERE state = 'done'") == LARGE_PAGE + 41
    assert query("SELECT max(records) FROM rapidbridge_deliveries") == LARGE_PAGE
    assert peak_mib < MAX_WORKER_MIB
    assert f"timed out after {JOB_TIMEOUT_S} s" not in command.log


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of three records, and one slice for each job."""
    monkeypatch.setattr(record_slices, "MAX_SLICE_RECORDS", 3)
    monkeypatch.setattr(processor, "_DELIVERY_TIME_LIMIT_S", 0.0)


OpenSetup = Callable[..., DeliverySetup]


@pytest.fixture
def open_setup(store: Database, postgres_url: str) -> Iterator[OpenSetup]:
    """Open a store with the sink "main" in the same database, by other routes or another URL if given."""
    setups: list[DeliverySetup] = []

    def open_one(*routes: Route, url: str = postgres_url, **sinks: FilesSinkConfig) -> DeliverySetup:
        setups.append(DeliverySetup(store, url, routes or EVERYTHING, **sinks))
        return setups[-1]

    yield open_one
    for setup in setups:
        setup.sinks.close()


def read_states(store: Database) -> list[tuple[str, str, int, int]]:
    columns = (deliveries.c.state, deliveries.c.reason, deliveries.c.records, deliveries.c.attempts)
    return [tuple(row) for row in store.read(select(*columns).order_by(deliveries.c.event_id))]


def read_dead_records(store: Database) -> list[tuple[str, int]]:
    """Return the sink and the ordinal of each dead record."""
    columns = (dead_records.c.sink, dead_records.c.ordinal)
    return [tuple(row) for row in store.read(select(*columns).order_by(*columns))]


def deliver_until_settled(setup: DeliverySetup, delivery: UUID) -> int:
    """Process a delivery by jobs of new workers; return the number of jobs."""
    for number in range(1, 20):
        setup.new_processor().deliver([delivery])
        if setup.state(delivery)[0] != "pending":
            return number
    raise AssertionError(setup.state(delivery))


def read_lake(folder: Path) -> dict[str, list[int]]:
    """Return the ordinals in each file by its name, without the id of the delivery."""
    return {
        path.name.partition(".")[2]: [json.loads(line)["_ordinal"] for line in path.read_text().splitlines()]
        for path in folder.rglob("*.jsonl")
    }


@pytest.mark.parametrize("store_kind", ["sqlite", "postgresql"])
@pytest.mark.usefixtures("small_slices")
def test_a_large_delivery_is_written_exactly_once_by_several_jobs(
    request: pytest.FixtureRequest, tmp_path: Path, store_kind: str
) -> None:
    url = request.getfixturevalue("postgres_url") if store_kind == "postgresql" else f"sqlite:///{tmp_path}/s"
    database = open_database(url)
    migrate(database)
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    setup = DeliverySetup(database, url, (Route(sinks=("main", "lake")),), lake=lake)
    setup.sinks = ReplacedSink(setup.routes, "lake", SliceFiles(tmp_path / "lake"))
    records = [f'{{"id": "{n % 9}", "n": {n}}}' for n in range(11)]
    records[4], records[7] = "NaN", '"no object"'
    delivery = setup.put("sync_job_run:record", batch(f"[{', '.join(records)}]"))

    setup.new_processor().deliver([delivery])

    assert read_states(database) == [("pending", "in_progress", 11, 0)]
    totals = {
        total.sink: (total.records, total.written) for total in read_run_totals(database, ["r"])["r"].sinks
    }
    assert totals == {"main": (11, 3), "lake": (11, 3)}
    for _ in range(2):
        # Both sinks get a slice in each job.
        assert deliver_until_settled(setup, delivery) in (3, 4)
        assert read_states(database)[0][:3] == ("settled", "", 11)
        assert {key: row["n"] for key, row in setup.rows("crm_contacts").items()} == {
            "0": 9, "1": 10, "2": 2, "3": 3, "5": 5, "6": 6, "8": 8
        }  # fmt: skip
        assert read_lake(tmp_path / "lake") == {
            "jsonl": [0, 1, 2],
            "00000003.jsonl": [3, 5],
            "00000006.jsonl": [6, 8],
            "00000009.jsonl": [9, 10],
        }
        dead = database.read(select(dead_records).order_by(dead_records.c.ordinal, dead_records.c.sink))
        assert [(row.sink, row.ordinal, row.reason, row.raw) for row in dead] == [
            ("", 4, "not_a_number", "NaN"),
            ("lake", 7, "not_object", '"no object"'),
            ("main", 7, "not_object", '"no object"'),
        ]
        assert sorted(read_run_totals(database, ["r"])["r"].sinks, key=lambda total: total.sink) == [
            SinkTotals("crm/contacts", "list", "lake", 11, 9, 2),
            SinkTotals("crm/contacts", "list", "main", 11, 9, 2),
        ]
        # As a replay does.
        with database.transaction() as connection:
            delete_outcomes(connection, [delivery], "")
            mark_pending(connection, [delivery], replay_id=UUID(int=1), now=datetime.now(UTC))
    setup.sinks.close()
    database.close()


@pytest.mark.usefixtures("small_slices")
def test_a_sink_that_is_paused_half_way_continues_after_the_others(
    open_setup: OpenSetup, store: Database, tmp_path: Path
) -> None:
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    setup = open_setup(Route(sinks=("main", "lake")), lake=lake)
    setup.sinks = ReplacedSink(setup.routes, "lake", SliceFiles(tmp_path / "lake"))
    records = ", ".join(f'{{"id": "{number}"}}' for number in range(8))
    delivery = setup.put("sync_job_run:record", batch(f"[{records}]"))
    setup.new_processor().deliver([delivery])
    states = SinkStates(store)
    states.pause("lake", by="ada", reason="", now=datetime.now(UTC))

    for _ in range(2):
        # A release of another sink in between changes nothing.
        Releaser(store).run_once()
        setup.new_processor().deliver([delivery])
    assert read_states(store) == [("pending", "sink_paused", 8, 0)]
    assert len(setup.rows("crm_contacts")) == 8
    assert read_lake(tmp_path / "lake") == {"jsonl": [0, 1, 2]}
    states.resume("lake")
    Releaser(store).run_once()

    assert deliver_until_settled(setup, delivery) == 2
    assert read_states(store) == [("settled", "", 8, 1)]
    assert read_lake(tmp_path / "lake") == {
        "jsonl": [0, 1, 2],
        "00000003.jsonl": [3, 4, 5],
        "00000006.jsonl": [6, 7],
    }
    totals = read_run_totals(store, ["r"])["r"].sinks
    assert {(total.sink, total.written, total.dead) for total in totals} == {("main", 8, 0), ("lake", 8, 0)}


@pytest.mark.usefixtures("small_slices")
def test_a_large_delivery_starts_over_by_other_routes(open_setup: OpenSetup, store: Database) -> None:
    setup = open_setup()
    records = ["no object", *({"id": str(n)} for n in range(7))]
    delivery = setup.deliver("sync_job_run:record", batch(json.dumps(records)))
    assert len(store.read(select(dead_records))) == 1

    changed = open_setup(Route(sinks=("main",), table="people", on_non_object="wrap"))
    changed.processor.deliver([delivery])
    assert read_states(store)[0] == ("pending", "worker_outdated", 8, 1)
    changed.release()
    deliver_until_settled(changed, delivery)

    assert len(changed.rows("people")) == 8
    assert read_run_totals(store, ["r"])["r"].sinks == [SinkTotals("crm/contacts", "list", "main", 8, 8, 0)]
    assert store.read(select(dead_records)) == []


@pytest.mark.usefixtures("small_slices")
def test_a_replay_for_one_sink_keeps_the_unreadable_records_of_the_others(
    open_setup: OpenSetup, store: Database
) -> None:
    setup = open_setup()
    delivery = setup.put("sync_job_run:record", batch(PAGE_WITH_UNREADABLE_RECORD))
    deliver_until_settled(setup, delivery)

    with store.transaction() as connection:
        delete_outcomes(connection, [delivery], "lake")
        mark_pending(connection, [delivery], replay_id=UUID(int=1), now=datetime.now(UTC))
    deliver_until_settled(setup, delivery)

    assert read_dead_records(store) == [("", 4)]


@pytest.mark.usefixtures("small_slices")
def test_workers_of_two_configurations_cannot_restart_a_delivery_forever(
    open_setup: OpenSetup, store: Database
) -> None:
    setup, other = open_setup(), open_setup(Route(sinks=("main",), table="people"))
    delivery = setup.put("sync_job_run:record", batch(json.dumps([{"id": str(n)} for n in range(7)])))
    setup.processor.deliver([delivery])

    for workers in (other, setup):
        workers.processor.deliver([delivery])
        setup.release()
    assert read_states(store) == [("pending", "worker_outdated", 7, 2)]
    with store.transaction() as connection:
        connection.execute(update(deliveries).values(attempts=599))
    other.processor.deliver([delivery])

    assert setup.state(delivery)[:2] == ("dead", "worker_outdated")


class InterruptedSink(SliceFiles):
    """A sink that is unavailable `failures` times, for the slice with this first ordinal."""

    def __init__(self, folder: Path, first_ordinal: int, *, failures: int = 1) -> None:
        super().__init__(folder)
        self._first_ordinal = first_ordinal
        self._failures = failures
        self.written: list[int] = []

    def write(self, batch: Batch, route: Route) -> WriteResult:
        if self._failures and batch.first_ordinal == self._first_ordinal:
            self._failures -= 1
            raise SinkUnavailable("the disk is full")
        self.written.append(batch.first_ordinal)
        return super().write(batch, route)


@pytest.mark.usefixtures("small_slices")
def test_a_sink_that_fails_at_once_keeps_the_unreadable_records_of_a_finished_one(
    open_setup: OpenSetup, store: Database, tmp_path: Path
) -> None:
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    setup = open_setup(Route(sinks=("main", "lake")), lake=lake)
    setup.sinks = ReplacedSink(setup.routes, "lake", InterruptedSink(tmp_path / "lake", 0, failures=9))
    delivery = setup.put("sync_job_run:record", batch(PAGE_WITH_UNREADABLE_RECORD))

    for _ in range(5):
        setup.new_processor().deliver([delivery])
        setup.release()

    assert read_states(store)[0][:2] == ("pending", "sink_unavailable")
    assert read_dead_records(store) == [("", 4)]


@pytest.mark.usefixtures("small_slices")
def test_a_restarted_sink_keeps_the_unreadable_records_of_a_finished_one(
    open_setup: OpenSetup, store: Database, tmp_path: Path
) -> None:
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    setup = open_setup(Route(sinks=("main", "lake")), lake=lake)
    setup.sinks = ReplacedSink(setup.routes, "lake", InterruptedSink(tmp_path / "lake", 3, failures=9))
    delivery = setup.put("sync_job_run:record", batch(PAGE_WITH_UNREADABLE_RECORD))
    for _ in range(3):
        setup.new_processor().deliver([delivery])
    assert {total.sink: total.written for total in read_run_totals(store, ["r"])["r"].sinks} == {
        "main": 6,
        "lake": 3,
    }
    setup.release()

    changed = open_setup(Route(sinks=("main", "lake"), table="people"), lake=lake)
    changed.sinks = ReplacedSink(changed.routes, "lake", SliceFiles(tmp_path / "lake"))
    changed.new_processor().deliver([delivery])

    assert read_dead_records(store) == [("", 4)]


@pytest.mark.usefixtures("small_slices")
def test_a_sink_starts_over_after_a_worker_of_the_earlier_release(
    open_setup: OpenSetup, store: Database
) -> None:
    setup = open_setup()
    delivery = setup.put("sync_job_run:record", batch(json.dumps([{"id": str(n)} for n in range(7)])))
    setup.new_processor().deliver([delivery])
    assert list_failing_sinks(store) == []

    # Its failing attempt knows no progress.
    with store.transaction() as connection:
        connection.execute(update(sink_outcomes).values(written=0, reason="sink_unavailable"))
    setup.new_processor().deliver([delivery])
    setup.release()
    deliver_until_settled(setup, delivery)

    assert read_run_totals(store, ["r"])["r"].sinks == [SinkTotals("crm/contacts", "list", "main", 7, 7, 0)]


def read_replaced_characters(store: Database) -> int:
    [(number,)] = store.read(select(deliveries.c.replaced_characters))
    return int(number)


@pytest.mark.usefixtures("small_slices")
def test_the_replaced_characters_of_a_finished_sink_stay_counted_by_other_routes(
    open_setup: OpenSetup, store: Database, tmp_path: Path
) -> None:
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    setup = open_setup(Route(sinks=("main", "lake")), lake=lake)
    setup.sinks = ReplacedSink(setup.routes, "lake", InterruptedSink(tmp_path / "lake", 0, failures=9))
    records = json.dumps([{"id": str(n)} for n in range(6)] + [{"id": "6", "name": "\0"}])
    delivery = setup.put("sync_job_run:record", batch(records))
    for _ in range(4):
        setup.new_processor().deliver([delivery])
        setup.release()
    assert read_replaced_characters(store) == 1

    changed = open_setup(Route(sinks=("main",), table="people"))
    changed.processor.deliver([delivery])

    assert setup.state(delivery)[0] == "settled"
    assert read_replaced_characters(store) == 1


def test_a_retry_continues_where_the_sink_failed(
    open_setup: OpenSetup, store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_RECORDS", 3)
    setup = open_setup()
    sink = InterruptedSink(tmp_path / "lake", first_ordinal=6)
    setup.sinks = ReplacedSink(setup.routes, "main", sink)
    delivery = setup.put("sync_job_run:record", batch(json.dumps([{"id": str(n)} for n in range(11)])))

    setup.new_processor().deliver([delivery])

    assert read_states(store) == [("pending", "sink_unavailable", 11, 1)]
    with store.transaction() as connection:
        connection.execute(update(deliveries).values(leased_until=None))
    assert deliver_until_settled(setup, delivery) == 1
    assert sink.written == [0, 3, 6, 9]


def test_a_dead_large_delivery_counts_only_its_unwritten_records_as_dead(
    open_setup: OpenSetup, store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_RECORDS", 3)
    setup = open_setup()
    setup.sinks = ReplacedSink(setup.routes, "main", InterruptedSink(tmp_path / "lake", first_ordinal=6))
    delivery = setup.put("sync_job_run:record", batch(json.dumps([{"id": str(n)} for n in range(11)])))
    with store.transaction() as connection:
        connection.execute(update(deliveries).values(attempts=599))

    setup.new_processor().deliver([delivery])

    assert setup.state(delivery) == ("dead", "sink_unavailable", 11)
    assert read_run_totals(store, ["r"])["r"].sinks == [SinkTotals("crm/contacts", "list", "main", 11, 6, 5)]


ENDED_RUN = json.dumps(
    {
        "id": "r",
        "status": "completed",
        "integrated_account_id": "a",
        "resource_stats": {"crm/contacts": {"list": {"fetched": 11, "persisted": 11}}},
    }
)


def read_gap_reasons(store: Database) -> tuple[str, list[tuple[str, int | None]]]:
    """Return the verdict of the run, and its gap reasons."""
    run = Runs(store).get("r")
    assert run
    reconciliation = reconcile_counts(run, read_run_totals(store, ["r"])["r"])
    gaps = [(gap.code, gap.records) for counts in reconciliation.resources for gap in counts.gap_reasons]
    return reconciliation.verdict, gaps


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(
    ("routes", "keep_late", "state", "gap"),
    [
        ((Route(resource="other", sinks=("main",)),), False, "unrouted", "unrouted"),
        (EVERYTHING, True, "late", "late"),
        # The run names the account no longer.
        ((Route(sinks=("main",), account="account"),), False, "quarantined", "no_account"),
    ],
)
def test_the_written_part_of_a_delivery_that_ends_otherwise_counts_once(
    open_setup: OpenSetup,
    store: Database,
    routes: tuple[Route, ...],
    state: str,
    gap: str,
    *,
    keep_late: bool,
) -> None:
    setup = open_setup(Route(sinks=("main",), account=""))
    records = [f'{{"id": "{n}"}}' for n in range(11)]
    records[1] = "NaN"
    page = batch(f"[{', '.join(records)}]", integrated_account_id=None if state == "quarantined" else "a")
    delivery = setup.put("sync_job_run:record", page)
    setup.new_processor().deliver([delivery])
    run = ENDED_RUN.replace("integrated_account_id", "removed") if state == "quarantined" else ENDED_RUN
    setup.deliver("sync_job_run:completed", run, id_="end")
    if keep_late:
        with store.transaction() as connection:
            stopped_at = datetime(2026, 11, 24, tzinfo=UTC)
            connection.execute(update(runs).values(status="stopped", stopped_at=stopped_at))

    changed = open_setup(*routes)
    DeliveryProcessor(store, changed.routes, changed.sinks, keep_late=keep_late).deliver([delivery])

    assert setup.state(delivery)[::2] == (state, 11)
    assert read_run_totals(store, ["r"])["r"].sinks == [SinkTotals("crm/contacts", "list", "main", 11, 2, 1)]
    assert read_gap_reasons(store)[1] == [("dead", 1), (gap, 8)]


@pytest.mark.usefixtures("small_slices")
def test_a_half_written_delivery_that_kills_its_workers_keeps_its_number_of_records(
    open_setup: OpenSetup, store: Database
) -> None:
    setup = open_setup()
    delivery = setup.deliver("sync_job_run:record", batch(json.dumps([{"id": str(n)} for n in range(11)])))
    setup.deliver("sync_job_run:completed", ENDED_RUN, id_="end")

    with store.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id == delivery).values(lost_attempts=3))
    setup.processor.deliver([delivery])

    assert setup.state(delivery) == ("dead", "worker_lost", 11)
    assert read_gap_reasons(store) == ("complete", [("dead", 8)])


@pytest.mark.usefixtures("small_slices")
def test_the_records_of_a_large_delivery_may_name_their_accounts(
    open_setup: OpenSetup, store: Database
) -> None:
    setup = open_setup(Route(sinks=("main",), account="account"))
    records = [{"id": str(n), **({"account": f"a{n % 2}"} if n > 3 else {})} for n in range(8)]
    page = batch(json.dumps(records), integrated_account_id=None)

    delivery = setup.put("sync_job_run:record", page)
    deliver_until_settled(setup, delivery)

    assert read_account(store, delivery) == ("", "record")
    with store.engine.connect() as connection:
        rows = connection.execute(text('SELECT "_account", "_key" FROM crm_contacts ORDER BY "_key"')).all()
    assert [tuple(row) for row in rows] == [("a0", "4"), ("a1", "5"), ("a0", "6"), ("a1", "7")]
    dead = store.read(select(dead_records.c.ordinal, dead_records.c.reason).order_by(dead_records.c.ordinal))
    assert [tuple(row) for row in dead] == [(n, "no_account") for n in range(4)]


def read_account(store: Database, delivery: UUID) -> tuple[str, str]:
    columns = (deliveries.c.integrated_account_id, deliveries.c.account_source)
    [row] = store.read(select(*columns).where(deliveries.c.id == delivery))
    return row[0], row[1]


@pytest.mark.usefixtures("small_slices")
def test_a_large_delivery_gets_the_only_account_that_its_records_name(
    open_setup: OpenSetup, store: Database, tmp_path: Path
) -> None:
    lake = FilesSinkConfig(type="files", url=f"file://{tmp_path}/lake")
    setup = open_setup(Route(sinks=("main", "lake"), account="account"), lake=lake)
    setup.sinks = ReplacedSink(setup.routes, "lake", InterruptedSink(tmp_path / "lake", 0, failures=3))
    records = [{"id": str(n), "account": "a0"} for n in range(8)]
    page = batch(json.dumps(records), integrated_account_id=None)
    delivery = setup.put("sync_job_run:record", page)
    setup.new_processor().deliver([delivery])
    assert read_account(store, delivery) == ("", "record")

    for _ in range(2):
        setup.new_processor().deliver([delivery])
    # One sink has all records.
    assert setup.state(delivery)[0] == "pending"
    assert read_account(store, delivery) == ("a0", "record")
    setup.release()
    deliver_until_settled(setup, delivery)

    assert read_account(store, delivery) == ("a0", "record")
    assert sum(len(ordinals) for ordinals in read_lake(tmp_path / "lake").values()) == 8


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(("last_has_key", "notified"), [(True, 0), (False, 1)])
def test_a_key_is_missing_only_if_no_slice_has_it(
    open_setup: OpenSetup, store: Database, *, last_has_key: bool, notified: int
) -> None:
    setup = open_setup()
    records: list[dict[str, object]] = [{"name": n} for n in range(7)]
    if last_has_key:
        records[6]["id"] = "1"

    deliver_until_settled(setup, setup.put("sync_job_run:record", batch(json.dumps(records))))

    assert len(Notifications(store).list_open("key.missing")) == notified


def test_millions_of_record_errors_are_stored_by_several_jobs(
    open_setup: OpenSetup, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "MAX_RECORD_ERRORS", 3)
    setup = open_setup()
    errors = [{"status": 400 + number} for number in range(7)]
    payload = json.dumps({"sync_job_run_id": "r", "integrated_account_id": "a", "errors": errors})
    delivery = setup.put("sync_job_run:record_error", payload)

    setup.new_processor().deliver([delivery])
    assert read_states(store) == [("pending", "in_progress", 0, 0)]
    assert deliver_until_settled(setup, delivery) == 2

    stored = store.read(select(record_errors.c.ordinal, record_errors.c.remote_status).order_by("ordinal"))
    assert [tuple(row) for row in stored] == [(number, 400 + number) for number in range(7)]


def test_a_job_saves_a_bounded_number_of_dead_records(
    open_setup: OpenSetup, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_RECORDS", 3)
    monkeypatch.setattr(sink_writer, "MAX_DEAD_RECORDS", 3)
    monkeypatch.setattr(processor, "_MAX_ROWS", 3)
    setup = open_setup()
    bad = setup.put("sync_job_run:record", batch("[NaN, NaN, NaN, NaN]"), id_="1")
    later = setup.put("sync_job_run:record", batch('[{"id": "1"}]'), id_="2")

    setup.new_processor().deliver([bad, later])

    # Nothing counts as an attempt.
    assert read_states(store) == [("pending", "in_progress", 4, 0), ("pending", "", 0, 0)]
    assert deliver_until_settled(setup, bad) == deliver_until_settled(setup, later) == 1
    assert len(store.read(select(dead_records.c.ordinal))) == 4


def test_large_deliveries_are_the_last_of_their_job(
    open_setup: OpenSetup, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "MAX_SLICE_BYTES", 1000)
    monkeypatch.setattr(processor, "_JOB_TIME_LIMIT_S", 0.5)
    setup = open_setup()
    large = [
        setup.put("sync_job_run:record", batch(f"[{','.join(['[]'] * 300_000)}]"), id_=str(number))
        for number in range(3)
    ]
    small = setup.put("sync_job_run:record", batch('[{"id": "1"}]'), id_="3")

    setup.processor.deliver([*large, small])

    assert setup.state(small)[0] == "settled"
    assert setup.state(large[2])[0] == "pending"


def test_a_batch_that_waits_for_a_lock_delays_no_other(
    open_setup: OpenSetup, store: Database, postgres_url: str
) -> None:
    setup = open_setup(url=f"{postgres_url}&options=-c%20statement_timeout%3D2500")
    setup.deliver("sync_job_run:record", batch('[{"id": "locked"}, {"id": "too"}]'), id_="0")
    pages = {"1": "locked", "2": "free", "3": "too"}
    [locked, free, too] = [
        setup.put("sync_job_run:record", batch(f'[{{"id": "{key}"}}]'), id_=id_) for id_, key in pages.items()
    ]
    with store.engine.connect() as connection, connection.begin():
        connection.execute(text("SELECT * FROM crm_contacts FOR UPDATE"))
        for delivery in (locked, free, too):
            setup.processor.deliver([delivery])

        assert setup.state(locked)[:2] == ("pending", "batch_timeout")
        assert setup.state(free)[0] == "settled"
        assert setup.state(too)[:2] == ("pending", "batch_timeout")
        assert list_failing_sinks(store) == []
        # Two deliveries in a row: now it is the sink.
        another = setup.deliver("sync_job_run:record", batch('[{"id": "locked"}]'), id_="4")
        assert setup.state(another)[:2] == ("pending", "sink_unavailable")
        assert [sink.sink for sink in list_failing_sinks(store)] == ["main"]
        skipped = setup.deliver("sync_job_run:record", batch('[{"id": "free"}]'), id_="5")
        assert setup.state(skipped)[:2] == ("pending", "sink_unavailable")


def test_a_page_that_takes_too_long_is_written_in_smaller_batches(
    open_setup: OpenSetup, store: Database, postgres_url: str
) -> None:
    setup = open_setup(url=f"{postgres_url}&options=-c%20statement_timeout%3D1000")
    setup.deliver("sync_job_run:record", batch('[{"id": "first"}]'), id_="0")
    with store.transaction() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$"
            )
        )
        connection.execute(
            text("CREATE TRIGGER slow BEFORE INSERT ON crm_contacts FOR EACH ROW EXECUTE FUNCTION slow()")
        )
    records = [f'{{"id": "{number}"}}' for number in range(120)]
    records[30] = "NaN"
    page = setup.put("sync_job_run:record", batch(f"[{', '.join(records)}]"), id_="1")

    setup.processor.deliver([page])

    assert setup.state(page) == ("pending", "batch_timeout", 120)
    with store.transaction() as connection:
        connection.execute(update(deliveries).values(leased_until=None))
    assert deliver_until_settled(setup, page) == 1
    assert len(setup.rows("crm_contacts")) == 120
    assert read_run_totals(store, ["r"])["r"].sinks == [
        SinkTotals("crm/contacts", "list", "main", 121, 120, 1)
    ]


def test_a_page_whose_rejected_records_take_too_long_is_written_in_smaller_batches(
    open_setup: OpenSetup, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = open_setup()
    setup.deliver("sync_job_run:record", batch('[{"id": "first"}]'), id_="0")
    store.execute(text("ALTER TABLE crm_contacts ADD CHECK (\"_key\" NOT LIKE 'bad%')"))
    records = [f'{{"id": "{"bad" if number % 3 else "good"} {number}"}}' for number in range(30)]
    page = setup.put("sync_job_run:record", batch(f"[{', '.join(records)}]"), id_="1")
    # As if each statement took seconds.
    monkeypatch.setattr(sql_sink, "_SPLIT_TIMEOUT_S", 0.0)

    for size in ("all", "a quarter"):
        setup.processor.deliver([page])
        assert setup.state(page) == ("pending", "batch_timeout", 30)
        assert list_failing_sinks(store) == []
        store.execute(update(deliveries).values(leased_until=None))
        other = setup.deliver("sync_job_run:record", batch('[{"id": "other"}]'), id_=size)
        assert setup.state(other)[0] == "settled"

    assert deliver_until_settled(setup, page) == 1
    assert len(setup.rows("crm_contacts")) == 12
    assert read_dead_records(store) == [("main", number) for number in range(30) if number % 3]


@pytest.mark.usefixtures("small_slices")
def test_an_erasure_between_two_jobs_removes_the_slices_written_so_far(
    open_setup: OpenSetup, store: Database
) -> None:
    setup = open_setup()
    delivery = setup.deliver("sync_job_run:record", batch(json.dumps([{"id": str(n)} for n in range(7)])))
    assert len(setup.rows("crm_contacts")) == 3

    for _ in AccountData(store, "a", until=datetime.now(UTC)).erase(now=datetime.now(UTC)):
        setup.sinks.open("main").erase("a")
    setup.new_processor().deliver([delivery])

    assert setup.state(delivery)[:2] == ("discarded", "erased")
    assert setup.rows("crm_contacts") == {}


def test_a_lifecycle_event_of_any_size_changes_its_run(open_setup: OpenSetup) -> None:
    setup = open_setup()
    run = {"id": "r", "status": "completed", "junk": [{}] * 400_000, "version": 7}

    delivery = setup.deliver("sync_job_run:updated", json.dumps(run))

    assert setup.state(delivery) == ("settled", "", 0)
    stored = Runs(setup.store).get("r")
    assert stored
    assert (stored.status, json.loads(stored.run or "")["version"]) == ("completed", 7)
