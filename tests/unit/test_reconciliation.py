"""What a run's account says: what is missing is found, whatever Truto says or does not say."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.runs.reconciliation import Account, Cause, account_for
from app.runs.refresh import add_up
from app.store.run_totals import Arrived, Figures, InSink
from app.store.runs import KnownRun
from app.truto.run_log import LogEntry

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
CONTACTS = ("crm/contacts", "list")


def run(
    stats: Any = None,
    *,
    status: str = "completed",
    rank: int = 2,
    log: dict[str, dict[str, dict[str, int]]] | None = None,
) -> KnownRun:
    told = json.dumps({"id": "r", "resource_stats": stats})
    nothing: dict[str, Any] = dict.fromkeys(KnownRun.__dataclass_fields__)
    return KnownRun(
        **nothing
        | {"sync_job_run_id": "r", "status": status, "status_rank": rank, "first_seen_at": NOW, "run": told}
        | {"log": json.dumps(log) if log else None}
    )


def fetched(number: Any, persisted: Any = None) -> dict[str, Any]:
    return {"crm/contacts": {"list": {"fetched": number, "persisted": persisted}}}


def landed(number: int, *, dead: int = 0, state: str = "settled") -> Figures:
    return Figures(
        [Arrived(*CONTACTS, state, "", True, 1, number, 0)],
        [InSink(*CONTACTS, "main", number, number - dead, dead)],
        {},
    )


def kept(number: int, state: str) -> Figures:
    return Figures([Arrived(*CONTACTS, state, "", False, 1, number, 0)], (), {})


def causes(account: Account) -> list[Cause]:
    return [cause for line in account.lines for cause in line.causes]


def test_a_run_is_complete_where_all_that_was_fetched_is_in_its_sinks() -> None:
    account = account_for(run(fetched(100, 100)), landed(100))

    [line] = account.lines
    assert account.verdict == "complete"
    assert (line.fetched, line.arrived, line.written, line.missing) == (100, 100, 100, 0)
    assert not account.is_bad_news


def test_what_a_route_drops_is_no_gap() -> None:
    account = account_for(run(fetched(100)), kept(100, "settled"))

    assert account.verdict == "complete"
    assert account.lines[0].dropped == 100


@pytest.mark.parametrize(
    ("known", "figures", "verdict", "expected"),
    [
        pytest.param(
            run(fetched(100, 100)), landed(60), "incomplete", [Cause("unexplained", 40)], id="lost by us"
        ),
        pytest.param(
            run(fetched(100, 60)), landed(60), "incomplete", [Cause("given_up", 40)], id="said in its counts"
        ),
        pytest.param(
            run(fetched(100), log={"crm/contacts": {"list": {"fetched": 100, "given_up": 30}}}),
            landed(60),
            "incomplete",
            [Cause("given_up", 30), Cause("unexplained", 10)],
            id="said in its log",
        ),
        pytest.param(
            run(fetched(100, 60), status="stopped"),
            landed(50),
            "incomplete",
            [Cause("given_up", 40), Cause("stopped", 10)],
            id="stopped",
        ),
        pytest.param(run(fetched(100)), Figures(), "incomplete", [Cause("unexplained", 100)], id="never came"),
        pytest.param(run(fetched(100)), kept(100, "unrouted"), "incomplete", [Cause("unrouted", 100)], id="unrouted"),
        pytest.param(run(fetched(100)), kept(100, "late"), "incomplete", [Cause("late", 100)], id="late"),
        pytest.param(
            run(fetched(100)), kept(0, "quarantined"), "incomplete", [Cause("quarantined", 100)], id="unreadable"
        ),
        pytest.param(
            run(), kept(0, "quarantined"), "incomplete", [Cause("quarantined", None)], id="unreadable, uncounted"
        ),
        pytest.param(run(fetched(100)), landed(100, dead=2), "complete", [Cause("dead", 2)], id="dead records"),
        pytest.param(
            run(fetched(100)), kept(100, "discarded"), "complete", [Cause("discarded", 100)], id="discarded, unrouted"
        ),
        pytest.param(
            run(fetched(100)),
            landed(100, dead=100, state="discarded"),
            "complete",
            [Cause("discarded", 100)],
            id="discarded, refused by a sink",
        ),
        pytest.param(
            run(fetched(100)),
            Figures(
                [Arrived(*CONTACTS, "settled", "", True, 1, 40, 0), Arrived(*CONTACTS, "discarded", "", True, 1, 60, 0)],
                [InSink(*CONTACTS, "main", 100, 38, 62)],
                {},
            ),
            "complete",
            [Cause("dead", 2), Cause("discarded", 60)],
            id="discarded, a sink was away for too long",
        ),
        pytest.param(
            run(fetched(100)), kept(0, "discarded"), "incomplete", [Cause("discarded", 100)], id="discarded, unreadable"
        ),
        pytest.param(
            run(), kept(0, "discarded"), "incomplete", [Cause("discarded", None)], id="discarded, uncounted"
        ),
        pytest.param(
            run(fetched(100)),
            Figures([Arrived(*CONTACTS, "settled", "", True, 1, 100, 0)], [InSink(*CONTACTS, "main", 90, 90, 0)], {}),
            "incomplete",
            [Cause("unexplained", 10)],
            id="a sink that does not add up",
        ),
    ],
)  # fmt: skip
def test_every_gap_has_its_cause(
    known: KnownRun, figures: Figures, verdict: str, expected: list[Cause]
) -> None:
    account = account_for(known, figures)

    assert (account.verdict, causes(account)) == (verdict, expected)
    assert account.is_bad_news


def test_what_was_discarded_counts_as_dead() -> None:
    [line] = account_for(run(fetched(100)), kept(100, "discarded")).lines

    assert (line.arrived, line.dead, line.written) == (100, 100, 0)


def test_the_sink_that_has_the_fewest_counts() -> None:
    groups = [Arrived(*CONTACTS, "dead", "table_reserved", True, 1, 100, 0)]
    sinks = [InSink(*CONTACTS, "main", 100, 100, 0), InSink(*CONTACTS, "lake", 100, 0, 100)]

    account = account_for(run(fetched(100)), Figures(groups, sinks, {}))

    [line] = account.lines
    assert (line.written, line.dead) == (0, 100)
    assert causes(account) == [Cause("dead", 100)]


def test_while_a_run_goes_on_nothing_is_missing_yet() -> None:
    account = account_for(run(fetched(100), status="running", rank=1), landed(60))

    assert (account.verdict, causes(account)) == ("open", [])


def test_while_a_batch_waits_nothing_is_concluded() -> None:
    groups = [*landed(60).arrived, Arrived(*CONTACTS, "pending", "", False, 1, 0, 0)]

    account = account_for(run(fetched(100)), Figures(groups, landed(60).sinks, {}))

    assert account.verdict == "settling"


_NO_FIGURES: list[Any] = [
    *(None, {}, [], "text", {"crm/contacts": []}, {"crm/contacts": None}, {"crm/contacts": {"fetched": 1}}),
    *(fetched("many"), fetched(-1), fetched(1.5), fetched(True), fetched(10**4000), fetched(1e300)),
]


@pytest.mark.parametrize("stats", _NO_FIGURES)
@pytest.mark.parametrize("figures", [landed(100), Figures()])
def test_without_truto_figures_nothing_is_claimed(stats: Any, figures: Figures) -> None:
    assert account_for(run(stats), figures).verdict == "unknown"


@pytest.mark.parametrize("number", [100, "100", 100.0])
def test_figures_may_be_spelt_in_several_ways(number: Any) -> None:
    assert account_for(run(fetched(number)), landed(100)).verdict == "complete"


def test_figures_for_some_resources_claim_nothing_for_those_that_never_came() -> None:
    stats = {**fetched(100), "crm/deals": {"list": {"fetched": "many"}}}

    account = account_for(run(stats), landed(100))

    assert account.verdict == "unknown"
    assert [(line.resource, line.fetched) for line in account.lines] == [
        ("crm/contacts", 100),
        ("crm/deals", None),
    ]


def test_pages_that_name_no_method_are_of_the_only_one() -> None:
    nameless = Figures(
        [Arrived("crm/contacts", "", "settled", "", True, 1, 100, 0)],
        [InSink("crm/contacts", "", "main", 100, 100, 0)],
        {},
    )

    account = account_for(run(fetched(100)), nameless)

    assert (account.verdict, [line.method for line in account.lines]) == ("complete", ["list"])


def test_partial_figures_claim_nothing_of_the_rest() -> None:
    figures = Figures(
        [*landed(100).arrived, Arrived("crm/deals", "list", "settled", "", True, 1, 5, 0)],
        [*landed(100).sinks, InSink("crm/deals", "list", "main", 5, 5, 0)],
        {},
    )

    account = account_for(run(fetched(100)), figures)

    assert account.verdict == "unknown"
    assert [line.fetched for line in account.lines] == [100, None]


def test_the_log_stands_in_for_figures_that_are_missing() -> None:
    log = {"crm/contacts": {"list": {"fetched": 100, "given_up": 0}}}

    assert account_for(run(log=log), landed(100)).verdict == "complete"


def test_a_log_that_names_no_method_means_the_only_one() -> None:
    log = {"crm/contacts": {"": {"fetched": 100, "given_up": 40}}}

    assert causes(account_for(run(log=log), landed(60))) == [Cause("given_up", 40)]
    assert causes(account_for(run(fetched(100), log=log), landed(60))) == [Cause("given_up", 40)]


def test_a_log_is_added_up_by_what_was_delivered() -> None:
    def entry(records: int, *, is_delivered: bool | None, resource: str = "a") -> LogEntry:
        return LogEntry(resource, "list", records, is_delivered, None, 0, "")

    added = add_up(
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


def test_of_contradictory_figures_the_greater_counts() -> None:
    account = account_for(run(fetched(60, 100)), landed(60))

    assert causes(account) == [Cause("unexplained", 40)]


def test_more_than_truto_counted_is_a_surplus_and_no_gap() -> None:
    account = account_for(run(fetched(60)), landed(100))

    assert (account.verdict, account.lines[0].surplus) == ("complete", 40)
    assert not account.is_bad_news


def test_a_resource_of_which_nothing_was_fetched_is_no_line() -> None:
    assert account_for(run(fetched(0, 0)), Figures()).lines == []
    assert account_for(run(fetched(0, 0)), Figures()).verdict == "complete"


def test_errors_alone_are_a_line_and_no_gap() -> None:
    account = account_for(run(fetched(100)), Figures(*_parts(landed(100)), {("crm/deals", "list"): 7}))

    assert [line.errors for line in account.lines] == [0, 7]
    assert (account.verdict, account.record_errors) == ("complete", 7)


def test_a_refused_run_owes_nothing() -> None:
    assert account_for(run(status="refused"), Figures()).verdict == "refused"


def _parts(figures: Figures) -> tuple[Any, Any]:
    return figures.arrived, figures.sinks
