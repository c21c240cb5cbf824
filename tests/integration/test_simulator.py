"""The stand-in behaves as Truto does, towards a receiver that answers as it is told."""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest

from app.errors import SignatureError
from app.simulator.plan import Plan
from app.simulator.records import digest, make_record
from app.simulator.run import RunReport
from app.simulator.simulate import simulate
from app.truto.signature import verify

SECRET = "s"
PLAN = Plan(url="", secret=SECRET, seed="test", records=200, batch_size=20, first_backoff_s=0.001)


class Receiver:
    """Keeps what it gets; answers what `answer` says of an event and how often it came."""

    def __init__(self, answer: Callable[[dict[str, Any], int], int]) -> None:
        self.bodies: list[bytes] = []
        self.signatures: list[str] = []
        self.url = ""
        self._answer = answer
        self._lock = threading.Lock()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def actions(self) -> list[str]:
        return [event["event"].partition(":")[2] for event in self.events]

    def take(self, body: bytes, signature: str) -> tuple[int, str]:
        try:
            verify(body, signature, [SECRET])
        except SignatureError:
            return 401, "unauthorized"
        with self._lock:
            seen = self.bodies.count(body)
            self.bodies.append(body)
            self.signatures.append(signature)
        status = self._answer(json.loads(body), seen)
        return status, {200: "duplicate" if seen else "accepted", 400: "refused"}.get(status, "unavailable")


@contextmanager
def receiver(answer: Callable[[dict[str, Any], int], int] = lambda _event, _seen: 200) -> Iterator[Receiver]:
    made = Receiver(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the library's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, word = made.take(body, self.headers.get("X-Truto-Signature", ""))
            said = json.dumps({"status": word}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/webhooks/truto"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def play(to: Receiver, **changes: Any) -> list[RunReport]:
    return simulate(replace(PLAN, url=to.url, **changes), progress=lambda _: None)


def pages(to: Receiver) -> list[dict[str, Any]]:
    return [event for event in to.events if event["event"] == "sync_job_run:record"]


def test_a_run_is_told_from_created_to_completed() -> None:
    with receiver() as to:
        [report] = play(to)

    assert to.actions[:2] == ["created", "started"]
    assert to.actions[-1] == "completed"
    final = to.events[-1]["payload"]
    assert final["status"] == report.status == "completed"
    assert sum(stat["list"]["fetched"] for stat in final["resource_stats"].values()) == 200
    assert sum(stat["list"]["persisted"] for stat in final["resource_stats"].values()) == 200
    assert sum(len(page["payload"]["records"]) for page in pages(to)) == sum(report.fetched.values()) == 200
    assert all(page["payload"]["sync_job_run_id"] == report.sync_job_run_id for page in pages(to))
    assert report.answers == Counter(accepted=len(to.bodies))


def test_every_event_has_an_id_of_its_own_and_a_later_time() -> None:
    with receiver() as to:
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
    with receiver() as to:
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

    with receiver(answer) as to:
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


def test_a_refused_run_stops_at_once() -> None:
    with receiver(lambda event, _seen: 400 if event["event"].endswith("started") else 200) as to:
        [report] = play(to)

    assert to.actions == ["created", "started"]
    assert (report.status, report.answers) == ("refused", Counter(accepted=1, refused=1))


def test_a_stop_midway_ends_with_stopped() -> None:
    with receiver() as to:
        [report] = play(to, stop_after=0.3)

    assert (to.actions[-1], report.status) == ("stopped", "stopped")
    assert to.events[-1]["payload"]["status"] == "stopped"
    assert sum(report.fetched.values()) == sum(len(page["payload"]["records"]) for page in pages(to)) == 50


def test_duplicates_are_the_same_bytes() -> None:
    with receiver() as to:
        [report] = play(to, duplicates=0.5)

    counts = Counter(to.bodies)
    assert set(counts.values()) == {1, 2}
    assert report.answers["duplicate"] == sum(count == 2 for count in counts.values())


def test_reordered_pages_keep_their_time() -> None:
    with receiver() as to:
        play(to, reordering=0.5)

    times = [page["created_at"] for page in pages(to)]
    assert len(times) == 12
    assert any(later < earlier for earlier, later in pairwise(times))


def test_changes_come_again_newer_and_the_newest_is_expected() -> None:
    with receiver() as to:
        [report] = play(to, changes=0.4, reordering=0.5)

    newest: dict[tuple[str, str], tuple[str, Any]] = {}
    for page in pages(to):
        for record in page["payload"]["records"]:
            key = (page["payload"]["resource"], record["id"])
            if key not in newest or newest[key][0] <= page["created_at"]:
                newest[key] = (page["created_at"], digest(record))
    assert len(newest) < 160
    assert report.expected == newest


@pytest.mark.parametrize(("batched", "events"), [(False, 7), (True, 3)])
def test_record_errors_single_and_batched(batched: bool, events: int) -> None:
    with receiver() as to:
        [report] = play(to, record_errors=7, batched_errors=batched)

    sent = [event["payload"] for event in to.events if event["event"] == "sync_job_run:record_error"]
    errors = [error for payload in sent for error in payload.get("errors", [payload])]
    assert (len(errors), report.record_errors) == (7, 7)
    assert all(error["resource"] and error["method"] and error["error"]["status"] for error in errors)
    assert all(("errors" in payload) is batched for payload in sent)
    assert len(sent) == events


def test_forged_requests_are_counted_apart() -> None:
    with receiver() as to:
        [report] = play(to, forged=5)

    assert report.answers["unauthorized"] == 5
    assert report.dropped == 0


@pytest.mark.parametrize(("encoding", "with_format", "length"), [("hex", True, 80), ("base64", False, 46)])
def test_signatures_in_the_spelling_asked_for(encoding: Any, with_format: bool, length: int) -> None:
    with receiver() as to:
        play(to, encoding=encoding, with_format=with_format)

    assert {len(signature) for signature in to.signatures} == {length}


def test_the_same_seed_plays_the_same() -> None:
    def ids(seed: str) -> list[str]:
        with receiver() as to:
            play(to, seed=seed, duplicates=0.2, reordering=0.2, changes=0.2)
            return [event["id"] for event in to.events]

    assert ids("a") == ids("a") != ids("b")


def test_accounts_and_records_are_shared_out() -> None:
    with receiver() as to:
        reports = play(to, runs=3, accounts=2, records=100)

    assert len({report.integrated_account_id for report in reports}) == 2
    assert len({report.sync_job_run_id for report in reports}) == 3
    assert sum(sum(report.fetched.values()) for report in reports) == 100
