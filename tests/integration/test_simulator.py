"""The simulator sends, retries, stops and loses events as Truto does."""

import json
import signal
import subprocess
import sys
import time
import tomllib
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
from app.simulator.report import RunReport
from app.simulator.sample_records import digest_record, make_record
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


def simulate_to(receiver: FakeReceiver, **changes: Any) -> list[RunReport]:
    return simulate(replace(PLAN, url=receiver.url, **changes), progress=lambda _: None)


def pages(receiver: FakeReceiver) -> list[dict[str, Any]]:
    return [event for event in receiver.events if event["event"] == "sync_job_run:record"]


def test_a_run_sends_its_events_from_created_to_completed() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver)

    assert receiver.actions[:2] == ["created", "started"]
    assert receiver.actions[-1] == "completed"
    final = receiver.events[-1]["payload"]
    assert final["status"] == report.status == "completed"
    assert sum(stat["list"]["fetched"] for stat in final["resource_stats"].values()) == 200
    assert sum(stat["list"]["persisted"] for stat in final["resource_stats"].values()) == 200
    assert (
        sum(len(page["payload"]["records"]) for page in pages(receiver))
        == sum(report.fetched.values())
        == 200
    )
    assert all(page["payload"]["sync_job_run_id"] == report.sync_job_run_id for page in pages(receiver))
    assert report.response_counts == Counter(accepted=len(receiver.bodies))


def test_every_event_has_a_unique_id_and_time() -> None:
    with running_receiver() as receiver:
        simulate_to(receiver, runs=3, parallel=3)

    assert len({event["id"] for event in receiver.events}) == len(receiver.events)
    assert len({event["created_at"] for event in receiver.events}) == len(receiver.events)


def test_sample_records_are_about_a_kilobyte_and_repeatable() -> None:
    for resource in ("crm/contacts", "crm/accounts", "ticketing/tickets", "ticketing/comments"):
        sizes = [
            len(json.dumps(make_record(resource, "a", n, "1"), ensure_ascii=False).encode())
            for n in range(50)
        ]
        assert 700 < sum(sizes) / 50 < 1400
    assert make_record("crm/contacts", "a", 7, "1") == make_record("crm/contacts", "a", 7, "1")
    assert make_record("crm/contacts", "a", 7, "1") != make_record("crm/contacts", "a", 7, "2")


def test_comments_belong_to_tickets_of_the_same_run() -> None:
    with running_receiver() as receiver:
        simulate_to(receiver)

    ids = defaultdict(set)
    for page in pages(receiver):
        for record in page["payload"]["records"]:
            ids[page["payload"]["resource"]].add(record["id"])
            if page["payload"]["resource"] == "ticketing/comments":
                ids["parents"].add(record["ticket"]["id"])
    assert ids["parents"]
    assert ids["parents"] <= ids["ticketing/tickets"]


def test_a_page_is_sent_in_order_and_dropped_after_four_attempts() -> None:
    def answer(event: dict[str, Any], earlier: int) -> int:
        if event["event"] != "sync_job_run:record":
            return 200
        return {"crm/contacts": 200, "crm/accounts": 200 if earlier >= 3 else 503}.get(
            event["payload"]["resource"], 500
        )

    with running_receiver(answer) as receiver:
        [report] = simulate_to(receiver)

    attempts = Counter(
        body
        for body, page in zip(receiver.bodies, receiver.events, strict=True)
        if page["event"] == "sync_job_run:record"
    )
    by_resource = defaultdict(set)
    for body, count in attempts.items():
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
    order = [page["payload"]["resource"] for page in pages(receiver)]
    assert [a for a, b in pairwise([*order, ""]) if a != b] == [
        "crm/contacts",
        "crm/accounts",
        "ticketing/tickets",
        "ticketing/comments",
    ]


def test_the_wait_doubles_before_every_retry() -> None:
    times: list[float] = []

    def answer(event: dict[str, Any], _earlier: int) -> int:
        if event["event"] != "sync_job_run:record":
            return 200
        times.append(time.monotonic())
        return 503

    with running_receiver(answer) as receiver:
        simulate_to(receiver, records=1, first_backoff_s=0.05)

    gaps_s = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps_s) == 3
    assert all(gap_s >= min_s for gap_s, min_s in zip(gaps_s, (0.049, 0.099, 0.199), strict=True))


