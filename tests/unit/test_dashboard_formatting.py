"""Times, numbers and texts of the pages."""

from datetime import UTC, datetime, timedelta

import pytest

from app.times import format_duration
from app.web.dashboard.formatting import (
    escape_invisible,
    format_age,
    format_bytes,
    format_time,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0142, "14 ms"),
        (0.6, "1 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86400, "1 d"),
        (90000, "1 d 1 h"),
        (-5, "0 s"),
    ],
)
def test_durations_have_a_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (None, "never"),
        (NOW, "now"),
        (NOW - timedelta(minutes=3), "3 min ago"),
        (NOW + timedelta(hours=2), "in 2 h"),
    ],
)
def test_ages_are_past_or_future(time: datetime | None, text: str) -> None:
    assert format_age(time, now=NOW) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1 byte"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 50, "5120.0 TiB")],
)
def test_sizes_have_a_unit(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_times_are_absolute_and_relative() -> None:
    element = format_time(NOW - timedelta(days=400))

    assert "2025-10-22 12:00:00 UTC" in element
    assert 'datetime="2025-10-22T12:00:00+00:00"' in element
    assert "ago" in element


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u200b\u00ad", "\\u200b\\u00ad"),
        ("a\u202eb", "a\\u202eb"),
        ("\ufeff", "\\ufeff"),
        ("\U000e0041", "\\U000e0041"),
        ("\u3164", "\\u3164"),
        (" \u00a0", "\\u0020\\u00a0"),
        ("", ""),
        ("a b\u00a0c", "a b\u00a0c"),
        ("line\n\tnext", "line\n\tnext"),
        ("日本 ❤️ é", "日本 ❤️ é"),
    ],
)
def test_invisible_characters_are_escapes(text: str, shown: str) -> None:
    assert escape_invisible(text) == shown
