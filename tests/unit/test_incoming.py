"""Bodies become deliveries after their signature is verified, and within the replay window."""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from app.config.settings import Settings, read_settings
from app.errors import SignatureError, SignatureFault
from app.store.incoming import read_incoming
from app.truto.signature import parse_signature_header, sign, verify
from tests.support.hostile_bodies import SHAPES, build_body

SECRETS = ["a" * 36, "b" * 36, "c" * 36]
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
WINDOW_S = 300
MICROSECOND = timedelta(microseconds=1)


def make_settings(**settings: str) -> Settings:
    return read_settings({"TRUTO_WEBHOOK_SECRET": ",".join(SECRETS), **settings})


def read(body: bytes, secret: str, settings: Settings, **options: Any) -> object:
    return read_incoming(body, parse_signature_header(sign(body, secret)), NOW, origin=settings, **options)


def list_called_modules(function: Callable[[], object]) -> set[str]:
    """Return the names of the files whose code runs, and the modules of built-in functions that are called."""
    names = set()

    def record(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            names.add(Path(frame.f_code.co_filename).stem)
        elif event == "c_call":
            names.add(str(argument.__module__))

    sys.setprofile(record)
    try:
        function()
    finally:
        sys.setprofile(None)
    return names


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_reads_a_body_before_its_signature_is_verified(shape: str) -> None:
    body, settings = build_body(shape, 2000), make_settings()

    def refuse() -> None:
        with pytest.raises(SignatureError, match="matches no secret"):
            read(body, "x" * 36, settings)

    readers = {"events", "json_scanner", "json_reader", "msgspec", "msgspec.json", "json", "_json", "decoder"}
    assert list_called_modules(lambda: read(body, SECRETS[0], settings)) & readers
    assert not list_called_modules(refuse) & readers


@pytest.mark.parametrize("secret", [*SECRETS, "x" * 36])
def test_the_work_does_not_depend_on_the_secret_that_matches(secret: str) -> None:
    # One pause after each MiB that is hashed with each secret.
    body, pauses = b"not json" * 400_000, 0
    mac = parse_signature_header(sign(body, secret))

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    with suppress(SignatureError):
        verify(body, mac, SECRETS, pause)

    assert pauses == len(SECRETS) * 4


@pytest.mark.parametrize(
    ("age", "is_accepted"),
    [
        (timedelta(0), True),
        (timedelta(seconds=WINDOW_S), True),
        (timedelta(seconds=WINDOW_S) + MICROSECOND, False),
        # The clock of the receiver is behind Truto's.
        (-timedelta(seconds=WINDOW_S), True),
        (-timedelta(seconds=WINDOW_S) - MICROSECOND, False),
        (timedelta(days=30_000), False),
        (-timedelta(days=30_000), False),
    ],
)
@pytest.mark.parametrize("hours", [0, 14, -12])
def test_the_replay_window_is_exact_with_a_skewed_clock_of_either_side(
    age: timedelta, hours: int, *, is_accepted: bool
) -> None:
    created_at = (NOW - age).astimezone(timezone(timedelta(hours=hours)))
    body = b'{"event": "test", "created_at": "%s"}' % created_at.isoformat().encode()
    settings = make_settings(REPLAY_WINDOW_S=str(WINDOW_S))

    if is_accepted:
        read(body, SECRETS[1], settings)
    else:
        with pytest.raises(SignatureError) as caught:
            read(body, SECRETS[1], settings)
        assert caught.value.fault == SignatureFault.OUTSIDE_WINDOW
    # Without a window, any age is accepted.
    read(body, SECRETS[1], make_settings())


@pytest.mark.parametrize("created_at", ["2026-11-27 11:55:00", "2026-11-27T11:55:00.000Z"])
def test_a_time_without_a_zone_is_taken_as_utc(created_at: str) -> None:
    body = b'{"event": "test", "created_at": "%s"}' % created_at.encode()

    read(body, SECRETS[0], make_settings(REPLAY_WINDOW_S="300"))
    with pytest.raises(SignatureError):
        read(body, SECRETS[0], make_settings(REPLAY_WINDOW_S="299"))