def test_a_400_to_a_page_is_retried_and_the_page_dropped() -> None:
    with running_receiver(
        lambda event, _earlier: 400 if event["event"].endswith(":record") else 200
    ) as receiver:
        [report] = simulate_to(receiver)

    assert (report.dropped, report.expected, report.persisted.total()) == (12, {}, 0)
    assert report.response_counts["refused"] == 4 * 12
    assert receiver.actions[-1] == "completed"


def test_an_unreachable_receiver_fails_every_attempt() -> None:
    [report] = simulate(replace(PLAN, url=f"http://127.0.0.1:{find_free_port()}/"), progress=lambda _: None)

    assert (report.dropped, report.expected) == (12, {})
    assert set(report.response_counts) == {"failed"}


@pytest.mark.parametrize("response_body", [b"ok", b"", b"\xff\xfe\xff", b"[]", b'{"status": null}'])
def test_answers_without_our_json_are_counted_by_their_http_status(response_body: bytes) -> None:
    def answer(event: dict[str, Any], _earlier: int) -> int:
        return 400 if event["event"] == "sync_job_run:started" else 200

    with running_receiver(answer, response_body=response_body) as receiver:
        [report] = simulate_to(receiver)

    assert (report.status, report.response_counts) == ("refused", Counter(accepted=1, refused=1))


def test_a_400_to_started_stops_the_run_whatever_its_body() -> None:
    with running_receiver(
        lambda event, _earlier: 400 if event["event"].endswith("started") else 200,
        response_body=b'{"status": "no"}',
    ) as receiver:
        [report] = simulate_to(receiver)

    assert receiver.actions == ["created", "started"]
    assert report.status == "refused"


def test_a_refused_run_sends_no_further_event() -> None:
    with running_receiver(
        lambda event, _earlier: 400 if event["event"].endswith("started") else 200
    ) as receiver:
        [report] = simulate_to(receiver)

    assert receiver.actions == ["created", "started"]
    assert (report.status, report.response_counts) == ("refused", Counter(accepted=1, refused=1))


def test_a_run_stopped_midway_ends_with_an_update_of_its_status() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, stop_after=0.3)

    # Truto has no event `stopped`.
    assert (receiver.actions[-1], report.status) == ("updated", "stopped")
    assert receiver.events[-1]["payload"]["status"] == "stopped"
    assert (
        sum(report.fetched.values()) == sum(len(page["payload"]["records"]) for page in pages(receiver)) == 50
    )


def test_duplicates_have_the_same_bytes() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, duplicates=0.5)

    counts = Counter(receiver.bodies)
    assert set(counts.values()) == {1, 2}
    assert report.response_counts["duplicate"] == sum(count == 2 for count in counts.values())


def test_a_duplicate_may_come_after_the_next_page() -> None:
    with running_receiver() as receiver:
        simulate_to(receiver, duplicates=1.0)

    first: dict[str, int] = {}
    distances = []
    for place, page in enumerate(pages(receiver)):
        if page["id"] in first:
            distances.append(place - first[page["id"]])
        first.setdefault(page["id"], place)
    assert len(distances) == len(first) == 12
    assert min(distances) == 1
    assert max(distances) > 1


def test_a_dropped_page_is_never_sent_again() -> None:
    def answer(event: dict[str, Any], earlier: int) -> int:
        return 503 if event["event"] == "sync_job_run:record" and earlier < 4 else 200

    with running_receiver(answer) as receiver:
        [report] = simulate_to(receiver, duplicates=1.0)

    assert set(Counter(page["id"] for page in pages(receiver)).values()) == {4}
    assert (report.dropped, report.expected) == (12, {})


def test_reordered_pages_keep_their_created_at() -> None:
    with running_receiver() as receiver:
        simulate_to(receiver, reordering=0.5)

    times = [page["created_at"] for page in pages(receiver)]
    assert len(times) == 12
    assert any(later < earlier for earlier, later in pairwise(times))


