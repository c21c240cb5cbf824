"""The stand-in behaves as Truto does, towards a receiver that answers as it is told."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.cli.local.ports import find_free_port
from app.errors import SignatureError
from app.simulator.plan import Plan
from app.simulator.records import digest_record, make_record
from app.simulator.report import RunReport
from app.simulator.session import SimulationSession, simulate
from app.truto.signature import parse_signature_header
from tests.support.fake_receiver import SECRET, FakeReceiver, running_receiver
from tests.support.waiting import wait_until
from tests.support.web_process import ROOT, make_environment

PLAN = Plan(
    url="http://receiver.invalid",
    secret=SECRET,
    seed="test",
    records=200,
    batch_size=20,
    first_backoff_s=0.001,
)


COUNTS = ("fetched", "persisted")


def play(to: FakeReceiver, **changes: Any) -> list[RunReport]:
    return simulate(replace(PLAN, url=to.url, **changes), progress=lambda _: None)


def pages(to: FakeReceiver) -> list[dict[str, Any]]:
    return [event for event in to.events if event["event"] == "sync_job_run:record"]


def test_a_run_is_told_from_created_to_completed() -> None:
    with running_receiver() as to:
        [report] = play(to)

    assert to.actions[:2] == ["created", "started"]
    assert to.actions[-1] == "completed"
    final = to.events[-1]["payload"]
    assert final["status"] == report.status == "completed"
    assert sum(stat["list"]["fetched"] for stat in final["resource_stats"].values()) == 200
    assert sum(stat["list"]["persisted"] for stat in final["resource_stats"].values()) == 200
    assert sum(len(page["payload"]["records"]) for page in pages(to)) == sum(report.fetched.values()) == 200
    assert all(page["payload"]["sync_job_run_id"] == report.sync_job_run_id for page in pages(to))
    assert report.response_counts == Counter(accepted=len(to.bodies))


def test_every_event_has_an_id_of_its_own_and_a_later_time() -> None:
    with running_receiver() as to:
        play(to, runs=3, parallel=3)

    assert len({event["id"] for event in to.events}) == len(to.events)
    assert len({event["created_at"] for event in to.events}) == len(to.events)


def test_records_are_about_a_kilobyte_and_like_trutos() -> None:
    for resource in ("crm/contacts", "crm/accounts", "ticketing/tickets", "ticketing/comments"):
        sizes = [
            len(json.dumps(make_record(resource, "a", n, "1"), ensure_ascii=False).encode())
            for n in range(50)
        ]
        assert 700 < sum(sizes) / 50 < 1400
    assert make_record("crm/contacts", "a", 7, "1") == make_record("crm/contacts", "a", 7, "1")
    assert make_record("crm/contacts", "a", 7, "1") != make_record("crm/contacts", "a", 7, "2")


def test_children_belong_to_tickets_of_the_run() -> None:
    with running_receiver() as to:
        play(to)

    ids = defaultdict(set)
    for page in pages(to):
        for record in page["payload"]["records"]:
            ids[page["payload"]["resource"]].add(record["id"])
            if page["payload"]["resource"] == "ticketing/comments":
                ids["parents"].add(record["ticket"]["id"])
    assert ids["parents"]
    assert ids["parents"] <= ids["ticketing/tickets"]


def test_an_answer_is_awaited_and_a_failure_tried_four_times_then_dropped() -> None:
    def answer(event: dict[str, Any], seen: int) -> int:
        if event["event"] != "sync_job_run:record":
            return 200
        return {"crm/contacts": 200, "crm/accounts": 200 if seen >= 3 else 503}.get(
            event["payload"]["resource"], 500
        )

    with running_receiver(answer) as to:
        [report] = play(to)

    tries = Counter(
        body
        for body, page in zip(to.bodies, to.events, strict=True)
        if page["event"] == "sync_job_run:record"
    )
    by_resource = defaultdict(set)
    for body, count in tries.items():
        by_resource[json.loads(body)["payload"]["resource"]].add(count)
    assert by_resource == {
        "crm/contacts": {1},
        "crm/accounts": {4},
        "ticketing/tickets": {4},
        "ticketing/comments": {4},
    }
    assert report.dropped == 6
    assert sum(report.persisted.values()) == 100
    assert {resource for resource, _ in report.expected} == {"crm/contacts", "crm/accounts"}
    order = [page["payload"]["resource"] for page in pages(to)]
    assert [a for a, b in pairwise([*order, ""]) if a != b] == [
        "crm/contacts",
        "crm/accounts",
        "ticketing/tickets",
        "ticketing/comments",
    ]


def test_each_try_waits_twice_as_long_as_the_last() -> None:
    times: list[float] = []

    def answer(event: dict[str, Any], _seen: int) -> int:
        if event["event"] != "sync_job_run:record":
            return 200
        times.append(time.monotonic())
        return 503

    with running_receiver(answer) as to:
        play(to, records=1, first_backoff_s=0.05)

    gaps_s = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps_s) == 3
    assert all(gap_s >= least_s for gap_s, least_s in zip(gaps_s, (0.049, 0.099, 0.199), strict=True))


def test_a_page_that_is_refused_is_tried_again_and_dropped() -> None:
    with running_receiver(lambda event, _seen: 400 if event["event"].endswith(":record") else 200) as to:
        [report] = play(to)

    assert (report.dropped, report.expected, report.persisted.total()) == (12, {}, 0)
    assert report.response_counts["refused"] == 4 * 12
    assert to.actions[-1] == "completed"


def test_nobody_there_is_a_failure_of_every_try() -> None:
    [report] = simulate(replace(PLAN, url=f"http://127.0.0.1:{find_free_port()}/"), progress=lambda _: None)

    assert (report.dropped, report.expected) == (12, {})
    assert set(report.response_counts) == {"failed"}


@pytest.mark.parametrize("said", [b"ok", b"", b"\xff\xfe\xff", b"[]", b'{"status": null}'])
def test_answers_of_another_receiver_count_by_their_status(said: bytes) -> None:
    def answer(event: dict[str, Any], _seen: int) -> int:
        return 400 if event["event"] == "sync_job_run:started" else 200

    with running_receiver(answer, response_body=said) as to:
        [report] = play(to)

    assert (report.status, report.response_counts) == ("refused", Counter(accepted=1, refused=1))


def test_a_400_to_started_stops_the_run_whatever_it_says() -> None:
    with running_receiver(
        lambda event, _seen: 400 if event["event"].endswith("started") else 200,
        response_body=b'{"status": "no"}',
    ) as to:
        [report] = play(to)

    assert to.actions == ["created", "started"]
    assert report.status == "refused"


def test_a_refused_run_stops_at_once() -> None:
    with running_receiver(lambda event, _seen: 400 if event["event"].endswith("started") else 200) as to:
        [report] = play(to)

    assert to.actions == ["created", "started"]
    assert (report.status, report.response_counts) == ("refused", Counter(accepted=1, refused=1))


def test_a_stop_midway_ends_with_stopped() -> None:
    with running_receiver() as to:
        [report] = play(to, stop_after=0.3)

    assert (to.actions[-1], report.status) == ("stopped", "stopped")
    assert to.events[-1]["payload"]["status"] == "stopped"
    assert sum(report.fetched.values()) == sum(len(page["payload"]["records"]) for page in pages(to)) == 50


def test_duplicates_are_the_same_bytes() -> None:
    with running_receiver() as to:
        [report] = play(to, duplicates=0.5)

    counts = Counter(to.bodies)
    assert set(counts.values()) == {1, 2}
    assert report.response_counts["duplicate"] == sum(count == 2 for count in counts.values())


def test_a_duplicate_may_come_after_the_next_page() -> None:
    with running_receiver() as to:
        play(to, duplicates=1.0)

    first: dict[str, int] = {}
    distances = []
    for place, page in enumerate(pages(to)):
        if page["id"] in first:
            distances.append(place - first[page["id"]])
        first.setdefault(page["id"], place)
    assert len(distances) == len(first) == 12
    assert min(distances) == 1
    assert max(distances) > 1


def test_what_was_given_up_never_comes_again() -> None:
    def answer(event: dict[str, Any], seen: int) -> int:
        return 503 if event["event"] == "sync_job_run:record" and seen < 4 else 200

    with running_receiver(answer) as to:
        [report] = play(to, duplicates=1.0)

    assert set(Counter(page["id"] for page in pages(to)).values()) == {4}
    assert (report.dropped, report.expected) == (12, {})


def test_reordered_pages_keep_their_time() -> None:
    with running_receiver() as to:
        play(to, reordering=0.5)

    times = [page["created_at"] for page in pages(to)]
    assert len(times) == 12
    assert any(later < earlier for earlier, later in pairwise(times))


def test_lost_pages_are_fetched_and_never_sent() -> None:
    with running_receiver() as to:
        [report] = play(to, lost=0.4, duplicates=0.3, reordering=0.3)

    arrived = {page["id"]: len(page["payload"]["records"]) for page in pages(to)}
    assert 0 < report.lost.total() < 200
    assert sum(arrived.values()) == report.persisted.total() == 200 - report.lost.total()
    assert report.fetched == report.persisted + report.lost
    assert (report.status, report.dropped, len(report.expected)) == ("completed", 0, sum(arrived.values()))
    final = to.events[-1]["payload"]["resource_stats"]
    assert {(name, "list"): stats["list"]["persisted"] for name, stats in final.items()} == {
        pair: report.persisted[pair] for pair in report.fetched
    }


def test_the_same_seed_loses_the_same() -> None:
    with running_receiver() as to:
        first, second, third = (play(to, seed=seed, lost=0.5)[0].lost for seed in ("a", "a", "b"))

    assert first == second != third


@pytest.mark.parametrize(("changes", "ended"), [({}, "completed"), ({"stop_after": 0.5}, "stopped")])
def test_the_last_pages_come_late_and_are_not_in_the_final_stats(changes: dict[str, Any], ended: str) -> None:
    with running_receiver() as to:
        [report] = play(to, late=3, lost=0.1, **changes)

    assert to.actions[-4:] == [ended, "record", "record", "record"]
    late = to.events[-3:]
    final = next(event["payload"] for event in to.events if event["event"].endswith(ended))
    told = {kind: sum(stats["list"][kind] for stats in final["resource_stats"].values()) for kind in COUNTS}
    assert told["fetched"] == report.fetched.total()
    assert told["persisted"] == report.persisted.total() - sum(len(e["payload"]["records"]) for e in late)
    assert max(page["created_at"] for page in pages(to)) == late[-1]["created_at"]
    assert (report.dropped, report.fetched) == (0, report.persisted + report.lost)


def test_pages_come_late_after_a_stop_that_nobody_planned() -> None:
    stages: list[SimulationSession] = []

    @contextmanager
    def beside(stage: SimulationSession) -> Iterator[None]:
        stages.append(stage)
        yield

    def answer(event: dict[str, Any], _seen: int) -> int:
        if event["event"] == "sync_job_run:record":
            stages[0].runs[0].stop()
        return 200

    with running_receiver(answer) as to:
        [report] = simulate(replace(PLAN, url=to.url, late=2), progress=lambda _: None, beside=beside)

    assert to.actions[-4:] == ["record", "stopped", "record", "record"]
    assert to.actions.count("record") == 3
    assert report.fetched == report.persisted
    assert report.status == "stopped"


def test_a_run_of_fewer_pages_than_are_late_ends_before_any_of_them() -> None:
    with running_receiver() as to:
        [report] = play(to, records=3, late=50)

    assert to.actions == ["created", "started", "updated", "completed", *["record"] * 3]
    assert report.persisted.total() == 3


def test_an_endless_run_ends_without_a_word() -> None:
    with running_receiver() as to:
        [report] = play(to, endless=True)

    assert set(to.actions) == {"created", "started", "record", "updated"}
    assert {event["payload"].get("status") for event in to.events} == {"created", "running", None}
    assert (report.status, report.persisted.total()) == ("completed", 200)


def test_changes_come_again_newer_and_the_newest_is_expected() -> None:
    with running_receiver() as to:
        [report] = play(to, changes=0.4, reordering=0.5)

    newest: dict[tuple[str, str], tuple[str, Any]] = {}
    for page in pages(to):
        for record in page["payload"]["records"]:
            key = (page["payload"]["resource"], record["id"])
            if key not in newest or newest[key][0] <= page["created_at"]:
                newest[key] = (page["created_at"], digest_record(record))
    assert len(newest) < 160
    assert report.expected == newest


@pytest.mark.parametrize(("batched", "events"), [(False, 7), (True, 3)])
def test_record_errors_single_and_batched(batched: bool, events: int) -> None:
    with running_receiver() as to:
        [report] = play(to, record_errors=7, batched_errors=batched)

    sent = [event["payload"] for event in to.events if event["event"] == "sync_job_run:record_error"]
    errors = [error for payload in sent for error in payload.get("errors", [payload])]
    assert (len(errors), report.record_errors) == (7, 7)
    assert all(error["resource"] and error["method"] and error["error"]["status"] for error in errors)
    assert all(("errors" in payload) is batched for payload in sent)
    assert len(sent) == events


def test_record_errors_that_are_given_up_are_dropped() -> None:
    with running_receiver(lambda event, _seen: 503 if event["event"].endswith("record_error") else 200) as to:
        [report] = play(to, record_errors=4)

    assert (report.record_errors, report.dropped) == (0, 4)


def test_forged_requests_are_counted_apart() -> None:
    with running_receiver() as to:
        [report] = play(to, forged=6)

    assert report.response_counts["unauthorized"] == 6
    assert report.dropped == 0
    assert sorted(map(is_well_formed, to.forged)) == [False] * 4 + [True] * 2
    assert "" in to.forged


def is_well_formed(header: str) -> bool:
    try:
        parse_signature_header(header)
    except SignatureError:
        return False
    return True


def test_forged_requests_do_not_need_pages() -> None:
    with running_receiver() as to:
        reports = play(to, records=2, runs=6, forged=9)

    assert sum(report.response_counts["unauthorized"] for report in reports) == 9


@pytest.mark.parametrize(("encoding", "with_format", "length"), [("hex", True, 80), ("base64", False, 46)])
def test_signatures_in_the_spelling_asked_for(encoding: Any, with_format: bool, length: int) -> None:
    with running_receiver() as to:
        play(to, encoding=encoding, with_format=with_format)

    assert {len(signature) for signature in to.signatures} == {length}


def test_the_same_seed_plays_the_same() -> None:
    def ids(seed: str) -> list[str]:
        with running_receiver() as to:
            play(to, seed=seed, duplicates=0.2, reordering=0.2, changes=0.2)
            return [event["id"] for event in to.events]

    assert ids("a") == ids("a") != ids("b")


def test_accounts_and_records_are_shared_out() -> None:
    with running_receiver() as to:
        reports = play(to, runs=3, accounts=2, records=100)

    assert len({report.integrated_account_id for report in reports}) == 2
    assert len({report.sync_job_run_id for report in reports}) == 3
    assert sum(sum(report.fetched.values()) for report in reports) == 100


def test_runs_of_a_plan_are_of_one_job_and_one_webhook() -> None:
    with running_receiver() as to:
        reports = play(to, runs=3)

    assert len({report.sync_job_id for report in reports}) == 1
    assert len({(event["webhook_id"], event["environment_id"]) for event in to.events}) == 1


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Away from any .env and development secret.
    monkeypatch.chdir(tmp_path)


def command(to: FakeReceiver, *words: str) -> Result:
    return CliRunner().invoke(
        main, ["simulate", "--url", to.url, "--secret", SECRET, "--records", "40", *words]
    )


@pytest.mark.usefixtures("in_a_folder")
def test_the_command_prints_one_object() -> None:
    with running_receiver() as to:
        ran = command(to, "--json", "--record-errors", "2", "--forged", "3", "--resource", "crm/contacts:get")

    printed = json.loads(ran.stdout)
    [run] = printed["runs"]
    assert ran.exit_code == 0
    assert run["resources"] == [{"resource": "crm/contacts", "method": "get", "fetched": 40}]
    assert (run["status"], run["record_errors"], run["dropped"]) == ("completed", 2, 0)
    assert run["sync_job_run_id"] == to.events[-1]["payload"]["id"]
    assert printed["deliveries"] == {"accepted": len(to.bodies), "unauthorized": 3}


@pytest.mark.usefixtures("in_a_folder")
def test_the_command_prints_a_line_a_resource() -> None:
    with running_receiver() as to:
        ran = command(to)

    assert ran.exit_code == 0
    assert ran.stdout.count("10 fetched") == 4


@pytest.mark.usefixtures("in_a_folder")
def test_the_command_tells_what_was_lost_and_is_fine_with_it() -> None:
    with running_receiver() as to:
        as_object = command(to, "--lost", "1", "--late", "1", "--endless", "--json")
        as_text = command(to, "--lost", "1")

    assert (as_object.exit_code, as_text.exit_code) == (0, 0)
    [run] = json.loads(as_object.stdout)["runs"]
    assert (run["lost"], run["dropped"], run["status"]) == (40, 0, "completed")
    assert "completed, 0 record errors, 0 dropped, 40 records lost" in as_text.stdout
    assert (to.actions.count("record"), to.actions.count("completed")) == (0, 1)


@pytest.mark.usefixtures("in_a_folder")
def test_the_command_fails_where_a_run_is_refused() -> None:
    with running_receiver(lambda event, _seen: 400 if event["event"].endswith("started") else 200) as to:
        ran = command(to, "--json")

    assert ran.exit_code == 1
    assert json.loads(ran.stdout)["runs"][0]["status"] == "refused"


@pytest.mark.usefixtures("in_a_folder")
@pytest.mark.parametrize(
    "words", [("--url", "localhost:8000"), ("--resource", ":list"), ("--duplicates", "2")]
)
def test_the_command_refuses_what_cannot_be_played(words: tuple[str, str]) -> None:
    with running_receiver() as to:
        ran = command(to, *words)

    assert ran.exit_code == 2
    assert words[0].strip("-") in ran.stderr
    assert to.bodies == []


def test_ctrl_c_ends_the_command_in_the_middle_of_its_runs(tmp_path: Path) -> None:
    with running_receiver(lambda _event, _seen: 503) as to:
        words = ["simulate", "--url", to.url, "--secret", SECRET, "--runs", "4", "--parallel", "2"]
        with subprocess.Popen(
            [sys.executable, "-m", "app.cli", *words],
            cwd=tmp_path,
            env=make_environment() | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        ) as ran:
            try:
                wait_until(lambda: len(to.bodies) >= 2)
                ran.send_signal(signal.SIGINT)
                _, complaints = ran.communicate(timeout=60)
            finally:
                ran.kill()

    assert ran.returncode == 1
    assert complaints.strip() == "Aborted!"
