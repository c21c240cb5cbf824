"""Rules of the checks behind `rapidbridge doctor`, and its terminal output."""

import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import httpx
import pytest

from app.checks.check_result import CheckLevel, CheckResult, evaluate_latency, fail, is_ok, ok, warn
from app.checks.conditions import (
    evaluate_deletes,
    evaluate_failures,
    evaluate_runs,
    evaluate_task,
    evaluate_unsent,
)
from app.checks.connections import count_max_connections, evaluate_connections
from app.checks.disk import evaluate_file_system, evaluate_free_space, read_file_system, read_free_bytes
from app.checks.receiver import (
    evaluate_connection_error,
    evaluate_response,
    evaluate_state,
    summarize_receiver,
)
from app.checks.redis import QueueInfo, RedisInfo, evaluate_namespaces, evaluate_queue, evaluate_redis
from app.checks.requests import evaluate_requests, evaluate_unsigned
from app.checks.run_checks import run_checks
from app.checks.settings import evaluate_secrets
from app.checks.store import (
    evaluate_backlog,
    evaluate_clock,
    evaluate_database,
    evaluate_missing_key,
    evaluate_sink_status,
    evaluate_unattributed,
)
from app.checks.truto import evaluate_webhook
from app.checks.workers import evaluate_number
from app.cli.doctor import result_lines
from app.config.load import Config
from app.config.routes import Routes, build_default_routes
from app.config.routes_file import read_routes
from app.config.settings import read_settings
from app.database.inspection import ConnectionCounts, DatabaseInfo
from app.errors import QueueUnavailable
from app.redis.other_receivers import OtherReceiver
from app.store.bounded_count import BoundedCount
from app.store.delete_checks import HeldDeleteChecks
from app.store.failures import FailureReason, FailureReasons
from app.store.notification_outbox import UnsentNotifications
from app.store.notifications import Notification
from app.store.response_counts import ResponseCount
from app.store.sink_status import SinkStatus
from app.store.unattributed import UnattributedDeliveries
from app.truto.webhooks import SUBSCRIBED_EVENTS, Webhook
from tests.support.delete_checks import build_check

MIB = 1024 * 1024
ONE, TWO = "0b6ad2b7-5cf4-4b19-9d0e-5d9e7ad0a4a1", "c23d97e0-2f15-4e93-b663-091c5b15116c"
SOUND = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "transaction_read_only": "off"}
POSTGRESQL = DatabaseInfo("PostgreSQL", (18, 1), 0.001, 0.1, SOUND, ConnectionCounts(100, 3))
REDIS = RedisInfo("Valkey", (9, 1), 0.001, "noeviction", 10 * MIB, 100 * MIB, True, "")
QUEUE = QueueInfo(workers=2, waiting_jobs=3, failed_jobs=0, spooled=0, unreadable=0, namespace="db-1")


def levels(results: Iterable[CheckResult]) -> dict[str, CheckLevel]:
    """Return the levels other than ok, by check; exactly these have advice."""
    results = list(results)
    assert results
    assert all(bool(result.advice) == (result.level != "ok") for result in results)
    return {result.check: result.level for result in results if result.level != "ok"}


def secret_levels(text: str, *, has_development_secret: bool = False) -> dict[str, CheckLevel]:
    """Return the levels for a value of TRUTO_WEBHOOK_SECRET; no result may show a secret."""
    secrets = read_settings({"TRUTO_WEBHOOK_SECRET": text}).webhook_secrets
    results = list(evaluate_secrets(secrets, has_development_secret=has_development_secret))
    shown = "".join(result.message + result.advice for result in results)
    assert not any(len(secret.value) > 8 and secret.value in shown for secret in secrets)
    return levels(results)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (ONE, None),
        (f"{ONE},{TWO}", None),
        (f"w1={ONE},w2={ONE}", None),
        (ONE.upper(), None),
        ("", "fail"),
        ("changeme-changeme-changeme", "fail"),
        ("<the secret of the webhook>", "fail"),
        ("your-webhook-secret-goes-here", "fail"),
        ("00000000-0000-0000-0000-000000000000", "fail"),
        ("secret", "fail"),
        ("s3cr3t!", "fail"),
        ("correct horse battery staple", "warn"),
        (ONE.replace("-", ""), "warn"),
        (f"{ONE},{ONE}", "warn"),
        (f"w1={ONE},w1={ONE}", "warn"),
        (f"w1={ONE},{ONE}", "warn"),
        (f"{ONE},w1={ONE}", "warn"),
        (f"{ONE},changeme", "fail"),
    ],
)
def test_a_weak_or_duplicate_secret_is_reported(text: str, level: CheckLevel | None) -> None:
    assert secret_levels(text) == ({} if level is None else {"secret": level})


