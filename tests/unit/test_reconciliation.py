"""Reconciliation of runs: gaps, their reasons and the verdict."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.runs.reconciliation import (
    GapReason,
    Reconciliation,
    explain_by_batches_without_run,
    reconcile_counts,
)
from app.runs.refresh import sum_log
from app.runs.run_summary import summarize
from app.runs.unsent_events import find_unsent_events
from app.store.run_totals import BatchTotals, RecordsWithoutRun, RunTotals, SinkTotals
from app.store.runs import StoredRun
from app.truto.run_log import LogEntry

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
CONTACTS = ("crm/contacts", "list")


def run(
    stats: Any = None,
    *,
    status: str = "completed",
    rank: int = 2,
    log: dict[str, dict[str, dict[str, int]]] | None = None,
    events_to_send: Any = None,
) -> StoredRun:
    run_fields = json.dumps({"id": "r", "resource_stats": stats, "events_to_send": events_to_send})
    nothing: dict[str, Any] = dict.fromkeys(StoredRun.__dataclass_fields__)
    return StoredRun(
        **nothing
        | {
            "sync_job_run_id": "r",
            "status": status,
            "status_rank": rank,
            "first_seen_at": NOW,
            "run": run_fields,
        }
        | {"log_totals": json.dumps(log) if log else None}
    )


def fetched(number: Any, persisted: Any = None) -> dict[str, Any]:
    return {"crm/contacts": {"list": {"fetched": number, "persisted": persisted}}}


def landed(number: int, *, dead: int = 0, state: str = "settled") -> RunTotals:
    return RunTotals(
        [BatchTotals(*CONTACTS, state, "", True, 1, number, 0)],
        [SinkTotals(*CONTACTS, "main", number, number - dead, dead)],
        {},
    )


def kept(number: int, state: str) -> RunTotals:
    return RunTotals([BatchTotals(*CONTACTS, state, "", False, 1, number, 0)], (), {})


def list_gap_reasons(reconciliation: Reconciliation) -> list[GapReason]:
    return [reason for counts in reconciliation.resources for reason in counts.gap_reasons]


def test_a_run_is_complete_if_every_fetched_record_is_in_its_sinks() -> None:
    reconciliation = reconcile_counts(run(fetched(100, 100)), landed(100))

    [counts] = reconciliation.resources
    assert reconciliation.verdict == "complete"
    assert (counts.fetched, counts.arrived, counts.written, counts.missing) == (100, 100, 100, 0)
    assert not reconciliation.has_gaps


def test_records_of_a_route_without_sinks_are_no_gap() -> None:
    reconciliation = reconcile_counts(run(fetched(100)), kept(100, "settled"))

    assert reconciliation.verdict == "complete"
    assert reconciliation.resources[0].dropped == 100


@pytest.mark.parametrize(
    ("stored_run", "totals", "verdict", "expected"),
    [
        pytest.param(
            run(fetched(100, 100)), landed(60), "incomplete", [GapReason("unexplained", 40)], id="lost by us"
        ),
        pytest.param(
            run(fetched(100, 60)), landed(60), "incomplete", [GapReason("given_up", 40)], id="said in its counts"
        ),
        pytest.param(
            run(fetched(100), log={"crm/contacts": {"list": {"fetched": 100, "given_up": 30}}}),
            landed(60),
            "incomplete",
            [GapReason("given_up", 30), GapReason("unexplained", 10)],
            id="said in its log",
        ),
        pytest.param(
            run(fetched(100, 60), status="stopped"),
            landed(50),
            "incomplete",
            [GapReason("given_up", 40), GapReason("stopped", 10)],
            id="stopped",
        ),
        pytest.param(run(fetched(100)), RunTotals(), "incomplete", [GapReason("unexplained", 100)], id="never came"),
        pytest.param(run(fetched(100)), kept(100, "unrouted"), "incomplete", [GapReason("unrouted", 100)], id="unrouted"),
        pytest.param(run(fetched(100)), kept(100, "late"), "incomplete", [GapReason("late", 100)], id="late"),
        pytest.param(
            run(fetched(100)), kept(0, "quarantined"), "incomplete", [GapReason("quarantined", 100)], id="unreadable"
        ),
        pytest.param(
            run(), kept(0, "quarantined"), "incomplete", [GapReason("quarantined", None)], id="unreadable, uncounted"
        ),
        pytest.param(run(fetched(100)), landed(100, dead=2), "complete", [GapReason("dead", 2)], id="dead records"),
        pytest.param(
            run(fetched(100)), kept(100, "discarded"), "complete", [GapReason("discarded", 100)], id="discarded, unrouted"
        ),
        pytest.param(
            run(fetched(100)),
            landed(100, dead=100, state="discarded"),
            "complete",
            [GapReason("discarded", 100)],
            id="discarded, refused by a sink",
        ),
        pytest.param(
            run(fetched(100)),
            RunTotals(
                [BatchTotals(*CONTACTS, "settled", "", True, 1, 40, 0), BatchTotals(*CONTACTS, "discarded", "", True, 1, 60, 0)],
                [SinkTotals(*CONTACTS, "main", 100, 38, 62)],
                {},
            ),
            "complete",
            [GapReason("dead", 2), GapReason("discarded", 60)],
            id="discarded, a sink was away for too long",
        ),
        pytest.param(
            run(fetched(100)), kept(0, "discarded"), "incomplete", [GapReason("discarded", 100)], id="discarded, unreadable"
        ),
        pytest.param(
            run(), kept(0, "discarded"), "incomplete", [GapReason("discarded", None)], id="discarded, uncounted"
        ),
        pytest.param(
            run(fetched(100)),
            RunTotals([BatchTotals(*CONTACTS, "settled", "", True, 1, 100, 0)], [SinkTotals(*CONTACTS, "main", 90, 90, 0)], {}),
            "incomplete",
            [GapReason("unexplained", 10)],
            id="a sink that does not add up",
        ),
    ],
)  # fmt: skip
def test_every_gap_has_its_reason(
    stored_run: StoredRun, totals: RunTotals, verdict: str, expected: list[GapReason]
) -> None:
    reconciliation = reconcile_counts(stored_run, totals)

    assert (reconciliation.verdict, list_gap_reasons(reconciliation)) == (verdict, expected)
    assert reconciliation.has_gaps


def test_discarded_records_count_as_dead() -> None:
    [counts] = reconcile_counts(run(fetched(100)), kept(100, "discarded")).resources

    assert (counts.arrived, counts.dead, counts.written) == (100, 100, 0)


def test_written_and_dead_count_the_sink_with_the_fewest_records() -> None:
    groups = [BatchTotals(*CONTACTS, "dead", "table_reserved", True, 1, 100, 0)]
    sinks = [SinkTotals(*CONTACTS, "main", 100, 100, 0), SinkTotals(*CONTACTS, "lake", 100, 0, 100)]

    reconciliation = reconcile_counts(run(fetched(100)), RunTotals(groups, sinks, {}))

    [counts] = reconciliation.resources
    assert (counts.written, counts.dead) == (0, 100)
    assert list_gap_reasons(reconciliation) == [GapReason("dead", 100)]


def test_an_open_run_has_no_missing_records() -> None:
    reconciliation = reconcile_counts(run(fetched(100), status="running", rank=1), landed(60))

    assert (reconciliation.verdict, list_gap_reasons(reconciliation)) == ("open", [])


def test_a_run_with_pending_deliveries_is_settling() -> None:
    groups = [*landed(60).batches, BatchTotals(*CONTACTS, "pending", "", False, 1, 0, 0)]

    reconciliation = reconcile_counts(run(fetched(100)), RunTotals(groups, landed(60).sinks, {}))

    assert reconciliation.verdict == "settling"


@pytest.mark.parametrize("reason", ["sink_paused", "sink_unavailable", "sink_set_up", "sink_resumed"])
def test_a_run_with_held_deliveries_is_settling_and_says_why(reason: str) -> None:
    groups = [*landed(60).batches, BatchTotals(*CONTACTS, "pending", reason, True, 1, 40, 0)]
    sinks = [SinkTotals(*CONTACTS, "main", 100, 60, 0)]

    reconciliation = reconcile_counts(run(fetched(100)), RunTotals(groups, sinks, {}))

    assert (reconciliation.verdict, reconciliation.has_gaps) == ("settling", False)
    assert list_gap_reasons(reconciliation) == [GapReason("held", 40)]


@pytest.mark.parametrize("status", ["completed", "failed", "stopped"])
def test_pages_that_the_end_overtook_are_in_flight_for_two_minutes(status: str) -> None:
    ended = replace(run(fetched(100, 60), status=status), last_seen_at=NOW)

    early = reconcile_counts(ended, landed(60), now=NOW + timedelta(seconds=119))
    arrived = reconcile_counts(ended, landed(100), now=NOW + timedelta(seconds=119))
    late = reconcile_counts(ended, landed(60), now=NOW + timedelta(seconds=121))

    assert (early.verdict, list_gap_reasons(early), early.has_gaps) == ("settling", [], False)
    assert [(counts.missing, counts.in_flight) for counts in early.resources] == [(0, 40)]
    assert arrived.verdict == "complete"
    assert late.verdict == "incomplete"
    assert [(counts.missing, counts.in_flight) for counts in late.resources] == [(40, 0)]


def test_a_page_that_the_log_gives_up_is_not_in_flight() -> None:
    log = {"crm/contacts": {"list": {"fetched": 100, "given_up": 30}}}

    some = reconcile_counts(run(fetched(100), log=log), landed(60), now=NOW)
    all_ = reconcile_counts(run(fetched(100), log=log), landed(70), now=NOW)

    assert [(counts.missing, counts.in_flight) for counts in some.resources] == [(30, 10)]
    assert (some.verdict, all_.verdict) == ("settling", "incomplete")


def test_no_record_of_a_reconciled_run_is_in_flight() -> None:
    reconciled = replace(run(fetched(100)), reconciled_at=NOW)

    assert reconcile_counts(reconciled, landed(60), now=NOW).verdict == "incomplete"


@pytest.mark.parametrize(
    ("events_to_send", "status", "unsent"),
    [
        (None, "running", ()),
        ([], "running", ()),
        ("text", "running", ()),
        ([17, None], "running", ("start", "end", "records", "record_errors")),
        (["all"], "running", ()),
        (["sync_job_run:*"], "running", ()),
        (["record", "record_error"], "running", ("start", "end")),
        (["sync_job_run:record", "sync_job_run:started"], "running", ("end", "record_errors")),
        (["record", "record_error", "started", "updated"], "running", ()),
        (["record", "record_error", "started", "completed"], "running", ()),
        (["record", "record_error", "started", "completed"], "completed", ()),
        (["record", "record_error", "started", "completed"], "failed", ("end",)),
        (["started", "completed", "record_error"], "completed", ("records",)),
    ],
)
def test_the_events_that_a_run_leaves_out_are_found(
    events_to_send: Any, status: str, unsent: tuple[str, ...]
) -> None:
    rank = 1 if status == "running" else 2

    assert find_unsent_events(run(status=status, rank=rank, events_to_send=events_to_send)) == unsent


@pytest.mark.parametrize(
    "open_run",
    [
        pytest.param(run(status="running", rank=1, events_to_send=["record", "started"]), id="left out"),
        pytest.param(run(status="", rank=-1), id="no lifecycle event"),
    ],
)
def test_an_end_that_is_not_sent_is_the_verdict_once_nothing_arrives(open_run: StoredRun) -> None:
    active = reconcile_counts(open_run, landed(60), now=NOW + timedelta(seconds=119))
    quiet = reconcile_counts(open_run, landed(60), now=NOW + timedelta(seconds=121))
    pending = reconcile_counts(open_run, kept(0, "pending"), now=NOW + timedelta(seconds=121))

    assert (active.verdict, quiet.verdict, pending.verdict) == ("open", "not_sent", "open")
    assert not quiet.has_gaps


def test_records_that_a_run_does_not_send_are_a_gap_with_that_reason() -> None:
    stored_run = run(fetched(100), events_to_send=["started", "completed"])

    reconciliation = reconcile_counts(stored_run, RunTotals())

    assert list_gap_reasons(reconciliation) == [GapReason("not_sent", 100)]


def test_records_that_arrived_are_not_among_the_events_that_are_not_sent() -> None:
    stored_run = run(fetched(100), events_to_send=["started", "completed"])
    totals = RunTotals(*_parts(landed(60)), {CONTACTS: 1})

    reconciliation = reconcile_counts(stored_run, totals)

    assert reconcile_counts(stored_run, RunTotals()).unsent_events == ["records", "record_errors"]
    assert reconciliation.unsent_events == []
    assert list_gap_reasons(reconciliation) == [GapReason("unexplained", 40)]


_NO_COUNTS: list[Any] = [
    *(None, {}, [], "text", {"crm/contacts": []}, {"crm/contacts": None}, {"crm/contacts": {"fetched": 1}}),
    *(fetched("many"), fetched(-1), fetched(1.5), fetched(True), fetched(10**4000), fetched(1e300)),
]


@pytest.mark.parametrize("stats", _NO_COUNTS)
@pytest.mark.parametrize("totals", [landed(100), RunTotals()])
def test_without_counts_of_truto_the_verdict_is_unknown(stats: Any, totals: RunTotals) -> None:
    assert reconcile_counts(run(stats), totals).verdict == "unknown"


@pytest.mark.parametrize("number", [100, "100", 100.0])
def test_counts_may_be_integers_strings_or_floats(number: Any) -> None:
    assert reconcile_counts(run(fetched(number)), landed(100)).verdict == "complete"


def test_a_resource_with_an_unreadable_count_makes_the_verdict_unknown() -> None:
    stats = {**fetched(100), "crm/deals": {"list": {"fetched": "many"}}}

    reconciliation = reconcile_counts(run(stats), landed(100))

    assert reconciliation.verdict == "unknown"
    assert [(counts.resource, counts.fetched) for counts in reconciliation.resources] == [
        ("crm/contacts", 100),
        ("crm/deals", None),
    ]


def test_batches_without_a_method_count_for_the_only_one() -> None:
    nameless = RunTotals(
        [BatchTotals("crm/contacts", "", "settled", "", True, 1, 100, 0)],
        [SinkTotals("crm/contacts", "", "main", 100, 100, 0)],
        {},
    )

    reconciliation = reconcile_counts(run(fetched(100)), nameless)

    assert (reconciliation.verdict, [counts.method for counts in reconciliation.resources]) == (
        "complete",
        ["list"],
    )


def test_a_resource_without_a_count_makes_the_verdict_unknown() -> None:
    totals = RunTotals(
        [*landed(100).batches, BatchTotals("crm/deals", "list", "settled", "", True, 1, 5, 0)],
        [*landed(100).sinks, SinkTotals("crm/deals", "list", "main", 5, 5, 0)],
        {},
    )

    reconciliation = reconcile_counts(run(fetched(100)), totals)

    assert reconciliation.verdict == "unknown"
    assert [counts.fetched for counts in reconciliation.resources] == [100, None]


def test_the_log_replaces_missing_counts() -> None:
    log = {"crm/contacts": {"list": {"fetched": 100, "given_up": 0}}}

    assert reconcile_counts(run(log=log), landed(100)).verdict == "complete"


def test_log_entries_without_a_method_count_for_the_only_one() -> None:
    log = {"crm/contacts": {"": {"fetched": 100, "given_up": 40}}}

    assert list_gap_reasons(reconcile_counts(run(log=log), landed(60))) == [GapReason("given_up", 40)]
    assert list_gap_reasons(reconcile_counts(run(fetched(100), log=log), landed(60))) == [
        GapReason("given_up", 40)
    ]


def test_a_log_is_summed_by_fetched_and_given_up_records() -> None:
    def entry(records: int, *, is_delivered: bool | None, resource: str = "a") -> LogEntry:
        return LogEntry(resource, "list", records, is_delivered, None, 0, "")

    added = sum_log(
        [
            entry(10, is_delivered=None),
            entry(10, is_delivered=True),
            entry(5, is_delivered=False),
            entry(7, is_delivered=None, resource="b"),
            entry(7, is_delivered=None, resource=""),
        ]
    )

    assert added == {
        "a": {"list": {"fetched": 15, "given_up": 5}},
        "b": {"list": {"fetched": 7, "given_up": 0}},
    }


def test_of_contradictory_counts_the_greater_is_used() -> None:
    reconciliation = reconcile_counts(run(fetched(60, 100)), landed(60))

    assert list_gap_reasons(reconciliation) == [GapReason("unexplained", 40)]


def test_more_records_than_truto_counted_are_a_surplus_and_no_gap() -> None:
    reconciliation = reconcile_counts(run(fetched(60)), landed(100))

    assert (reconciliation.verdict, reconciliation.resources[0].surplus) == ("complete", 40)
    assert not reconciliation.has_gaps


def test_a_resource_without_fetched_records_is_left_out() -> None:
    assert reconcile_counts(run(fetched(0, 0)), RunTotals()).resources == []
    assert reconcile_counts(run(fetched(0, 0)), RunTotals()).verdict == "complete"


def test_a_resource_with_record_errors_alone_has_no_gap() -> None:
    reconciliation = reconcile_counts(
        run(fetched(100)), RunTotals(*_parts(landed(100)), {("crm/deals", "list"): 7})
    )

    assert [counts.errors for counts in reconciliation.resources] == [0, 7]
    assert (reconciliation.verdict, reconciliation.record_errors) == ("complete", 7)


def test_a_refused_run_has_no_gap() -> None:
    assert reconcile_counts(run(status="refused"), RunTotals()).verdict == "refused"


def _parts(totals: RunTotals) -> tuple[Any, Any]:
    return totals.batches, totals.sinks


def test_batches_without_a_run_may_hold_what_is_missing() -> None:
    incomplete = reconcile_counts(run(fetched(100)), landed(60))
    assert incomplete.has_unexplained_gaps

    all_, some, other = (
        explain_by_batches_without_run(incomplete, RecordsWithoutRun(records, {}))
        for records in ({"crm/contacts": 50}, {"crm/contacts": 30}, {"crm/deals": 50})
    )

    assert (all_.verdict, all_.resources[0].gap_reasons) == ("unknown", [GapReason("without_run", 40)])
    assert not all_.has_gaps
    assert some.verdict == "incomplete"
    assert some.resources[0].gap_reasons == [GapReason("without_run", 30), GapReason("unexplained", 10)]
    assert other == incomplete


def test_unattributed_batches_explain_a_gap_and_leave_it_a_gap() -> None:
    incomplete = reconcile_counts(run(fetched(100)), landed(60))

    all_, mixed, other = (
        explain_by_batches_without_run(incomplete, RecordsWithoutRun(attributed, unattributed))
        for attributed, unattributed in (
            ({}, {"crm/contacts": 50}),
            ({"crm/contacts": 15}, {"crm/contacts": 20}),
            ({}, {"crm/deals": 50}),
        )
    )

    assert (all_.verdict, all_.has_gaps) == ("incomplete", True)
    assert all_.resources[0].gap_reasons == [GapReason("unattributed", 40)]
    assert mixed.resources[0].gap_reasons == [
        GapReason("without_run", 15),
        GapReason("unattributed", 20),
        GapReason("unexplained", 5),
    ]
    assert other == incomplete


def test_batches_without_an_account_are_a_gap_of_their_own() -> None:
    [counts] = reconcile_counts(run(fetched(100)), kept(100, "quarantined")).resources

    assert (counts.arrived, counts.missing, counts.written) == (100, 0, 0)
    assert counts.gap_reasons == [GapReason("no_account", 100)]


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        # A page that never arrived counts, also if its resource has record errors.
        ({"crm/contacts": {"list": {"fetched": 83}}, "crm/deals": {"list": {"fetched": 10}}}, 93),
        # A resource of which only an error arrived was fetched in an unknown number, most likely none.
        ({"crm/deals": {"list": {"fetched": 10}}}, 10),
    ],
)
def test_the_summary_of_a_run_has_the_fetched_records_of_all_resources(stats: Any, expected: int) -> None:
    totals = RunTotals((), (), {CONTACTS: 1})
    reconciliation = reconcile_counts(run(stats), totals)

    summary = summarize(run(stats), reconciliation, pending_deliveries=0).summary

    assert summary.fetched == expected
    assert summary.missing == expected
