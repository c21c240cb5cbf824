"""What the doctor makes of what it finds: facts in, findings out."""

import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest

from app.cli.doctor.disks import read_file_system, read_free_bytes
from app.cli.doctor.examination import run_checks
from app.cli.doctor.finding import (
    CheckLevel,
    CheckResult,
    evaluate_file_system,
    evaluate_free_space,
    evaluate_latency,
    fail,
    ok,
    warn,
)
from app.cli.doctor.printing import result_lines
from app.cli.doctor.receiver import evaluate_response, evaluate_state
from app.cli.doctor.redis import QueueInfo, RedisInfo, evaluate_queue, evaluate_redis
from app.cli.doctor.secret import evaluate_config, evaluate_secrets
from app.cli.doctor.store import (
    count_max_connections,
    evaluate_backlog,
    evaluate_clock,
    evaluate_database,
    evaluate_failing_sink,
)
from app.cli.doctor.truto import evaluate_webhook
from app.config.load import Config
from app.config.routes import Routes, build_default_routes
from app.config.settings import read_settings
from app.database.diagnostics import DatabaseInfo
from app.errors import QueueUnavailable
from app.store.failures import FailingSink
from app.truto.webhooks import SUBSCRIBED_EVENTS, Webhook

MIB = 1024 * 1024
ONE, TWO = "0b6ad2b7-5cf4-4b19-9d0e-5d9e7ad0a4a1", "c23d97e0-2f15-4e93-b663-091c5b15116c"
SOUND = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "transaction_read_only": "off"}
POSTGRESQL = DatabaseInfo("PostgreSQL", (18, 1), 0.001, 0.1, SOUND, 100)
REDIS = RedisInfo("Valkey", (9, 1), 0.001, "noeviction", 10 * MIB, 100 * MIB, True, "")
QUEUE = QueueInfo(workers=2, waiting_jobs=3, failed_jobs=0, spooled=0, unreadable=0)


def levels(results: Iterable[CheckResult]) -> dict[str, CheckLevel]:
    """What is not green, by its check; everything that is not has advice."""
    levels_by_check = list(results)
    assert levels_by_check
    assert all(bool(finding.advice) == (finding.level != "green") for finding in levels_by_check)
    return {finding.check: finding.level for finding in levels_by_check if finding.level != "green"}


def secrets(text: str, *, is_for_development: bool = False) -> dict[str, CheckLevel]:
    known = read_settings({"TRUTO_WEBHOOK_SECRET": text}).webhook_secrets
    findings = list(evaluate_secrets(known, has_development_secret=is_for_development))
    shown = "".join(finding.message + finding.advice for finding in findings)
    assert not any(len(secret.value) > 8 and secret.value in shown for secret in known)
    return levels(findings)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (ONE, None),
        (f"{ONE},{TWO}", None),
        (f"w1={ONE},w2={ONE}", None),
        (ONE.upper(), None),
        ("", "red"),
        ("changeme-changeme-changeme", "red"),
        ("<the secret of the webhook>", "red"),
        ("your-webhook-secret-goes-here", "red"),
        ("00000000-0000-0000-0000-000000000000", "red"),
        ("secret", "red"),
        ("s3cr3t!", "red"),
        ("correct horse battery staple", "yellow"),
        (ONE.replace("-", ""), "yellow"),
        (f"{ONE},{ONE}", "yellow"),
        (f"w1={ONE},w1={ONE}", "yellow"),
        (f"w1={ONE},{ONE}", "yellow"),
        (f"{ONE},w1={ONE}", "yellow"),
        (f"{ONE},changeme", "red"),
    ],
)
def test_a_secret_that_is_not_trutos_is_told(text: str, level: CheckLevel | None) -> None:
    assert secrets(text) == ({} if level is None else {"secret": level})


def test_a_secret_made_for_development_is_no_fault() -> None:
    assert secrets("", is_for_development=True) == {"secret": "yellow"}


def test_maintenance_is_not_forgotten() -> None:
    def setup(**settings: str) -> Config:
        return Config(read_settings(settings), build_default_routes("sqlite://"))

    assert levels(evaluate_config(setup())) == {}
    assert levels(evaluate_config(setup(MAINTENANCE="we move"))) == {"maintenance": "yellow"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"settings": {**SOUND, "fsync": "off"}}, {"durability": "red"}),
        ({"settings": {**SOUND, "full_page_writes": "off"}}, {"durability": "red"}),
        ({"settings": {**SOUND, "synchronous_commit": "off"}}, {"durability": "red"}),
        ({"settings": {**SOUND, "synchronous_commit": "remote_apply"}}, {}),
        ({"settings": {**SOUND, "transaction_read_only": "on"}}, {"writable": "red"}),
        ({"version": (11, 22)}, {"version": "red"}),
        ({"version": (12,)}, {}),
        ({"latency_s": 0.2}, {"latency": "yellow"}),
        ({"clock_ahead_s": -3.0}, {"clock": "yellow"}),
        ({"free_connections": 19}, {"connections": "yellow"}),
        ({"free_connections": 20}, {}),
        ({"free_connections": -3}, {"connections": "yellow"}),
    ],
    ids=str,
)
def test_a_postgresql_is_judged_by_its_settings(
    changes: dict[str, Any], expected: dict[str, CheckLevel]
) -> None:
    assert levels(evaluate_database(replace(POSTGRESQL, **changes), max_connections=20)) == expected