def test_a_generated_development_secret_is_only_a_warning() -> None:
    assert secret_levels("", has_development_secret=True) == {"secret": "warn"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"settings": {**SOUND, "fsync": "off"}}, {"durability": "fail"}),
        ({"settings": {**SOUND, "full_page_writes": "off"}}, {"durability": "fail"}),
        ({"settings": {**SOUND, "synchronous_commit": "off"}}, {"durability": "fail"}),
        ({"settings": {**SOUND, "synchronous_commit": "remote_apply"}}, {}),
        ({"settings": {**SOUND, "transaction_read_only": "on"}}, {"writable": "fail"}),
        ({"version": (11, 22)}, {"version": "fail"}),
        ({"version": (12,)}, {}),
        ({"latency_s": 0.2}, {"latency": "warn"}),
        ({"clock_ahead_s": -3.0}, {"clock": "warn"}),
    ],
    ids=str,
)
def test_a_postgresql_is_evaluated_by_its_settings(
    changes: dict[str, Any], expected: dict[str, CheckLevel]
) -> None:
    assert levels(evaluate_database(replace(POSTGRESQL, **changes))) == expected


@pytest.mark.parametrize(
    ("journal", "version", "expected"),
    [
        ("wal", (3, 45, 1), {}),
        ("delete", (3, 45, 1), {"durability": "warn"}),
        ("wal", (3, 34), {"version": "fail"}),
    ],
)
def test_a_sqlite_is_evaluated_by_its_journal_mode(
    journal: str, version: tuple[int, ...], expected: dict[str, CheckLevel]
) -> None:
    info = DatabaseInfo("SQLite", version, 0.0, settings={"journal_mode": journal, "synchronous": "2"})

    assert levels(evaluate_database(info)) == expected


@pytest.mark.parametrize(
    ("ahead_s", "level"),
    [(0, "ok"), (1.9, "ok"), (-2.1, "warn"), (29, "warn"), (31, "fail"), (-99, "fail")],
)
def test_a_clock_difference_is_reported(ahead_s: float, level: CheckLevel) -> None:
    assert evaluate_clock(ahead_s).level == level


@pytest.mark.parametrize(
    ("age_s", "level"), [(None, "ok"), (5, "ok"), (60, "warn"), (899, "warn"), (900, "fail")]
)
def test_a_backlog_is_evaluated_by_its_age(age_s: float | None, level: CheckLevel) -> None:
    assert evaluate_backlog(age_s).level == level


def test_deliveries_without_an_account_are_reported_by_webhook() -> None:
    since = datetime(2026, 11, 24, 10, tzinfo=UTC)

    named, unnamed = (evaluate_unattributed(UnattributedDeliveries(id_, 2, since)) for id_ in ("w", ""))

    assert (named.check, named.level) == ("accounts", "fail")
    assert "2 deliveries of webhook w since 2026-11-24 10:00 UTC" in named.message
    assert "webhook (none)" in unnamed.message
    assert "rapidbridge dead list" in named.advice