def test_lost_pages_are_fetched_and_never_sent() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, lost=0.4, duplicates=0.3, reordering=0.3)

    arrived = {page["id"]: len(page["payload"]["records"]) for page in pages(receiver)}
    assert 0 < report.lost.total() < 200
    assert sum(arrived.values()) == report.persisted.total() == 200 - report.lost.total()
    assert report.fetched == report.persisted + report.lost
    assert (report.status, report.dropped, len(report.expected)) == ("completed", 0, sum(arrived.values()))
    final = receiver.events[-1]["payload"]["resource_stats"]
    assert {(name, "list"): stats["list"]["persisted"] for name, stats in final.items()} == {
        pair: report.persisted[pair] for pair in report.fetched
    }


def test_the_same_seed_loses_the_same_records() -> None:
    with running_receiver() as receiver:
        first, second, third = (
            simulate_to(receiver, seed=seed, lost=0.5)[0].lost for seed in ("a", "a", "b")
        )

    assert first == second != third


@pytest.mark.parametrize(("changes", "ended"), [({}, "completed"), ({"stop_after": 0.5}, "updated")])
def test_late_pages_follow_the_end_and_are_not_in_the_final_stats(
    changes: dict[str, Any], ended: str
) -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, late=3, lost=0.1, **changes)

    assert receiver.actions[-4:] == [ended, "record", "record", "record"]
    late = receiver.events[-3:]
    final = receiver.events[-4]["payload"]
    reported = {
        kind: sum(stats["list"][kind] for stats in final["resource_stats"].values()) for kind in COUNTS
    }
    assert reported["fetched"] == report.fetched.total()
    assert reported["persisted"] == report.persisted.total() - sum(len(e["payload"]["records"]) for e in late)
    assert max(page["created_at"] for page in pages(receiver)) == late[-1]["created_at"]
    assert (report.dropped, report.fetched) == (0, report.persisted + report.lost)


def test_the_end_of_a_run_overtakes_pages_that_it_counts() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, overtaken=2, late=1)

    assert receiver.actions[-4:] == ["completed", "record", "record", "record"]
    final = receiver.events[-4]
    persisted = sum(stats["list"]["persisted"] for stats in final["payload"]["resource_stats"].values())
    assert persisted == 200 - len(receiver.events[-1]["payload"]["records"])
    assert all(page["created_at"] < final["created_at"] for page in receiver.events[-3:])
    assert report.persisted.total() == 200


@pytest.mark.parametrize("prefix", ["", "sync_job_run:"])
def test_a_run_sends_only_its_events_to_send(prefix: str) -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(
            receiver, events_to_send=(f"{prefix}record", f"{prefix}updated"), record_errors=3
        )

    assert set(receiver.actions) == {"record", "updated"}
    updated = receiver.events[receiver.actions.index("updated")]
    assert updated["payload"]["events_to_send"] == [f"{prefix}record", f"{prefix}updated"]
    assert (report.status, report.persisted.total(), report.record_errors) == ("completed", 200, 0)


def test_records_that_a_run_does_not_send_are_fetched_and_lost() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, events_to_send=("started", "completed"))

    assert receiver.actions == ["started", "completed"]
    assert report.fetched == report.lost
    assert report.fetched.total() == 200


def test_v4_batches_have_no_ids_and_the_account_is_an_argument_of_the_run() -> None:
    with running_receiver() as receiver:
        reports = simulate_to(receiver, v4=True, runs=2, accounts=2)

    assert {tuple(page["payload"]) for page in pages(receiver)} == {
        ("resource", "records", "meta", "retryAfter")
    }
    assert {page["webhook_id"] for page in pages(receiver)} == {receiver.events[0]["payload"]["webhook_id"]}
    ends = [event["payload"] for event in receiver.events if event["event"] == "sync_job_run:completed"]
    assert [(run["integrated_account_id"], run["args"], run["version"]) for run in ends] == [
        (None, {"integrated_account_id": reports[0].integrated_account_id}, 4),
        (None, {"crm_integrated_account_id": reports[1].integrated_account_id}, 4),
    ]
    ids = {id_ for report in reports for id_ in (report.sync_job_run_id, report.integrated_account_id)}
    for page in pages(receiver):
        members = {name: value for name, value in page["payload"].items() if name != "records"}
        assert not any(id_ in json.dumps({**page, "payload": members}) for id_ in ids)


