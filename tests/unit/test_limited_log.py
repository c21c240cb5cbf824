"""The log of events that unsigned clients can cause in any number."""

from collections.abc import Iterator

import pytest

from app.logs import log_limited
from tests.support.log_output import configured_logging
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def text_log() -> Iterator[None]:
    with configured_logging("text"):
        yield


def test_a_flood_of_an_event_is_one_line_with_the_number_of_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(100):
        log_limited("test.flood", reason="x")
    log_limited("test.other")
    first = capsys.readouterr().err

    def is_logged() -> bool:
        log_limited("test.flood", reason="y")
        return "reason=y" in capsys.readouterr().err

    wait_until(is_logged, what="the next line")

    assert first.count("test.flood") == 1
    assert first.count("test.other") == 1


def test_the_left_out_lines_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    for _ in range(50):
        log_limited("test.counted")
    capsys.readouterr()

    def is_logged() -> bool:
        log_limited("test.counted")
        lines.append(capsys.readouterr().err)
        return bool(lines[-1])

    wait_until(is_logged, what="the next line")

    # 49 of the first ones, and all but the last one of those while waiting.
    assert f"left_out={49 + len(lines) - 1}" in lines[-1]