def test_a_failing_sink_is_named_with_its_reason() -> None:
    since = datetime(2026, 11, 25, tzinfo=UTC)

    [result] = evaluate_sink_status(
        SinkStatus("lake", failing_since=since, reason="sink_unavailable", held=BoundedCount(1200))
    )

    assert result.level == "fail"
    assert "sink lake fails since 2026-11-25 00:00 UTC; 1,200 deliveries waiting" in result.message
    assert "sink_unavailable" in result.advice


def test_a_paused_sink_is_a_warning_with_the_command_that_resumes_it() -> None:
    since = datetime(2026, 11, 25, tzinfo=UTC)

    held = BoundedCount(10_000, is_exact=False)
    [result] = evaluate_sink_status(SinkStatus("lake", paused_at=since, paused_by="ada", held=held))

    assert result.level == "warn"
    assert "paused since 2026-11-25 00:00 UTC by ada; 10,000+ deliveries waiting" in result.message
    assert result.advice.endswith("rapidbridge sinks resume lake")


def test_a_missing_key_is_named_with_a_delivery_to_look_at() -> None:
    payload = {"resource": "crm/contacts", "delivery": "d1", "key": "properties.id", "missing_key": "hash"}

    result = evaluate_missing_key(
        Notification("key.missing", "crm/contacts", "c", datetime.now(UTC), payload)
    )

    assert result.level == "warn"
    assert "crm/contacts has the key properties.id" in result.message
    assert "rapidbridge deliveries show d1 --body" in result.advice
    assert "new row" in result.message


def test_connections_of_all_processes_are_counted() -> None:
    url = "postgresql://h/d"
    settings = read_settings({"DATABASE_URL": url, "WEB_CONCURRENCY": "3", "WORKER_CONCURRENCY": "4"})

    assert count_max_connections(Config(settings, build_default_routes(url))) == 3 * 10 + 6 + 4 * 2
    assert (
        count_max_connections(Config(settings, build_default_routes("postgresql://h/other")))
        == 3 * 10 + 6 + 4
    )
    assert count_max_connections(Config(settings, Routes(sinks={}))) == 3 * 10 + 6 + 4


@pytest.mark.parametrize(
    ("web", "workers", "free", "settings_to_lower"),
    [
        (1, 1, 18, None),
        (2, 1, 28, None),
        (2, 1, 20, "WEB_CONCURRENCY=1,"),
        (3, 2, 20, "WEB_CONCURRENCY=1,"),
        (3, 4, 20, "WEB_CONCURRENCY=1 WORKER_CONCURRENCY=2,"),
        (1, 1, 17, ""),
        (1, 1, -3, ""),
    ],
)
def test_the_connections_of_a_plan_are_compared_with_those_of_all_processes(
    web: int, workers: int, free: int, settings_to_lower: str | None
) -> None:
    url = "postgresql://h/d"
    settings = read_settings(
        {"DATABASE_URL": url, "WEB_CONCURRENCY": str(web), "WORKER_CONCURRENCY": str(workers)}
    )

    result = evaluate_connections(ConnectionCounts(free, 3), Config(settings, build_default_routes(url)))

    assert result.level == ("ok" if settings_to_lower is None else "warn")
    assert (settings_to_lower or "") in result.advice
    assert ("CONCURRENCY" in result.advice) == bool(settings_to_lower)


