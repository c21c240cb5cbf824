"""The client of Truto's API over real HTTP: its requests, retries, errors and parsed answers."""

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
from app.truto.client import TrutoClient
from app.truto.run_log import LogEntry, split_time_range
from app.truto.runs import RecordCounts, read_resource_stats
from app.truto.webhooks import Webhook

TOKEN = "8c0ff23e-never-shown"
RUN_ID = "1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5"
Reply = tuple[int, dict[str, str], bytes]


class FakeTruto:
    """A server that returns the queued replies, one for each request, and records the requests."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.waits_s: list[float] = []
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
        """Queue replies to the next requests: JSON, or bytes as they are."""
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
def client(truto: FakeTruto) -> Iterator[TrutoClient]:
    with TrutoClient(truto.url, TOKEN, sleep=truto.waits_s.append) as client:
        yield client


# The documented answer, with its example values.
DOCUMENTED_RUN = {
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


def test_every_field_of_the_documented_run_is_parsed(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with(DOCUMENTED_RUN)

    run = client.stop_run(RUN_ID)

    assert truto.requests == [("DELETE", f"/sync-job-run/{RUN_ID}")]
    times = dict.fromkeys(("created_at", "updated_at", "started_at", "finished_at"), THEN)
    expected = {**DOCUMENTED_RUN, **times}
    job = {**DOCUMENTED_RUN["sync_job"], "created_at": THEN, "updated_at": THEN}  # type: ignore[dict-item]  # an object
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
        (404, "no object has this id"),
        (405, "read-only"),
        (409, "another change is in progress"),
        (422, "the request is invalid"),
    ],
)
def test_a_rejected_request_raises_with_a_hint_and_is_not_retried(
    truto: FakeTruto, client: TrutoClient, status: int, hint: str
) -> None:
    truto.reply_with({"message": "details of it"}, status=status)

    with pytest.raises(TrutoRefused, match=f"{status}.*{hint}.*details of it") as caught:
        client.get_run(RUN_ID)

    assert caught.value.http_status == status
    assert TOKEN not in str(caught.value)
    assert len(truto.requests) == 1


@pytest.mark.parametrize("filler", [0, 170, 195, 300])
def test_no_part_of_the_token_is_quoted(truto: FakeTruto, client: TrutoClient, filler: int) -> None:
    truto.reply_with({"message": f"{'x' * filler}{TOKEN} is invalid"}, status=401)

    with pytest.raises(TrutoRefused) as caught:
        client.get_run(RUN_ID)

    assert TOKEN[:4] not in str(caught.value)


def test_a_retry_waits_as_long_as_retry_after_requests(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({}, status=429, Retry_After="10")
    truto.reply_with({"id": RUN_ID})

    assert client.start_run({"sync_job_id": "j"}).id == RUN_ID
    assert truto.waits_s == [10]
    assert truto.bodies == [b'{"sync_job_id":"j"}'] * 2


def test_a_retry_after_beyond_the_limit_raises_at_once(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({}, status=429, Retry_After="3600")

    with pytest.raises(TrutoUnavailable, match="429"):
        client.get_run(RUN_ID)

    assert truto.waits_s == []


@pytest.mark.parametrize("operation", [TrutoClient.get_run, TrutoClient.stop_run])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_an_idempotent_request_is_retried_three_times_after_a_5xx(
    truto: FakeTruto, client: TrutoClient, operation: Callable[[TrutoClient, str], object], status: int
) -> None:
    truto.reply_with(*[b"<html>oops</html>"] * 4, status=status)

    with pytest.raises(TrutoUnavailable, match=str(status)) as caught:
        operation(client, RUN_ID)

    assert "oops" not in str(caught.value)
    assert len(truto.requests) == 4
    assert truto.waits_s == sorted(truto.waits_s)


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("status", [429, 502, 503])
def test_an_unavailable_server_is_retried_whatever_its_body(
    truto: FakeTruto, client: TrutoClient, status: int, encoding: str
) -> None:
    body = b"x" * (9 * 1024 * 1024 if encoding == "identity" else 10)
    truto.reply_with(body, status=status, Content_Encoding=encoding, Retry_After="7")
    truto.reply_with({"id": RUN_ID})

    assert client.get_run(RUN_ID).id == RUN_ID
    assert truto.waits_s == [7]


def test_starting_a_run_is_not_retried_after_a_500(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({}, status=500)

    with pytest.raises(TrutoUnavailable):
        client.start_run({})

    assert len(truto.requests) == 1


def test_a_remote_error_is_not_retried_and_its_message_is_not_quoted(
    truto: FakeTruto, client: TrutoClient
) -> None:
    truto.reply_with({"truto_is_remote_error": True, "message": "Ada Lovelace is unknown"}, status=502)

    with pytest.raises(TrutoRefused, match="502") as caught:
        client.get_run(RUN_ID)

    assert "Ada" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"<html>a portal</html>", b"", b"[1]", b"null"])
def test_an_answer_without_a_json_object_names_truto_api_url(
    truto: FakeTruto, client: TrutoClient, answer: bytes
) -> None:
    truto.reply_with(answer)

    with pytest.raises(TrutoRefused, match="TRUTO_API_URL"):
        client.get_run(RUN_ID)


def test_a_run_without_an_id_is_an_error(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({"status": "running"})

    with pytest.raises(TrutoRefused, match="no sync job run"):
        client.get_run(RUN_ID)


def test_an_unreachable_server_is_reported_after_four_attempts() -> None:
    waits_s: list[float] = []

    with (
        TrutoClient(f"http://127.0.0.1:{find_free_port()}", TOKEN, sleep=waits_s.append) as client,
        pytest.raises(TrutoUnavailable, match=r"127\.0\.0\.1 cannot be reached"),
    ):
        client.start_run({})

    assert len(waits_s) == 3


def test_an_id_is_quoted_in_the_path(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({"id": "x"})

    client.get_run("../webhook/1?x=y")

    assert truto.requests == [("GET", "/sync-job-run/..%2Fwebhook%2F1%3Fx%3Dy")]


def test_a_list_is_read_to_its_last_page(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({"results": [{"id": "1"}, {"id": "2"}], "next_cursor": "a&b"})
    truto.reply_with({"result": [{"id": "3"}, "odd", {}], "next_cursor": None})

    assert [run.id for run in client.list_runs({"status": "running"})] == ["1", "2", "3"]
    assert truto.requests == [
        ("GET", "/sync-job-run?status=running&limit=100"),
        ("GET", "/sync-job-run?status=running&limit=100&next_cursor=a%26b"),
    ]


@pytest.mark.parametrize("cursor", ["same", "x" * 5000])
def test_a_repeated_or_long_cursor_is_an_error(truto: FakeTruto, client: TrutoClient, cursor: str) -> None:
    truto.reply_with(*[{"results": [{"id": "1"}], "next_cursor": cursor}] * 2)

    # The list is incomplete, and must not look complete.
    with pytest.raises(TrutoUnavailable, match="repeated a page"):
        list(client.list_runs({}))


WEBHOOK_ID = "05daecaf-4365-42e8-8370-8127de5dd717"
# From the examples in Truto's documentation.
DOCUMENTED_WEBHOOK = {
    "id": WEBHOOK_ID,
    "target_url": "https://example.com/webhooks/truto",
    "is_active": False,
    "event_types": ["sync_job_run:completed", "sync_job_run:failed"],
    "environment_id": "4a4de828-f4db-4c9e-adfd-434e0864c3c7",
    "created_at": "2024-09-01 10:00:00",
    "updated_at": "2024-09-01 10:00:00",
}


def test_the_documented_webhook_is_parsed(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with(DOCUMENTED_WEBHOOK)

    assert client.get_webhook(WEBHOOK_ID) == Webhook(
        id=WEBHOOK_ID,
        target_url="https://example.com/webhooks/truto",
        is_active=False,
        event_types=("sync_job_run:completed", "sync_job_run:failed"),
    )
    assert truto.requests == [("GET", f"/webhook/{WEBHOOK_ID}")]


@pytest.mark.parametrize(
    "rest", [{}, {"target_url": None, "is_active": "yes", "event_types": {"a": 1}, "secret": []}]
)
def test_a_webhook_needs_only_an_id(truto: FakeTruto, client: TrutoClient, rest: dict[str, object]) -> None:
    truto.reply_with({"id": WEBHOOK_ID, **rest})

    assert client.get_webhook(WEBHOOK_ID) == Webhook(WEBHOOK_ID)


def test_the_secret_of_a_created_webhook_is_returned_and_never_in_its_repr(
    truto: FakeTruto, client: TrutoClient
) -> None:
    truto.reply_with({**DOCUMENTED_WEBHOOK, "secret": "once-only"})

    created = client.create_webhook("https://example.com/webhooks/truto", ["sync_job_run:record"])

    assert created.secret == "once-only"
    assert "once-only" not in repr(created)
    assert truto.requests == [("POST", "/webhook")]
    assert json.loads(truto.bodies[0]) == {
        "target_url": "https://example.com/webhooks/truto",
        "is_active": True,
        "event_types": ["sync_job_run:record"],
    }


def test_a_webhook_without_an_id_is_an_error_that_hides_the_secret(
    truto: FakeTruto, client: TrutoClient
) -> None:
    truto.reply_with({"secret": "once-only"})

    with pytest.raises(TrutoRefused, match="no webhook") as caught:
        client.create_webhook("https://example.com", [])

    assert "once-only" not in str(caught.value)


def test_creating_a_webhook_is_not_retried_after_a_502(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({}, status=502)

    with pytest.raises(TrutoUnavailable):
        client.create_webhook("https://example.com", [])

    assert len(truto.requests) == 1


def test_activating_a_webhook_is_retried_after_a_502(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with({}, status=502)
    truto.reply_with({**DOCUMENTED_WEBHOOK, "is_active": True})

    assert client.activate_webhook(WEBHOOK_ID).is_active is True
    assert truto.requests == [("PATCH", f"/webhook/{WEBHOOK_ID}")] * 2
    assert truto.bodies == [b'{"is_active":true}'] * 2


@pytest.mark.parametrize(
    ("answer", "expected"), [({"success": True}, True), ({"success": False}, False), ({}, False)]
)
def test_a_webhook_test_returns_whether_the_receiver_accepted_it(
    truto: FakeTruto, client: TrutoClient, answer: dict[str, bool], expected: bool
) -> None:
    truto.reply_with(answer)

    assert client.test_webhook(WEBHOOK_ID) is expected
    assert truto.requests == [("POST", "/webhook/test")]
    assert json.loads(truto.bodies[0]) == {"id": WEBHOOK_ID}


def test_a_log_is_filtered_by_run_and_time_and_read_to_its_last_page(
    truto: FakeTruto, client: TrutoClient
) -> None:
    undelivered = {"resource": "crm/contacts", "method": "list", "status": "failed", "num_records": 100}
    undelivered |= {"webhook_successful": False, "webhook_status": 503, "retry_count": 3, "logs": []}
    truto.reply_with({"result": [undelivered], "next_cursor": "next"})
    truto.reply_with({"result": [{"resource": "deals", "num_records": 7, "status": "completed"}]})

    entries = list(client.read_log(RUN_ID, since=THEN, until=THEN + timedelta(hours=1)))

    assert entries == [
        LogEntry("crm/contacts", "list", 100, False, 503, 3, "failed"),
        LogEntry("deals", "", 7, None, None, 0, "completed"),
    ]
    queries = [dict(parse_qsl(urlsplit(path).query)) for _, path in truto.requests]
    assert queries[0] == {
        "log_type": "rapid_bridge",
        "log_type_filter[sync_job_run_id]": RUN_ID,
        "created_at[gt]": "2021-08-10T10:00:00.000Z",
        "created_at[lt]": "2021-08-10T11:00:00.000Z",
        "limit": "100",
    }
    assert queries[1] == {**queries[0], "next_cursor": "next"}


def test_a_repeated_cursor_of_the_log_is_an_error(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with(*[{"result": [{}], "next_cursor": "same"}] * 2)

    with pytest.raises(TrutoUnavailable, match="repeated a page"):
        list(client.read_log(RUN_ID, since=THEN, until=THEN + timedelta(days=1)))


def test_log_entries_of_unexpected_types_are_empty_or_skipped(truto: FakeTruto, client: TrutoClient) -> None:
    odd = {"resource": [], "method": {}, "status": True, "num_records": "7", "retry_count": -1}
    odd |= {"webhook_successful": "yes", "webhook_status": "200"}
    truto.reply_with({"result": [None, 1, "x", [], {}, odd]})
    truto.reply_with({"result": {"resource": "crm/contacts"}})

    logs = [list(client.read_log(RUN_ID, since=THEN, until=THEN + timedelta(days=1))) for _ in range(2)]

    empty = LogEntry("", "", 0, None, None, 0, "")
    assert logs == [[empty, replace(empty, num_records=7, http_status=200)], []]


def test_a_long_time_range_is_requested_a_month_at_a_time(truto: FakeTruto, client: TrutoClient) -> None:
    truto.reply_with(*[{"result": [{"resource": str(place)}]} for place in range(3)])

    resources = [
        entry.resource for entry in client.read_log(RUN_ID, since=THEN, until=THEN + timedelta(days=70))
    ]

    assert resources == ["0", "1", "2"]


@pytest.mark.parametrize("days", [0, 1, 30, 31, 60, 365.5])
def test_consecutive_time_ranges_leave_no_millisecond_out(days: float) -> None:
    until = (THEN + timedelta(days=days)).astimezone(timezone(timedelta(hours=2)))

    ranges = [tuple(map(datetime.fromisoformat, bounds)) for bounds in split_time_range(THEN, until)]

    assert all(end - start <= timedelta(days=30) for start, end in ranges)
    assert [ranges[0][0], ranges[-1][1]] == [THEN, until] if days else ranges == []
    # Bounds are exclusive, and Truto's times are in milliseconds.
    assert all(start + timedelta(milliseconds=1) == end for (_, end), (start, _) in pairwise(ranges))


def test_an_empty_time_range_sends_no_request(truto: FakeTruto, client: TrutoClient) -> None:
    assert list(client.read_log(RUN_ID, since=THEN, until=THEN)) == []
    assert truto.requests == []