@pytest.mark.parametrize(
    ("journal", "version", "expected"),
    [
        ("wal", (3, 45, 1), {}),
        ("delete", (3, 45, 1), {"durability": "yellow"}),
        ("wal", (3, 34), {"version": "red"}),
    ],
)
def test_a_sqlite_is_judged_by_its_journal(
    journal: str, version: tuple[int, ...], expected: dict[str, CheckLevel]
) -> None:
    facts = DatabaseInfo("SQLite", version, 0.0, settings={"journal_mode": journal, "synchronous": "2"})

    assert levels(evaluate_database(facts, max_connections=20)) == expected


@pytest.mark.parametrize(
    ("ahead_s", "level"),
    [(0, "green"), (1.9, "green"), (-2.1, "yellow"), (29, "yellow"), (31, "red"), (-99, "red")],
)
def test_clocks_that_differ_are_told(ahead_s: float, level: CheckLevel) -> None:
    assert evaluate_clock(ahead_s).level == level


@pytest.mark.parametrize(
    ("age_s", "level"), [(None, "green"), (5, "green"), (60, "yellow"), (899, "yellow"), (900, "red")]
)
def test_a_backlog_is_judged_by_its_age(age_s: float | None, level: CheckLevel) -> None:
    assert evaluate_backlog(age_s).level == level


def test_a_sink_that_fails_is_named_with_its_reason() -> None:
    finding = evaluate_failing_sink(
        FailingSink("lake", datetime(2026, 11, 25, tzinfo=UTC), "sink_unavailable", 1200)
    )

    assert finding.level == "red"
    assert "lake" in finding.message
    assert "1,200" in finding.message
    assert "sink_unavailable" in finding.advice


def test_connections_are_counted_for_all_processes() -> None:
    url = "postgresql://h/d"
    settings = read_settings({"DATABASE_URL": url, "WEB_CONCURRENCY": "3", "WORKER_CONCURRENCY": "4"})

    assert count_max_connections(Config(settings, build_default_routes(url))) == 4 * 6 + 4 * 2
    assert count_max_connections(Config(settings, build_default_routes("postgresql://h/other"))) == 4 * 6 + 4
    assert count_max_connections(Config(settings, Routes(sinks={}))) == 4 * 6 + 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"policy": "allkeys-lru"}, {"eviction": "red"}),
        ({"policy": "volatile-ttl"}, {"eviction": "yellow"}),
        ({"policy": ""}, {"eviction": "yellow"}),
        ({"used_bytes": 80 * MIB}, {"memory": "yellow"}),
        ({"used_bytes": 95 * MIB}, {"memory": "red"}),
        ({"used_bytes": 95 * MIB, "limit_bytes": 0}, {}),
        ({"is_appending": False}, {"persistence": "yellow"}),
        ({"is_appending": False, "snapshots": "3600 1"}, {"persistence": "yellow"}),
        ({"is_appending": False, "snapshots": None}, {"persistence": "yellow"}),
        ({"version": (4, 0)}, {"version": "red"}),
        ({"is_replica": True}, {"writable": "red"}),
        ({"latency_s": 0.06}, {"latency": "yellow"}),
    ],
    ids=str,
)
def test_a_redis_is_judged_by_what_it_says(changes: dict[str, Any], expected: dict[str, CheckLevel]) -> None:
    assert levels(evaluate_redis(replace(REDIS, **changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"workers": 0}, {"alive": "red"}),
        ({"waiting_jobs": 500}, {"jobs": "yellow"}),
        ({"failed_jobs": 1}, {"jobs": "yellow"}),
        ({"spooled": 1}, {"spool": "yellow"}),
        ({"unreadable": 1}, {"unreadable": "yellow"}),
    ],
    ids=str,
)
def test_a_queue_is_judged_by_what_waits(changes: dict[str, Any], expected: dict[str, CheckLevel]) -> None:
    assert levels(evaluate_queue(replace(QUEUE, **changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"is_active": None}, {}),
        ({"is_active": False}, {"webhook": "red"}),
        ({"target_url": "http://h.example/webhooks/truto"}, {"target": "red"}),
        ({"target_url": "https://h.example/other"}, {"target": "red"}),
        ({"event_types": ("sync_job_run:record",)}, {"events": "red"}),
        ({"event_types": (), "is_active": False}, {"events": "red", "webhook": "red"}),
    ],
    ids=str,
)
def test_a_webhook_is_judged_as_truto_tells_it(
    changes: dict[str, Any], expected: dict[str, CheckLevel]
) -> None:
    webhook = Webhook("w", "https://h.example/webhooks/truto", True, SUBSCRIBED_EVENTS)

    assert levels(evaluate_webhook(replace(webhook, **changes))) == expected