@pytest.mark.parametrize(
    ("free", "in_use", "level"),
    [
        # One machine that uses all of its connections.
        (20, 18, "ok"),
        (97, 77, "ok"),
        (97, 78, "warn"),
        (97, 97, "warn"),
    ],
)
def test_the_connections_of_other_machines_count(free: int, in_use: int, level: str) -> None:
    settings = {"DATABASE_URL": "postgresql://h/d", "WEB_CONCURRENCY": "1", "WORKER_CONCURRENCY": "1"}
    config = Config(read_settings(settings), build_default_routes("postgresql://h/d"))

    result = evaluate_connections(ConnectionCounts(free, in_use), config)

    assert result.level == level
    assert (f"{in_use} are open on all machines" in result.message) == (in_use > 18)
    assert ("on the machines" in result.advice) == (level == "warn")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"policy": "allkeys-lru"}, {"eviction": "fail"}),
        ({"policy": "volatile-ttl"}, {"eviction": "warn"}),
        ({"policy": ""}, {"eviction": "warn"}),
        ({"used_bytes": 80 * MIB}, {"memory": "warn"}),
        ({"used_bytes": 95 * MIB}, {"memory": "fail"}),
        ({"used_bytes": 95 * MIB, "limit_bytes": 0}, {}),
        ({"is_appending": False}, {"persistence": "warn"}),
        ({"is_appending": False, "snapshots": "3600 1"}, {"persistence": "warn"}),
        ({"is_appending": False, "snapshots": None}, {"persistence": "warn"}),
        ({"version": (4, 0)}, {"version": "fail"}),
        ({"is_replica": True}, {"writable": "fail"}),
        ({"latency_s": 0.06}, {"latency": "warn"}),
    ],
    ids=str,
)
def test_a_redis_is_evaluated_by_its_configuration(
    changes: dict[str, Any], expected: dict[str, CheckLevel]
) -> None:
    assert levels(evaluate_redis(replace(REDIS, **changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"workers": 0}, {"alive": "fail"}),
        ({"waiting_jobs": 500}, {"jobs": "warn"}),
        ({"failed_jobs": 1}, {"jobs": "warn"}),
        ({"spooled": 1}, {"spool": "warn"}),
        ({"unreadable": 1}, {"unreadable": "warn"}),
    ],
    ids=str,
)
def test_a_queue_is_evaluated_by_its_counts(changes: dict[str, Any], expected: dict[str, CheckLevel]) -> None:
    assert levels(evaluate_queue(replace(QUEUE, **changes))) == expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (OtherReceiver("staging", workers=2, spooled=0), {}),
        (OtherReceiver("staging", workers=2, spooled=5), {}),
        (OtherReceiver("staging", workers=0, spooled=5), {"stranded": "warn"}),
        (OtherReceiver("", workers=1, spooled=5), {}),
        (OtherReceiver("", workers=0, spooled=5), {"stranded": "warn"}),
        (OtherReceiver("", workers=0, spooled=0, unreadable=1), {"unreadable": "warn"}),
    ],
    ids=str,
)
def test_another_receiver_is_named_and_its_waiting_deliveries_are_reported(
    other: OtherReceiver, expected: dict[str, CheckLevel]
) -> None:
    results = list(evaluate_namespaces("production", [other]))

    assert levels(results) == expected
    assert other.name in results[0].message
    assert "stranded" not in expected or other.adopt_command in results[-1].advice


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"is_active": None}, {}),
        ({"is_active": False}, {"webhook": "fail"}),
        ({"target_url": "http://h.example/webhooks/truto"}, {"target": "fail"}),
        ({"target_url": "https://h.example/other"}, {"target": "fail"}),
        ({"event_types": ("sync_job_run:record",)}, {"events": "fail"}),
        ({"event_types": ("test",), "is_active": False}, {"events": "fail", "webhook": "fail"}),
        ({"event_types": ()}, {}),
        ({"event_types": ("all",)}, {}),
    ],
    ids=str,
)
def test_a_webhook_is_evaluated_by_what_truto_returns(
    changes: dict[str, Any], expected: dict[str, CheckLevel]
) -> None:
    webhook = Webhook("w", "https://h.example/webhooks/truto", True, SUBSCRIBED_EVENTS)

    assert levels(evaluate_webhook(replace(webhook, **changes))) == expected


