"""Truto's API over real HTTP: what is asked, what is asked again, and what its answers mean."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

import pytest

from app.cli.local.ports import find_free_port
from app.errors import TrutoRefused, TrutoUnavailable
from app.truto.client import TrutoApi, TrutoClient
from app.truto.run_log import LogEntry, split_time_range
from app.truto.runs import RecordCounts, read_resource_stats
from app.truto.webhooks import Webhook

TOKEN = "8c0ff23e-never-shown"
RUN = "1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5"
Reply = tuple[int, dict[str, str], bytes]


class FakeTruto:
    """Gives these replies, one a request, and notes what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.waited: list[float] = []
        truto = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                truto.requests.append((self.command, self.path))
                truto.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
                assert self.headers["Authorization"] == f"Bearer {TOKEN}"
                status, headers, body = truto.replies.pop(0)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def reply_with(self, *answers: object, status: int = 200, **headers: str) -> None:
        """Reply to the next requests with these, as JSON unless they are bytes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for answer in answers:
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.replies.append((status, named, body))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def truto() -> Iterator[FakeTruto]:
    server = FakeTruto()
    yield server
    server.close()


@pytest.fixture
def api(truto: FakeTruto) -> Iterator[TrutoApi]:
    with TrutoClient(truto.url, TOKEN, sleep=truto.waited.append) as client:
        yield TrutoApi(client)


# The documented answer, with the values that it gives as examples.
DOCUMENTED = {
    "id": "4a4de828-f4db-4c9e-adfd-434e0864c3c7",
    "args": {"project_slug": "vcs_provider/org_name/repo_name"},
    "resources": [
        {
            "resource": "crm/contacts",
            "method": "list",
            "id": "{{args.user_id}}",
            "query": {"page": 1, "per_page": 100, "user_id": "{{args.user_id}}"},
            "loop_on": '{ "{ args.user_ids }": null }',
            "depends_on": "crm/contacts",
            "persist": True,
        }
    ],
    "sync_job_id": "4a4de828-f4db-4c9e-adfd-434e0864c3c7",
    "integrated_account_id": "94801e49-a652-42f9-af14-dd203d7897da",
    "status": "running",
    "daemon_id": "default",
    "daemon_group_key": "default",
    "webhook_id": "4a4de828-f4db-4c9e-adfd-434e0864c3c7",
    "error_handling": "ignore",
    "ignore_previous_run": False,
    "version": 1,
    "resource_stats": {
        "crm/contacts": {"list": {"fetched": 100, "persisted": 100}},
        "crm/deals": {
            "list": {"fetched": 100, "persisted": 0},
            "get": {"fetched": 100, "persisted": 100},
        },
    },
    "created_at": "2021-08-10T10:00:00.000Z",
    "updated_at": "2021-08-10T10:00:00.000Z",
    "started_at": "2021-08-10T10:00:00.000Z",
    "finished_at": "2021-08-10T10:00:00.000Z",
    "sync_job": {
        "id": "4a4de828-f4db-4c9e-adfd-434e0864c3c7",
        "integration_name": "zendesk",
        "args_schema": {
            "type": "object",
            "properties": {"project_slug": {"type": "string", "required": True}},
        },
        "resources": [{"resource": "crm/contacts", "method": "list"}],
        "environment_id": "05daecaf-4365-42e8-8370-8127de5dd717",
        "created_at": "2021-08-10T10:00:00.000Z",
        "updated_at": "2021-08-10T10:00:00.000Z",
    },
}
THEN = datetime(2021, 8, 10, 10, 0, tzinfo=UTC)


def test_the_documented_answer_is_read_field_by_field(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with(DOCUMENTED)

    run = api.stop_run(RUN)

    assert truto.requests == [("DELETE", f"/sync-job-run/{RUN}")]
    times = dict.fromkeys(("created_at", "updated_at", "started_at", "finished_at"), THEN)
    expected = {**DOCUMENTED, **times}
    job = {**DOCUMENTED["sync_job"], "created_at": THEN, "updated_at": THEN}  # type: ignore[dict-item]  # an object
    assert run.model_dump() == {**expected, "sync_job": job}
    assert read_resource_stats(run.resource_stats) == {
        ("crm/contacts", "list"): RecordCounts(100, 100),
        ("crm/deals", "list"): RecordCounts(100, 0),
        ("crm/deals", "get"): RecordCounts(100, 100),
    }


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "TRUTO_API_TOKEN"),
        (403, "may not"),
        (404, "id"),
        (405, "read-only"),
        (409, "busy"),
        (422, "take"),
    ],
)
def test_what_truto_refuses_is_told_and_not_asked_again(
    truto: FakeTruto, api: TrutoApi, status: int, hint: str
) -> None:
    truto.reply_with({"message": "it is so"}, status=status)

    with pytest.raises(TrutoRefused, match=f"{status}.*{hint}.*it is so") as refusal:
        api.get_run(RUN)

    assert refusal.value.http_status == status
    assert TOKEN not in str(refusal.value)
    assert len(truto.requests) == 1


def test_patience_is_kept_as_long_as_truto_asks_for(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({}, status=429, Retry_After="10")
    truto.reply_with({"id": RUN})

    assert api.start_run({"sync_job_id": "j"}).id == RUN
    assert truto.waited == [10]
    assert truto.bodies == [b'{"sync_job_id":"j"}'] * 2


def test_more_patience_than_a_command_has_is_an_error(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({}, status=429, Retry_After="3600")

    with pytest.raises(TrutoUnavailable, match="429"):
        api.get_run(RUN)

    assert truto.waited == []


@pytest.mark.parametrize("ask", [TrutoApi.get_run, TrutoApi.stop_run])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failure_of_truto_is_asked_about_again_where_twice_is_as_good_as_once(
    truto: FakeTruto, api: TrutoApi, ask: Callable[[TrutoApi, str], object], status: int
) -> None:
    truto.reply_with(*[b"<html>oops</html>"] * 4, status=status)

    with pytest.raises(TrutoUnavailable, match=str(status)) as failure:
        ask(api, RUN)

    assert "oops" not in str(failure.value)
    assert len(truto.requests) == 4
    assert truto.waited == sorted(truto.waited)


def test_a_run_is_never_started_twice(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({}, status=500)

    with pytest.raises(TrutoUnavailable):
        api.start_run({})

    assert len(truto.requests) == 1


def test_what_a_customers_saas_says_is_neither_told_nor_asked_again(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({"truto_is_remote_error": True, "message": "Ada Lovelace is unknown"}, status=502)

    with pytest.raises(TrutoRefused, match="502") as refusal:
        api.get_run(RUN)

    assert "Ada" not in str(refusal.value)


@pytest.mark.parametrize("answer", [b"<html>a portal</html>", b"", b"[1]", b"null"])
def test_an_answer_that_is_no_object_blames_the_address(
    truto: FakeTruto, api: TrutoApi, answer: bytes
) -> None:
    truto.reply_with(answer)

    with pytest.raises(TrutoRefused, match="TRUTO_API_URL"):
        api.get_run(RUN)


def test_an_object_that_is_no_run_is_told(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({"status": "running"})

    with pytest.raises(TrutoRefused, match="no sync job run"):
        api.get_run(RUN)


def test_an_address_where_nobody_answers_is_told_after_four_attempts() -> None:
    waited: list[float] = []

    with (
        TrutoClient(f"http://127.0.0.1:{find_free_port()}", TOKEN, sleep=waited.append) as client,
        pytest.raises(TrutoUnavailable, match=r"127\.0\.0\.1 cannot be reached"),
    ):
        TrutoApi(client).start_run({})

    assert len(waited) == 3


def test_an_id_cannot_lead_elsewhere(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({"id": "x"})

    api.get_run("../webhook/1?x=y")

    assert truto.requests == [("GET", "/sync-job-run/..%2Fwebhook%2F1%3Fx%3Dy")]


def test_lists_are_read_to_their_end(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({"results": [{"id": "1"}, {"id": "2"}], "next_cursor": "a&b"})
    truto.reply_with({"result": [{"id": "3"}, "odd", {}], "next_cursor": None})

    assert [run.id for run in api.list_runs({"status": "running"})] == ["1", "2", "3"]
    assert truto.requests == [
        ("GET", "/sync-job-run?status=running&limit=100"),
        ("GET", "/sync-job-run?status=running&limit=100&next_cursor=a%26b"),
    ]


def test_a_cursor_that_comes_again_ends_the_list(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with(*[{"results": [{"id": "1"}], "next_cursor": "same"}] * 2)

    assert [run.id for run in api.list_runs({})] == ["1", "1"]


HOOK = "05daecaf-4365-42e8-8370-8127de5dd717"
# As Truto's own examples show one.
DOCUMENTED_HOOK = {
    "id": HOOK,
    "target_url": "https://example.com/webhooks/truto",
    "is_active": False,
    "event_types": ["sync_job_run:completed", "sync_job_run:failed"],
    "environment_id": "4a4de828-f4db-4c9e-adfd-434e0864c3c7",
    "created_at": "2024-09-01 10:00:00",
    "updated_at": "2024-09-01 10:00:00",
}


def test_a_webhook_is_read_as_documented(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with(DOCUMENTED_HOOK)

    assert api.get_webhook(HOOK) == Webhook(
        id=HOOK,
        target_url="https://example.com/webhooks/truto",
        is_active=False,
        event_types=("sync_job_run:completed", "sync_job_run:failed"),
    )
    assert truto.requests == [("GET", f"/webhook/{HOOK}")]


@pytest.mark.parametrize(
    "rest", [{}, {"target_url": None, "is_active": "yes", "event_types": {"a": 1}, "secret": []}]
)
def test_a_webhook_may_tell_nothing_but_its_id(
    truto: FakeTruto, api: TrutoApi, rest: dict[str, object]
) -> None:
    truto.reply_with({"id": HOOK, **rest})

    assert api.get_webhook(HOOK) == Webhook(HOOK)


def test_the_secret_of_a_created_webhook_is_in_hand_and_shown_nowhere(
    truto: FakeTruto, api: TrutoApi
) -> None:
    truto.reply_with({**DOCUMENTED_HOOK, "secret": "once-only"})

    created = api.create_webhook("https://example.com/webhooks/truto", ["sync_job_run:record"])

    assert created.secret == "once-only"
    assert "once-only" not in repr(created)
    assert truto.requests == [("POST", "/webhook")]
    assert json.loads(truto.bodies[0]) == {
        "target_url": "https://example.com/webhooks/truto",
        "is_active": True,
        "event_types": ["sync_job_run:record"],
    }


def test_an_object_that_is_no_webhook_is_told_without_its_secret(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({"secret": "once-only"})

    with pytest.raises(TrutoRefused, match="no webhook") as refusal:
        api.create_webhook("https://example.com", [])

    assert "once-only" not in str(refusal.value)


def test_a_webhook_is_never_created_twice(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({}, status=502)

    with pytest.raises(TrutoUnavailable):
        api.create_webhook("https://example.com", [])

    assert len(truto.requests) == 1


def test_a_webhook_is_switched_on_though_truto_fails_once(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with({}, status=502)
    truto.reply_with({**DOCUMENTED_HOOK, "is_active": True})

    assert api.activate_webhook(HOOK).is_active is True
    assert truto.requests == [("PATCH", f"/webhook/{HOOK}")] * 2
    assert truto.bodies == [b'{"is_active":true}'] * 2


@pytest.mark.parametrize(
    ("answer", "expected"), [({"success": True}, True), ({"success": False}, False), ({}, False)]
)
def test_a_test_says_whether_the_receiver_took_it(
    truto: FakeTruto, api: TrutoApi, answer: dict[str, bool], expected: bool
) -> None:
    truto.reply_with(answer)

    assert api.test_webhook(HOOK) is expected
    assert truto.requests == [("POST", "/webhook/test")]
    assert json.loads(truto.bodies[0]) == {"id": HOOK}


def test_a_log_is_asked_for_by_run_and_time_and_read_to_its_end(truto: FakeTruto, api: TrutoApi) -> None:
    lost = {"resource": "crm/contacts", "method": "list", "status": "failed", "num_records": 100}
    lost |= {"webhook_successful": False, "webhook_status": 503, "retry_count": 3, "logs": []}
    truto.reply_with({"result": [lost], "next_cursor": "next"})
    truto.reply_with({"result": [{"resource": "deals", "num_records": 7, "status": "completed"}]})

    entries = list(api.read_log(RUN, since=THEN, until=THEN + timedelta(hours=1)))

    assert entries == [
        LogEntry("crm/contacts", "list", 100, False, 503, 3, "failed"),
        LogEntry("deals", "", 7, None, None, 0, "completed"),
    ]
    asked = [dict(parse_qsl(urlsplit(path).query)) for _, path in truto.requests]
    assert asked[0] == {
        "log_type": "rapid_bridge",
        "log_type_filter[sync_job_run_id]": RUN,
        "created_at[gt]": "2021-08-10T10:00:00.000Z",
        "created_at[lt]": "2021-08-10T11:00:00.000Z",
        "limit": "100",
    }
    assert asked[1] == {**asked[0], "next_cursor": "next"}


def test_a_cursor_that_comes_again_ends_the_log(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with(*[{"result": [{}], "next_cursor": "same"}] * 2)

    assert len(list(api.read_log(RUN, since=THEN, until=THEN + timedelta(days=1)))) == 2


def test_log_entries_may_be_anything(truto: FakeTruto, api: TrutoApi) -> None:
    odd = {"resource": [], "method": {}, "status": True, "num_records": "7", "retry_count": -1}
    odd |= {"webhook_successful": "yes", "webhook_status": "200"}
    truto.reply_with({"result": [None, 1, "x", [], {}, odd]})
    truto.reply_with({"result": {"resource": "crm/contacts"}})

    found = [list(api.read_log(RUN, since=THEN, until=THEN + timedelta(days=1))) for _ in range(2)]

    nothing = LogEntry("", "", 0, None, None, 0, "")
    assert found == [[nothing, replace(nothing, num_records=7, http_status=200)], []]


def test_a_long_span_is_asked_for_a_month_at_a_time(truto: FakeTruto, api: TrutoApi) -> None:
    truto.reply_with(*[{"result": [{"resource": str(place)}]} for place in range(3)])

    found = [entry.resource for entry in api.read_log(RUN, since=THEN, until=THEN + timedelta(days=70))]

    assert found == ["0", "1", "2"]


@pytest.mark.parametrize("days", [0, 1, 30, 31, 60, 365.5])
def test_windows_leave_no_instant_out(days: float) -> None:
    until = (THEN + timedelta(days=days)).astimezone(timezone(timedelta(hours=2)))

    found = [tuple(map(datetime.fromisoformat, window)) for window in split_time_range(THEN, until)]

    assert all(end - start <= timedelta(days=30) for start, end in found)
    assert [found[0][0], found[-1][1]] == [THEN, until] if days else found == []
    # Bounds are exclusive, and Truto's times are in milliseconds.
    assert all(start + timedelta(milliseconds=1) == end for (_, end), (start, _) in pairwise(found))


def test_nothing_is_asked_about_a_span_that_is_none(truto: FakeTruto, api: TrutoApi) -> None:
    assert list(api.read_log(RUN, since=THEN, until=THEN)) == []
    assert truto.requests == []