def test_late_pages_follow_an_unplanned_stop() -> None:
    sessions: list[SimulationSession] = []

    @contextmanager
    def keep_session(session: SimulationSession) -> Iterator[None]:
        sessions.append(session)
        yield

    def answer(event: dict[str, Any], _earlier: int) -> int:
        if event["event"] == "sync_job_run:record":
            sessions[0].runs[0].stop()
        return 200

    with running_receiver(answer) as receiver:
        [report] = simulate(
            replace(PLAN, url=receiver.url, late=2), progress=lambda _: None, session_context=keep_session
        )

    assert receiver.actions[-4:] == ["record", "updated", "record", "record"]
    assert receiver.actions.count("record") == 3
    assert report.fetched == report.persisted
    assert report.status == "stopped"


def test_a_run_with_fewer_pages_than_late_ends_before_all_of_them() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, records=3, late=50)

    assert receiver.actions == ["created", "started", "updated", "completed", *["record"] * 3]
    assert report.persisted.total() == 3


def test_an_endless_run_sends_no_final_event() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, endless=True)

    assert set(receiver.actions) == {"created", "started", "record", "updated"}
    assert {event["payload"].get("status") for event in receiver.events} == {"created", "running", None}
    assert (report.status, report.persisted.total()) == ("completed", 200)


def test_changed_records_are_sent_again_and_the_newest_is_expected() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, changes=0.4, reordering=0.5)

    newest: dict[tuple[str, str], tuple[str, Any]] = {}
    for page in pages(receiver):
        for record in page["payload"]["records"]:
            key = (page["payload"]["resource"], record["id"])
            if key not in newest or newest[key][0] <= page["created_at"]:
                newest[key] = (page["created_at"], digest_record(record))
    assert len(newest) < 160
    assert report.expected == newest


@pytest.mark.parametrize(("batched", "events"), [(False, 7), (True, 3)])
def test_record_errors_are_sent_singly_or_batched(batched: bool, events: int) -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, record_errors=7, batched_errors=batched)

    sent = [event["payload"] for event in receiver.events if event["event"] == "sync_job_run:record_error"]
    errors = [error for payload in sent for error in payload.get("errors", [payload])]
    assert (len(errors), report.record_errors) == (7, 7)
    assert all(error["resource"] and error["method"] and error["error"]["status"] for error in errors)
    assert all(("errors" in payload) is batched for payload in sent)
    assert len(sent) == events


def test_rejected_record_errors_count_as_dropped() -> None:
    with running_receiver(
        lambda event, _earlier: 503 if event["event"].endswith("record_error") else 200
    ) as receiver:
        [report] = simulate_to(receiver, record_errors=4)

    assert (report.record_errors, report.dropped) == (0, 4)


def test_forged_requests_are_counted_separately() -> None:
    with running_receiver() as receiver:
        [report] = simulate_to(receiver, forged=6)

    assert report.response_counts["unauthorized"] == 6
    assert report.dropped == 0
    assert sorted(map(is_well_formed, receiver.forged)) == [False] * 4 + [True] * 2
    assert "" in receiver.forged


def is_well_formed(header: str) -> bool:
    try:
        parse_signature_header(header)
    except SignatureError:
        return False
    return True


def test_forged_requests_do_not_need_pages() -> None:
    with running_receiver() as receiver:
        reports = simulate_to(receiver, records=2, runs=6, forged=9)

    assert sum(report.response_counts["unauthorized"] for report in reports) == 9


def test_signatures_are_base64_unless_the_plan_says_otherwise() -> None:
    with running_receiver() as receiver:
        simulate_to(receiver)

    assert {len(signature) for signature in receiver.signatures} == {len("format=sha256,v=") + 44}


@pytest.mark.parametrize(("encoding", "with_format", "length"), [("hex", True, 80), ("base64", False, 46)])
def test_the_plan_chooses_the_format_of_the_signatures(encoding: Any, with_format: bool, length: int) -> None:
    with running_receiver() as receiver:
        simulate_to(receiver, encoding=encoding, with_format=with_format)

    assert {len(signature) for signature in receiver.signatures} == {length}