@pytest.mark.parametrize(
    ("http_status", "response_json", "level"),
    [
        (200, {"status": "accepted", "delivery": ONE}, "ok"),
        (200, {"status": "duplicate", "delivery": ONE}, "ok"),
        (200, {"status": "quarantined", "delivery": ONE}, "fail"),
        (200, {"status": "accepted", "delivery": "x"}, "fail"),
        (200, {}, "fail"),
        (401, {"status": "unauthorized"}, "fail"),
        (404, {}, "fail"),
        (503, {"status": "unavailable"}, "fail"),
        (301, {}, "fail"),
    ],
)
def test_only_a_200_that_names_a_stored_delivery_is_ok(
    http_status: int, response_json: dict[str, Any], level: CheckLevel
) -> None:
    delivery_id, result = evaluate_response(http_status, response_json, "http://h/p")

    assert (result.level, delivery_id is not None) == (level, level == "ok")
    assert str(http_status) in result.message
    levels([result])


@pytest.mark.parametrize(
    ("state", "level"),
    [("settled", "ok"), ("unrouted", "ok"), ("dead", "warn"), ("pending", "warn"), (None, "fail")],
)
def test_the_test_event_is_evaluated_by_its_state(state: str | None, level: CheckLevel) -> None:
    assert evaluate_state(state).level == level


NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
ACCEPTED = ResponseCount("accepted", "", 9, NOW)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], {}),
        ([ACCEPTED, ResponseCount("unauthorized", "missing", 500, NOW)], {}),
        ([ACCEPTED, ResponseCount("not_found", "", 500, NOW)], {}),
        ([ACCEPTED, ResponseCount("unauthorized", "wrong", 36, NOW)], {"signatures": "warn"}),
        ([ResponseCount("unauthorized", "wrong", 36, NOW)], {"signatures": "fail"}),
        (
            [ACCEPTED, ResponseCount("unauthorized", "other_webhook", 1, NOW + timedelta(seconds=1))],
            {"signatures": "fail"},
        ),
        ([ResponseCount("unauthorized", "outside_window", 1, NOW)], {"signatures": "fail"}),
        ([ACCEPTED, ResponseCount("too_large", "", 1, NOW)], {"too_large": "warn"}),
        ([ACCEPTED, ResponseCount("incomplete", "", 1, NOW)], {"incomplete": "warn"}),
        ([ACCEPTED, ResponseCount("unavailable", "", 1, NOW)], {"unavailable": "warn"}),
        ([ACCEPTED, ResponseCount("unavailable", "overloaded", 1, NOW)], {"unavailable": "warn"}),
        ([ACCEPTED, ResponseCount("failed", "", 1, NOW)], {"failed": "warn"}),
    ],
)
def test_requests_that_were_not_stored_are_reported(
    counts: list[ResponseCount], expected: dict[str, str]
) -> None:
    results = list(evaluate_requests(counts, hours=24))

    assert levels(results) == expected
    assert all("24 hours" in result.message for result in results)


def test_requests_without_a_signature_are_reported_if_there_are_no_others() -> None:
    missing = ResponseCount("unauthorized", "missing", 4, NOW)
    few = replace(missing, number=3)

    assert levels(evaluate_unsigned([missing])) == {"unsigned": "warn"}
    assert list(evaluate_unsigned([missing, ACCEPTED])) == list(evaluate_unsigned([few])) == []


def test_every_held_delete_check_is_a_warning_with_its_command() -> None:
    share = replace(build_check("r1", "over_share"), live_rows=1200, unseen_rows=450)
    gap = build_check("two; words", "incomplete", resource="crm/deals")

    results = list(evaluate_deletes(HeldDeleteChecks(BoundedCount(5), 1), [share, gap]))

    assert {result.level for result in results} == {"warn"}
    assert "crm/contacts in sink main: rows that run r1 did not see" in results[0].message
    assert "(450 of 1,200 rows)" in results[0].message
    assert results[0].advice == f"To mark the rows, run: rapidbridge deletes approve {share.id}"
    assert results[1].advice == "For the gaps, run: rapidbridge runs show 'two; words'"
    assert results[2].message == "5 delete checks held back in the last week"
    assert len(list(evaluate_deletes(HeldDeleteChecks(BoundedCount(1), 1), [share]))) == 1
    assert [result.level for result in evaluate_deletes(HeldDeleteChecks(BoundedCount(0), 0), [])] == ["ok"]