@pytest.mark.parametrize(
    ("http_status", "told", "level"),
    [
        (200, {"status": "accepted", "delivery": ONE}, "green"),
        (200, {"status": "duplicate", "delivery": ONE}, "green"),
        (200, {"status": "quarantined", "delivery": ONE}, "red"),
        (200, {"status": "accepted", "delivery": "x"}, "red"),
        (200, {}, "red"),
        (401, {"status": "unauthorized"}, "red"),
        (404, {}, "red"),
        (503, {"status": "unavailable"}, "red"),
        (301, {}, "red"),
    ],
)
def test_an_answer_is_judged_as_truto_would(
    http_status: int, told: dict[str, Any], level: CheckLevel
) -> None:
    delivery, finding = evaluate_response(http_status, told, "http://h/p")

    assert (finding.level, delivery is not None) == (level, level == "green")
    assert str(http_status) in finding.message
    levels([finding])


@pytest.mark.parametrize(
    ("state", "level"), [("settled", "green"), ("unrouted", "green"), ("pending", "yellow"), (None, "red")]
)
def test_what_became_of_the_event_is_told(state: str | None, level: CheckLevel) -> None:
    assert evaluate_state(state).level == level


@pytest.mark.parametrize(("mib", "level"), [(255, "red"), (2047, "yellow"), (2048, "green")])
def test_a_disk_that_fills_up_is_told(mib: int, level: CheckLevel) -> None:
    assert evaluate_free_space("store", mib * MIB).level == level


@pytest.mark.parametrize(
    ("kind", "found"),
    [("ext4", []), ("xfs", []), ("", []), ("tmpfs", ["red"]), ("overlay", ["yellow"]), ("nfs4", ["yellow"])],
)
def test_a_disk_that_is_none_is_told(kind: str, found: list[CheckLevel]) -> None:
    assert [finding.level for finding in evaluate_file_system("store", kind)] == found


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert read_free_bytes(tmp_path / "not" / "there") == pytest.approx(read_free_bytes(tmp_path), rel=0.1)
    assert read_file_system(tmp_path / "not" / "there") == read_file_system(tmp_path)
    assert read_file_system(Path("/proc")) == "proc"


def test_latency_is_told_in_milliseconds() -> None:
    assert evaluate_latency("store", 0.0123).message == "answers in 12.3 ms"


def test_a_check_that_fails_or_hangs_hides_no_other() -> None:
    forever = threading.Event()

    def hangs() -> Iterator[CheckResult]:
        yield ok("slow", "first", "there")
        forever.wait(30)

    def breaks() -> Iterator[CheckResult]:
        yield ok("broken", "first", "there")
        raise ValueError("postgres://u:hunter2@h/d")

    def is_away() -> Iterable[CheckResult]:
        raise QueueUnavailable("Redis failed")

    checks = {
        "slow": hangs,
        "broken": breaks,
        "away": is_away,
        "fine": lambda: [ok("fine", "all", "well")],
    }
    found = run_checks(checks, timeout_s=2)
    forever.set()

    assert [(finding.component, finding.check, finding.level) for finding in found] == [
        ("slow", "first", "green"),
        ("slow", "time", "red"),
        ("broken", "first", "green"),
        ("broken", "check", "red"),
        ("away", "reachable", "red"),
        ("fine", "all", "green"),
    ]
    assert "hunter2" not in str(found)
    assert "ValueError" in found[3].message


def test_findings_fit_a_terminal_and_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = "words that go on and on " * 8
    found = [
        ok("store", "a", "fine"),
        warn("store", "b", words, "Run: rapidbridge-x --no-post"),
        fail("r", "c", "m", words),
    ]

    lines = [click.unstyle(line) for line in result_lines(found)]

    assert max(map(len, lines)) <= 80
    assert [line for line in lines if not line.startswith(" ")] == [
        "store",
        "r",
        "",
        "1 to mend, 1 to look at, 1 fine.",
    ]
    assert re.sub(r"\s+", " ", " ".join(lines)).count("-> ") == 2
    assert click.unstyle(list(result_lines(found[:1]))[-1]) == "Everything is set up."
    assert click.unstyle(list(result_lines(found[:2]))[-1]).startswith("It works. 1 to look at")


def test_a_secret_of_any_uuid_is_fine() -> None:
    assert all(secrets(str(uuid4())) == {} for _ in range(200))
