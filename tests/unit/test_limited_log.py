"""The log of events that unsigned clients can cause in any number."""

import pytest
import structlog

from app.logs import configure_logging, log_limited
from tests.support.waiting import wait_until


def test_a_flood_of_an_event_is_one_line_with_the_number_of_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging()
    # Other tests capture the events of the same logger.
    structlog.configure(cache_logger_on_first_use=False)
    try:
        for _ in range(100):
            log_limited("test.flood", reason="x")
        log_limited("test.other")
        first = capsys.readouterr().err

        def is_logged() -> bool:
            log_limited("test.flood", reason="y")
            return "reason=y" in capsys.readouterr().err

        wait_until(is_logged, what="the next line")
    finally:
        structlog.reset_defaults()

    assert first.count("test.flood") == 1
    assert first.count("test.other") == 1


def test_the_left_out_lines_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    # Other tests capture the events of the same logger.
    structlog.configure(cache_logger_on_first_use=False)
    lines: list[str] = []
    try:
        for _ in range(50):
            log_limited("test.counted")
        capsys.readouterr()

        def is_logged() -> bool:
            log_limited("test.counted")
            lines.append(capsys.readouterr().err)
            return bool(lines[-1])

        wait_until(is_logged, what="the next line")
    finally:
        structlog.reset_defaults()

    # 49 of the first ones, and all but the last one of those while waiting.
    assert f"left_out={49 + len(lines) - 1}" in lines[-1]