def test_conditions_of_the_store_are_reported() -> None:
    no_account = FailureReason("no_account", 3, NOW)
    no_route = FailureReason("no_route", 2_000, NOW)
    task = Notification("task.failing", "sweeper x", "c", NOW, {"task": "sweeper x", "error": "away"})
    unsent = evaluate_unsent(UnsentNotifications("ops", 1, "the subscriber answered 500"))

    both = FailureReasons([no_route, no_account], BoundedCount(2_003))
    cut = replace(both, total=BoundedCount(2_002, is_exact=False))

    for reasons in (FailureReasons([], BoundedCount(0)), FailureReasons([no_account], BoundedCount(3))):
        assert evaluate_failures(reasons).level == "ok"
    assert evaluate_failures(both).message == "2,000 failed deliveries: 2,000 no_route"
    assert evaluate_failures(cut).message == "2,000+ failed deliveries: 2,000 no_route"
    assert "rapidbridge dead list" in evaluate_failures(both).advice
    assert evaluate_runs(incomplete=0, stalled=0).level == "ok"
    assert levels([evaluate_runs(incomplete=1, stalled=0)]) == {"runs": "warn"}
    assert levels([evaluate_runs(incomplete=0, stalled=1)]) == {"runs": "warn"}
    assert levels([evaluate_task(task)]) == {"tasks": "fail"}
    assert "1 notification not accepted by ops: the subscriber answered 500" in unsent.message


@pytest.mark.parametrize("is_expected", [True, False])
@pytest.mark.parametrize(
    ("error", "levels_by_expectation"),
    [
        (httpx.ConnectError(""), {True: "fail", False: "warn"}),
        (httpx.ConnectTimeout(""), {True: "fail", False: "warn"}),
        (httpx.ReadTimeout(""), {True: "fail", False: "fail"}),
        (httpx.RemoteProtocolError(""), {True: "fail", False: "fail"}),
    ],
    ids=repr,
)
def test_a_request_without_a_response_is_evaluated(
    error: Exception, levels_by_expectation: dict[bool, CheckLevel], *, is_expected: bool
) -> None:
    result = evaluate_connection_error(error, "http://h/p", is_expected=is_expected)

    assert result.level == levels_by_expectation[is_expected]
    assert "http://h/p" in result.message
    assert ("not checked" in result.message) == (result.level == "warn")


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ([], "Not checked"),
        ([ok("store", "settled", "")], "Not checked"),
        ([ok("receiver", "responds", ""), ok("receiver", "settled", "")], "a worker settled it"),
        ([ok("receiver", "responds", ""), warn("receiver", "settled", "", "x")], "but no worker"),
        ([ok("receiver", "responds", ""), fail("receiver", "stored", "", "x")], "not in this store"),
        ([ok("receiver", "responds", ""), warn("receiver", "stored", "", "x")], "not checked"),
        ([ok("receiver", "responds", ""), fail("receiver", "timeout", "", "x")], "not checked"),
        ([fail("receiver", "responds", "", "x")], "not accepted"),
        ([warn("receiver", "responds", "", "x")], "Not checked"),
        ([fail("receiver", "timeout", "", "x")], "Not checked"),
    ],
)
def test_the_summary_claims_only_what_was_checked(results: list[CheckResult], sentence: str) -> None:
    assert sentence in summarize_receiver(results)


@pytest.mark.parametrize(("mib", "level"), [(255, "fail"), (2047, "warn"), (2048, "ok")])
def test_a_disk_with_little_free_space_is_reported(mib: int, level: CheckLevel) -> None:
    assert evaluate_free_space("store", mib * MIB).level == level


@pytest.mark.parametrize(
    ("file_system", "expected"),
    [("ext4", []), ("xfs", []), ("", []), ("tmpfs", ["fail"]), ("overlay", ["warn"]), ("nfs4", ["warn"])],
)
def test_a_volatile_or_remote_file_system_is_reported(file_system: str, expected: list[CheckLevel]) -> None:
    assert [result.level for result in evaluate_file_system("store", file_system)] == expected


