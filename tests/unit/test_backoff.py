"""Waiting times between retries."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from app.backoff import compute_backoff_s, parse_retry_after_s

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("attempt", "wait_s"), [(1, 5), (2, 10), (3, 20), (10, 2560), (11, 3600), (5000, 3600)]
)
def test_the_wait_doubles_with_every_attempt_up_to_its_limit(attempt: int, wait_s: float) -> None:
    assert compute_backoff_s(attempt, base_s=5, max_s=3600, jitter=(1, 1)) == wait_s


def test_the_jitter_spreads_waits_between_its_two_factors() -> None:
    waits_s = {compute_backoff_s(1, base_s=10, max_s=60, jitter=(0.5, 1.5)) for _ in range(100)}

    assert len(waits_s) > 50
    assert all(5 <= wait_s <= 15 for wait_s in waits_s)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("0", 0),
        ("90", 90),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), None),
        ("Tue, 99 Nov 2026 99:00:00 GMT", None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str, wait_s: float | None) -> None:
    assert parse_retry_after_s(header, now=NOW) == wait_s