def test_the_same_seed_sends_the_same_events() -> None:
    def ids(seed: str) -> list[str]:
        with running_receiver() as receiver:
            simulate_to(receiver, seed=seed, duplicates=0.2, reordering=0.2, changes=0.2)
            return [event["id"] for event in receiver.events]

    assert ids("a") == ids("a") != ids("b")


def test_records_and_accounts_are_distributed_over_the_runs() -> None:
    with running_receiver() as receiver:
        reports = simulate_to(receiver, runs=3, accounts=2, records=100)

    assert len({report.integrated_account_id for report in reports}) == 2
    assert len({report.sync_job_run_id for report in reports}) == 3
    assert sum(sum(report.fetched.values()) for report in reports) == 100


def test_all_runs_of_a_plan_share_one_job_and_one_webhook() -> None:
    with running_receiver() as receiver:
        reports = simulate_to(receiver, runs=3)

    assert len({report.sync_job_id for report in reports}) == 1
    assert len({(event["webhook_id"], event["environment_id"]) for event in receiver.events}) == 1


@pytest.fixture
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No .env and no development secret may apply.
    monkeypatch.chdir(tmp_path)


def command(receiver: FakeReceiver, *words: str) -> Result:
    return CliRunner().invoke(
        main, ["simulate", "--url", receiver.url, "--secret", SECRET, "--records", "40", *words]
    )


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_prints_one_json_object() -> None:
    with running_receiver() as receiver:
        result = command(
            receiver, "--json", "--record-errors", "2", "--forged", "3", "--resource", "crm/contacts:get"
        )

    printed = json.loads(result.stdout)
    [run] = printed["runs"]
    assert result.exit_code == 0
    assert run["resources"] == [{"resource": "crm/contacts", "method": "get", "fetched": 40}]
    assert (run["status"], run["record_errors"], run["dropped"]) == ("completed", 2, 0)
    assert run["sync_job_run_id"] == receiver.events[-1]["payload"]["id"]
    assert printed["deliveries"] == {"accepted": len(receiver.bodies), "unauthorized": 3}


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_prints_one_line_for_each_resource() -> None:
    with running_receiver() as receiver:
        result = command(receiver)

    assert result.exit_code == 0
    assert result.stdout.count("10 fetched") == 4


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_reports_lost_records_and_exits_0() -> None:
    with running_receiver() as receiver:
        as_object = command(receiver, "--lost", "1", "--late", "1", "--endless", "--json")
        as_text = command(receiver, "--lost", "1")

    assert (as_object.exit_code, as_text.exit_code) == (0, 0)
    [run] = json.loads(as_object.stdout)["runs"]
    assert (run["lost"], run["dropped"], run["status"]) == (40, 0, "completed")
    assert "completed, 0 errors, 0 dropped, 40 lost" in " ".join(as_text.stdout.split())
    assert (receiver.actions.count("record"), receiver.actions.count("completed")) == (0, 1)


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_chooses_signatures_and_events() -> None:
    with running_receiver() as receiver:
        result = command(
            receiver, "--encoding", "hex", "--events-to-send", "started,record", "--overtaken", "1"
        )

    assert result.exit_code == 0, result.output
    assert set(receiver.actions) == {"started", "record"}
    assert {len(signature) for signature in receiver.signatures} == {80}


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_prints_the_account_of_v4_batches_for_the_routes_file() -> None:
    with running_receiver() as receiver:
        one = command(receiver, "--v4", "--seed", "a b", "--json")
        two = command(receiver, "--v4", "--runs", "2", "--accounts", "2")

    [run] = json.loads(one.stdout)["runs"]
    assert tomllib.loads(one.stderr[one.stderr.index("[[webhooks]]") :].partition("\n\n")[0]) == {
        "webhooks": [{"id": receiver.events[0]["webhook_id"], "account": run["integrated_account_id"]}]
    }
    assert "simulate --v4 --seed 'a b'" in one.stderr
    assert "--accounts 1" in two.stderr


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_exits_1_if_a_run_is_refused() -> None:
    with running_receiver(
        lambda event, _earlier: 400 if event["event"].endswith("started") else 200
    ) as receiver:
        result = command(receiver, "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["runs"][0]["status"] == "refused"
    assert "[[refuse]], [[allow]] or [gate]" in " ".join(result.stderr.split())


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_ends_at_the_first_rejected_signature_or_url() -> None:
    with running_receiver() as receiver:
        wrong_secret = command(receiver, "--secret", "wrong", "--json")
    with running_receiver(lambda _event, _earlier: 404) as elsewhere:
        wrong_url = command(elsewhere, "--runs", "50", "--parallel", "2")

    assert len(receiver.forged) == 1
    assert (wrong_secret.exit_code, wrong_secret.stdout) == (1, "")
    message = " ".join(wrong_secret.stderr.split())
    assert message.startswith("Error: The receiver answered 401")
    assert "signed with the secret from --secret. Pass the receiver's TRUTO_WEBHOOK_SECRET" in message
    assert len(elsewhere.bodies) < 25
    assert wrong_url.exit_code == 1
    assert "The receiver answered 404" in wrong_url.stderr
    assert "/webhooks/truto" in wrong_url.stderr


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_exits_1_if_the_end_of_a_run_is_rejected() -> None:
    with running_receiver(
        lambda event, _earlier: 503 if event["event"].endswith("completed") else 200
    ) as receiver:
        result = command(receiver)

    assert result.exit_code == 1
    assert "completed, 0 errors, 0 dropped, 1 event rejected" in " ".join(result.stdout.split())


@pytest.mark.usefixtures("in_an_empty_folder")
def test_the_command_prints_the_reason_of_each_kind_of_rejection_once() -> None:
    answer = json.dumps({"status": "x", "message": "no \x1b[2J room"}).encode()
    with running_receiver(
        lambda event, _earlier: {"list": 413, "get": 503}.get(event["payload"].get("method"), 200),
        response_body=answer,
    ) as receiver:
        result = command(
            receiver, "--resource", "a", "--resource", "a:get", "--resource", "b", "--parallel", "2"
        )

    assert result.exit_code == 1
    assert result.stderr.count("The receiver answered 413: no [2J room. Raise MAX_BODY_BYTES there") == 1
    assert result.stderr.count("The receiver answered 503: no [2J room. The event is sent again") == 1


@pytest.mark.usefixtures("in_an_empty_folder")
def test_a_secret_of_one_webhook_signs_for_that_webhook() -> None:
    with running_receiver() as receiver:
        result = CliRunner(env={"TRUTO_WEBHOOK_SECRET": f"other-webhook={SECRET}"}).invoke(
            main, ["simulate", "--url", receiver.url, "--records", "4"]
        )

    assert result.exit_code == 0, result.output
    assert {event["webhook_id"] for event in receiver.events} == {"other-webhook"}


@pytest.mark.usefixtures("in_an_empty_folder")
@pytest.mark.parametrize(
    "words", [("--url", "localhost:8000"), ("--resource", ":list"), ("--duplicates", "2")]
)
def test_the_command_exits_2_for_an_invalid_plan(words: tuple[str, str]) -> None:
    with running_receiver() as receiver:
        result = command(receiver, *words)

    assert result.exit_code == 2
    assert words[0].strip("-") in result.stderr
    assert receiver.bodies == []


@pytest.mark.parametrize(("http_status", "pause"), [(503, ()), (200, ("--pause", "3600"))])
def test_ctrl_c_ends_the_command_during_its_runs(
    tmp_path: Path, http_status: int, pause: tuple[str, ...]
) -> None:
    with running_receiver(lambda _event, _earlier: http_status) as receiver:
        words = [
            "simulate",
            "--url",
            receiver.url,
            "--secret",
            SECRET,
            "--runs",
            "4",
            "--parallel",
            "2",
            *pause,
        ]
        with subprocess.Popen(
            [sys.executable, "-m", "app.cli", *words],
            cwd=tmp_path,
            env=make_environment() | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        ) as result:
            try:
                wait_until(lambda: len(receiver.bodies) >= 2)
                result.send_signal(signal.SIGINT)
                _, stderr = result.communicate(timeout=60)
            finally:
                result.kill()

    assert result.returncode == 1
    assert stderr.strip().endswith("Aborted!")
    assert "Traceback" not in stderr