def test_a_missing_folder_has_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert read_free_bytes(tmp_path / "not" / "there") == pytest.approx(read_free_bytes(tmp_path), rel=0.1)
    assert read_file_system(tmp_path / "not" / "there") == read_file_system(tmp_path)
    assert read_file_system(Path("/proc")) == "proc"


def test_latency_is_shown_in_milliseconds() -> None:
    assert evaluate_latency("store", 0.0123).message == "responds in 12.3 ms"


def test_a_check_that_raises_or_hangs_does_not_affect_the_others() -> None:
    forever = threading.Event()

    def hangs() -> Iterator[CheckResult]:
        yield ok("slow", "first", "there")
        forever.wait(30)

    def breaks() -> Iterator[CheckResult]:
        yield ok("broken", "first", "there")
        raise ValueError("postgres://u:hunter2@h/d")

    def is_unreachable() -> Iterable[CheckResult]:
        raise QueueUnavailable("Redis failed")

    checks = {
        "slow": hangs,
        "broken": breaks,
        "away": is_unreachable,
        "fine": lambda: [ok("fine", "all", "well")],
    }
    results = run_checks(checks, timeout_s=2)
    forever.set()

    assert [(result.component, result.check, result.level) for result in results] == [
        ("slow", "first", "ok"),
        ("slow", "timeout", "fail"),
        ("broken", "first", "ok"),
        ("broken", "error", "fail"),
        ("away", "reachable", "fail"),
        ("fine", "all", "ok"),
    ]
    assert "hunter2" not in str(results)
    assert "ValueError" in results[3].message


def test_results_fit_a_terminal_and_show_their_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = "words that go on and on " * 8
    results = [
        ok("store", "a", "fine"),
        warn("store", "b", words, "Run: rapidbridge-x --no-post"),
        fail("r", "c", "m", words),
    ]

    lines = [click.unstyle(line) for line in result_lines(results)]

    assert max(map(len, lines)) <= 80
    assert [line for line in lines if not line.startswith(" ")] == [
        "store",
        "r",
        "",
        "Not checked: whether a receiver accepts deliveries.",
        "1 ok, 1 warn, 1 fail.",
    ]
    assert re.sub(r"\s+", " ", " ".join(lines)).count("-> ") == 2
    assert click.unstyle(list(result_lines(results[:1]))[-1]) == "1 ok, 0 warn, 0 fail."
    assert click.unstyle(list(result_lines(results[:2]))[-1]) == "1 ok, 1 warn, 0 fail."
    assert (is_ok(results[:2]), is_ok(results)) == (True, False)


def test_control_characters_of_other_systems_are_not_printed() -> None:
    results = [fail("truto", "webhook", "\x1b[2J is switched off", "Run: x \x1b[31m")]

    assert "\x1b" not in click.unstyle("".join(result_lines(results)))
    assert "\ufffd[2J" in "".join(result_lines(results))


def test_any_uuid_is_accepted_as_a_secret() -> None:
    assert all(secret_levels(str(uuid4())) == {} for _ in range(200))


def test_one_worker_for_the_long_loads_of_a_warehouse_is_a_warning() -> None:
    def evaluate(sink: str, live: int) -> list[str]:
        text = f'[sinks.dw]\n{sink}\n[[routes]]\nsinks = ["dw"]\n'
        routes = read_routes(text, source="routes.toml", variables={})
        return [f"{result.level} {result.message}" for result in evaluate_number(routes, live)]

    warehouse = 'type = "warehouse"\ndestination = "duckdb"\ncredentials = "/var/lib/dw.duckdb"'
    files = 'type = "files"\nurl = "file:///var/lib/lake"'

    assert evaluate(warehouse, 1) == ["warn 1 worker, which waits for minutes in each load of the sink dw"]
    assert [evaluate(warehouse, live) for live in (0, 2)] == [[], []]
    assert evaluate(files, 1) == []
