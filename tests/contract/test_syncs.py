"""Guarantees of run summaries, syncs and accounts, on every database."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from structlog.testing import capture_logs

from app.database.engine import Database
from app.runs.reconcile import reconcile_stored
from app.runs.run_summary import summarize
from app.store.accounts import Account, AccountFilter, SyncState
from app.store.delivery_filter import DeliveryFilter
from app.store.erasure import AccountData
from app.store.models import Delivery, DeliveryResult, DeliveryState, StateChange
from app.store.replays import Replays
from app.store.run_summaries import RunSummary, SummarizedRun
from app.store.schema import runs, syncs
from app.store.syncs import Expectation, Syncs
from app.truto.events import Envelope
from tests.support.replays import begin_replay, discard_all
from tests.support.summarized_store import NOW, SummarizedStore
from workers.delivery.newest_batches import NewestBatches

HOUR = timedelta(hours=1)


@pytest.fixture
def summarized(store: Database) -> SummarizedStore:
    return SummarizedStore(store)


def test_a_summary_has_the_sums_of_the_reconciliation(summarized: SummarizedStore) -> None:
    summarized.add_run("run", fetched=120, records=100)

    summarized.summarize()

    account = summarized.get_account()
    run = summarized.get_run()
    expected = summarize(
        run, reconcile_stored(summarized.store, run, now=summarized.now), pending_deliveries=0
    )
    assert account.worst_sync.summary == expected.summary
    assert account.worst_sync.summary.gap_reasons == (("unexplained", 20),)
    assert (account.state, account.fetched, account.arrived, account.written, account.missing) == (
        "incomplete",
        120,
        100,
        100,
        20,
    )
    assert (run.summarized_at, account.worst_sync.summarized_at) == (summarized.now, summarized.now)


def test_a_summary_of_a_run_that_changed_meanwhile_is_not_saved(summarized: SummarizedStore) -> None:
    summarized.add_run("run")
    run = summarized.get_run()
    outdated = SummarizedRun("run", run.revision, run.last_seen_at, RunSummary("incomplete", gap_records=9))
    summarized.advance(minutes=1)
    summarized.update_run(fetched=3)

    save(summarized, outdated)

    assert summarized.get_run().summarized_at is None
    assert summarized.list_accounts() == []


def test_an_older_summary_never_overwrites_a_newer_one(summarized: SummarizedStore) -> None:
    summarized.add_run("run")
    run = summarized.get_run()
    summarized.summarize()

    summarized.now -= HOUR
    save(
        summarized,
        SummarizedRun("run", run.revision, run.last_seen_at, RunSummary("incomplete", gap_records=9)),
    )

    summarized.now += HOUR
    assert summarized.get_account().state == "complete"


def save(summarized: SummarizedStore, run: SummarizedRun) -> None:
    Syncs(summarized.store).save_summaries(
        [(run, ("account", "job"))], expect=lambda _: Expectation(None, None), now=summarized.now
    )


def replay(summarized: SummarizedStore) -> None:
    replays = Replays(summarized.store)
    candidates = replays.find_candidates(DeliveryFilter(), after=None, limit=9)
    begun = begin_replay(summarized.store, now=summarized.now)
    assert replays.requeue(begun, candidates, sink="", now=summarized.now)


def discard(summarized: SummarizedStore) -> None:
    assert discard_all(summarized.store, DeliveryFilter(), reason="test", now=summarized.now) == 1


CHANGES: dict[str, Callable[[SummarizedStore], object]] = {
    "reconciled": lambda s: s.runs.mark_reconciled(s.get_run(), now=s.now),
    "log": lambda s: s.runs.save_log("run", "{}"),
    "event": lambda s: s.update_run(fetched=4),
    "replay": replay,
    "discard": discard,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_run_outdates_its_summary(summarized: SummarizedStore, change: str) -> None:
    summarized.settle(summarized.receive(), "dead")
    summarized.update_run(fetched=3)
    summarized.summarize()
    before = summarized.get_run()
    assert before.summarized_at

    CHANGES[change](summarized)

    after = summarized.get_run()
    assert (after.summarized_at, after.revision) == (None, before.revision + 1)


def test_a_replayed_dead_delivery_makes_its_account_complete(summarized: SummarizedStore) -> None:
    delivery = summarized.receive()
    summarized.settle(delivery, "dead")
    summarized.update_run(fetched=3)
    summarized.summarize()
    incomplete = summarized.get_account()

    replay(summarized)
    summarized.summarize()
    replayed = summarized.get_account()
    summarized.settle(delivery)
    summarized.summarize()

    assert (incomplete.state, incomplete.worst_sync.summary.gap_reasons) == ("incomplete", (("dead", 3),))
    assert (replayed.state, replayed.worst_sync.summary.pending_deliveries) == ("open", 1)
    assert summarized.get_account().state == "complete"


def test_a_delivery_that_a_worker_gives_up_leaves_no_pending_state(summarized: SummarizedStore) -> None:
    delivery = summarized.receive()
    summarized.update_run(fetched=3)
    summarized.summarize()
    pending = summarized.get_account()

    summarized.settle(delivery, "dead", run=None)
    summarized.summarize()

    assert (pending.state, pending.worst_sync.summary.verdict) == ("open", "settling")
    assert summarized.get_account("account").state == "incomplete"


def test_records_that_may_still_arrive_are_missing_after_two_minutes(summarized: SummarizedStore) -> None:
    summarized.add_run("run", fetched=5)

    summarized.summarize(seconds=10)
    early = summarized.get_account()
    summarized.summarize(seconds=180)

    assert (early.state, early.missing, early.worst_sync.summary.verdict) == ("open", 0, "settling")
    late = summarized.get_account()
    assert (late.state, late.missing) == ("incomplete", 2)


def test_an_open_run_is_summarized_again_after_every_batch(summarized: SummarizedStore) -> None:
    summarized.update_run(status="running")
    for number in range(1, 4):
        delivery = summarized.receive()
        summarized.summarize(seconds=10)
        assert summarized.get_account().worst_sync.summary.pending_deliveries == 1
        summarized.settle(delivery)
        summarized.summarize(seconds=10)
        assert summarized.get_account().written == 3 * number


def test_a_sync_shows_its_newest_run_and_counts_the_incomplete_ones(summarized: SummarizedStore) -> None:
    for number in range(25):
        summarized.add_run(f"run-{number:02}", fetched=5 if number in (3, 23, 24) else 3)
        summarized.advance(hours=1)
    summarized.add_run("run-last")
    summarized.summarize()

    [sync] = summarized.accounts.list_syncs("account", now=summarized.now, limit=9)

    assert (sync.last_run_id, sync.state) == ("run-last", "complete")
    assert (sync.recent_runs, sync.incomplete_runs) == (20, 2)
    assert sync.usual_interval_s == 3600
    assert sync.last_run_at
    assert sync.expected_at == sync.last_run_at + 2 * HOUR


def test_a_sync_becomes_late_and_a_new_run_ends_that(summarized: SummarizedStore) -> None:
    for number in range(4):
        summarized.add_run(f"run-{number}")
        summarized.summarize()
        summarized.advance(minutes=57)
    on_time = summarized.get_account().state

    summarized.advance(hours=1, minutes=1)
    late = summarized.get_account().state
    summarized.add_run("run-5")
    summarized.summarize()

    assert (on_time, late, summarized.get_account().state) == ("complete", "late", "complete")


def test_an_open_run_without_deliveries_is_late(summarized: SummarizedStore) -> None:
    summarized.settle(summarized.receive())
    summarized.update_run(status="running")
    summarized.summarize()
    before = summarized.get_account().state

    summarized.advance(minutes=31)

    assert (before, summarized.get_account().state) == ("open", "late")


def test_a_refused_start_does_not_hide_the_last_run(summarized: SummarizedStore) -> None:
    summarized.add_run("run", fetched=9)
    summarized.advance(minutes=1)
    summarized.update_run("refused", "refused")
    summarized.summarize()

    assert summarized.get_account().worst_sync.last_run_id == "run"


def test_a_run_whose_job_becomes_known_leaves_no_sync_behind(summarized: SummarizedStore) -> None:
    summarized.add_run("run", job="")
    summarized.summarize()
    summarized.update_run(job="job", fetched=3)
    summarized.summarize()

    # The batch of the worker names the job.
    found = summarized.accounts.list_syncs("account", now=summarized.now, limit=9)
    assert [sync.sync_job_id for sync in found] == ["job"]


def test_a_batch_never_moves_the_newest_record_backwards(summarized: SummarizedStore) -> None:
    summarized.add_run("run")
    summarized.add_run("older")
    summarized.summarize()

    for hours in (0, 2, 1):
        Syncs(summarized.store).record_batches(
            {"run": NOW + hours * HOUR, "older": NOW - HOUR, "unknown": NOW}
        )

    assert summarized.get_account().newest_record_at == NOW + 2 * HOUR
    summarized.update_run(fetched=4)
    summarized.summarize()
    assert summarized.get_account().newest_record_at == NOW + 2 * HOUR


def test_a_batch_during_an_outage_does_not_keep_the_next_one_from_being_stored(
    summarized: SummarizedStore,
) -> None:
    summarized.add_run("run")
    summarized.summarize()
    batches = NewestBatches(summarized.store)

    def record(received_at: datetime) -> None:
        envelope = Envelope(event_id="e", sync_job_run_id="run")
        delivery = Delivery(UUID(int=1), received_at, envelope, body_bytes=1, attempts=1)
        change = StateChange(delivery.id, DeliveryState.SETTLED, 1, "", NOW)
        batches.record_results([(delivery, DeliveryResult(change))])

    summarized.store.execute(text("ALTER TABLE rapidbridge_syncs RENAME TO elsewhere"))
    record(NOW + HOUR)
    summarized.store.execute(text("ALTER TABLE elsewhere RENAME TO rapidbridge_syncs"))
    record(NOW + 2 * HOUR)

    assert summarized.get_account().newest_record_at == NOW + 2 * HOUR


def test_a_summary_that_is_not_saved_keeps_the_newest_record(summarized: SummarizedStore) -> None:
    summarized.add_run("run")
    Syncs(summarized.store).record_batches({"run": NOW})
    run = summarized.get_run()
    summarized.update_run(fetched=3)

    save(summarized, SummarizedRun("run", run.revision, run.last_seen_at, RunSummary("complete")))
    summarized.summarize()

    assert summarized.get_account().newest_record_at == NOW


def test_concurrent_writers_end_with_the_newest_state(summarized: SummarizedStore) -> None:
    names = [f"account-{number}" for number in range(12)]
    for name in names:
        summarized.add_run(f"run-{name}", account=name, job="job")
    writers = [SummarizedStore(summarized.store) for _ in range(4)]

    def work(place: int) -> None:
        writer = writers[place]
        ordered = names if place % 2 else names[::-1]
        for turn in range(4):
            for name in ordered:
                writer.now = NOW + timedelta(minutes=place + 10 * turn)
                writer.update_run(f"run-{name}", account=name, fetched=3 + turn)
            Syncs(writer.store).record_batches({f"run-{name}": writer.now for name in ordered})
            writer.summarize()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    summarized.advance(hours=2)
    summarized.summarize()

    accounts = summarized.list_accounts()
    assert [account.integrated_account_id for account in accounts] == sorted(names)
    for account in accounts:
        assert (account.state, account.fetched, account.missing) == ("incomplete", 6, 3)
        assert account.newest_record_at == NOW + timedelta(minutes=33)


def test_an_erased_account_disappears_until_it_has_a_new_run(summarized: SummarizedStore) -> None:
    summarized.add_run("run")
    summarized.add_run("other", account="another")
    summarized.summarize()

    counts = list(AccountData(summarized.store, "account", until=summarized.now).erase(now=summarized.now))
    Syncs(summarized.store).record_batches({"run": summarized.now})
    summarized.summarize()

    assert sum(count.syncs for count in counts) == 1
    assert [account.integrated_account_id for account in summarized.list_accounts()] == ["another"]
    assert summarized.accounts.list_runs("account", limit=9) == []
    summarized.add_run("new", fetched=9)
    summarized.summarize()
    assert summarized.get_account("account").worst_sync.recent_runs == 1


def add_accounts(summarized: SummarizedStore) -> None:
    """Add an account of every state, and one with two syncs."""
    for number in range(4):
        summarized.add_run(f"late-{number}", account="late")
        summarized.advance(minutes=30)
    summarized.advance(hours=1)
    summarized.add_run("c", account="complete", environment="env-2")
    summarized.add_run("i", account="incomplete_100%", fetched=9)
    summarized.add_run("u", account="unknown", fetched=None)
    summarized.settle(summarized.receive("o", account="open"), run="o", account="open")
    summarized.update_run("o", "running", account="open")
    for status in ("failed", "stopped"):
        summarized.add_run(status, account=status, status=status)
    for job in ("job", "job-2"):
        summarized.add_run(f"two {job}", account="two syncs", job=job, fetched=3 if job == "job" else None)
    summarized.summarize()


def test_accounts_in_need_of_attention_come_first(summarized: SummarizedStore) -> None:
    add_accounts(summarized)

    states = {account.integrated_account_id: str(account.state) for account in summarized.list_accounts()}

    assert list(states.items()) == [
        ("incomplete_100%", "incomplete"),
        ("late", "late"),
        ("failed", "failed"),
        ("stopped", "stopped"),
        ("two syncs", "unknown"),
        ("unknown", "unknown"),
        ("open", "open"),
        ("complete", "complete"),
    ]
    counts = summarized.accounts.count_by_state(AccountFilter(), now=summarized.now)
    assert {str(state): count for state, count in counts.items()} == {
        "incomplete": 1,
        "late": 1,
        "failed": 1,
        "stopped": 1,
        "unknown": 2,
        "open": 1,
        "complete": 1,
    }
    two = summarized.get_account("two syncs")
    assert (two.syncs, two.arrived, two.fetched, two.worst_sync.sync_job_id) == (2, 6, None, "job-2")


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_run_that_ended_early_does_not_look_complete(summarized: SummarizedStore, status: str) -> None:
    summarized.add_run("run")
    summarized.update_run(status=status, fetched=3)
    summarized.add_run("other", account="complete")

    summarized.summarize()

    early, complete = summarized.list_accounts()
    assert (early.worst_sync.summary.verdict, str(early.state)) == ("complete", status)
    assert str(complete.state) == "complete"
    assert [
        account.integrated_account_id
        for account in summarized.accounts.list_accounts(
            AccountFilter(), state=SyncState(status), now=summarized.now, limit=9
        )
    ] == ["account"]

    # The next run ends the state.
    summarized.advance(minutes=1)
    summarized.add_run("next")
    summarized.summarize()
    assert str(summarized.get_account("account").state) == "complete"


def test_pages_contain_every_account_once(summarized: SummarizedStore) -> None:
    add_accounts(summarized)
    everything = summarized.list_accounts()

    paged: list[Account] = []
    after = None
    while page := summarized.list_accounts(limit=2, after=after):
        paged += page
        state, _, name = page[-1].position
        after = (SyncState(state), page[-1].last_run_at, name)

    assert paged == everything


def test_accounts_are_found_by_a_part_of_the_id_or_the_environment(summarized: SummarizedStore) -> None:
    add_accounts(summarized)

    for account_filter, names in (
        (AccountFilter(id_part="complete"), ["incomplete_100%", "complete"]),
        (AccountFilter(id_part="_100%"), ["incomplete_100%"]),
        (AccountFilter(id_part="%"), ["incomplete_100%"]),
        (AccountFilter(environment_id="env-2"), ["complete"]),
        (AccountFilter(id_part="nobody"), []),
    ):
        found = summarized.list_accounts(account_filter=account_filter)
        assert [account.integrated_account_id for account in found] == names
        counts = summarized.accounts.count_by_state(account_filter, now=summarized.now)
        assert sum(counts.values()) == len(names)
    assert summarized.accounts.list_environments(limit=9) == ["env", "env-2"]


def test_accounts_are_filtered_by_state(summarized: SummarizedStore) -> None:
    add_accounts(summarized)

    for state in SyncState:
        found = summarized.list_accounts(state=state)
        assert {account.state for account in found} == {state}


def test_runs_of_an_account_are_paged_newest_first(summarized: SummarizedStore) -> None:
    for number in range(5):
        summarized.add_run(f"run-{number}")
        summarized.advance(minutes=number % 2)
    summarized.summarize()

    first = summarized.accounts.list_runs("account", limit=3)
    rest = summarized.accounts.list_runs(
        "account", after=(first[-1].first_seen_at, first[-1].sync_job_run_id), limit=3
    )

    assert [run.sync_job_run_id for run in (*first, *rest)] == [f"run-{number}" for number in (4, 3, 2, 1, 0)]
    assert {run.summary.verdict for run in first} == {"complete"}


def test_a_run_that_cannot_be_reconciled_does_not_block_others(summarized: SummarizedStore) -> None:
    summarized.add_run("good", account="good")
    summarized.add_run("bad", account="bad")
    summarized.store.execute(update(runs).where(runs.c.sync_job_run_id == "bad").values(run="{"))

    with capture_logs() as logs:
        summarized.summarize()
        summarized.summarize()

    assert [account.integrated_account_id for account in summarized.list_accounts()] == ["good"]
    assert [line["run"] for line in logs if line["event"] == "run.summary_failed"] == ["bad"]


def test_a_backlog_of_runs_is_summarized_newest_first(summarized: SummarizedStore) -> None:
    for number in range(600):
        summarized.update_run(f"run-{number:03}", account=f"account-{number:03}")
        summarized.advance(seconds=1)
    # Of an earlier release.
    summarized.store.execute(update(runs).values(reconciled_at=summarized.now))

    rounds: list[int] = []
    while not rounds or rounds[-1] < 600:
        summarized.summarize()
        with summarized.store.autocommit() as connection:
            number, oldest = connection.execute(
                select(func.count(), func.min(syncs.c.integrated_account_id))
            ).one()
        rounds.append(number)
        assert oldest == f"account-{600 - number:03}"

    assert len(rounds) > 1
    assert rounds[0] <= 500
    counts = summarized.accounts.count_by_state(AccountFilter(), now=summarized.now)
    assert sum(counts.values()) == 600
