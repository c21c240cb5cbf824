"""A line can neither be forged nor fill the log, is of one form for all sources, and quotes no error."""

import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from app.log_lines import is_json
from app.logs import LibraryLog
from tests.support.log_output import configured_logging

SECRET_TEXT = "private@example.com"


@pytest.fixture
def log_format(request: pytest.FixtureRequest) -> Iterator[str]:
    log_format: str = getattr(request, "param", "text")
    with configured_logging(log_format):
        yield log_format


@pytest.fixture
def json_log() -> Iterator[None]:
    with configured_logging("json"):
        yield


both_formats = pytest.mark.parametrize("log_format", ["text", "json"], indirect=True)


def write_line(capsys: pytest.CaptureFixture[str], **values: object) -> str:
    structlog.get_logger().info("test", **values)
    return capsys.readouterr().err


def read_json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@both_formats
@pytest.mark.parametrize(
    "value", ["x" * 3_000_000, ["x" * 3_000_000], {"x" * 3_000_000: 1}, "\n" * 3_000_000, ["x" * 90] * 9000]
)
def test_a_long_value_is_cut(capsys: pytest.CaptureFixture[str], log_format: str, value: object) -> None:
    line = write_line(capsys, value=value, other="kept")

    assert len(line) < 1500
    assert "…" in line
    assert line.endswith({"text": "other=kept\n", "json": '"other":"kept"}\n'}[log_format])


@both_formats
@pytest.mark.parametrize("char", ["\n", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\ud800", "\0"])
@pytest.mark.parametrize("wrap", [str, lambda text: [text], lambda text: {text: text}])
def test_a_control_character_never_reaches_the_log(
    capsys: pytest.CaptureFixture[str], log_format: str, char: str, wrap: Callable[[str], object]
) -> None:
    line = write_line(capsys, value=wrap(f"a{char}b"))

    assert len(line.splitlines()) == 1
    assert char not in line.removesuffix("\n")


@pytest.mark.usefixtures("log_format")
def test_other_values_are_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    line = write_line(
        capsys, number=7, share=0.5, flag=True, nothing=None, name="Zoë/ü", text="two words", ids=["a", "b"]
    )

    assert line.endswith('number=7 share=0.5 flag nothing= name=Zoë/ü text="two words" ids="a, b"\n')


@pytest.mark.usefixtures("json_log")
def test_a_line_of_json_begins_with_time_level_and_event(capsys: pytest.CaptureFixture[str]) -> None:
    line = write_line(capsys, number=7, share=0.5, flag=True, nothing=None, name="Zoë")

    assert list(json.loads(line)) == ["at", "level", "event", "number", "share", "flag", "nothing", "name"]
    assert (
        json.loads(line).items() >= {"level": "info", "event": "test", "nothing": None, "name": "Zoë"}.items()
    )


@pytest.mark.usefixtures("json_log")
@pytest.mark.parametrize("number", [2**64, -(2**64), 10**400, float("nan"), float("inf")])
def test_a_number_that_json_cannot_hold_does_not_lose_the_line(
    capsys: pytest.CaptureFixture[str], number: float
) -> None:
    line = write_line(capsys, number=number, other="kept")

    assert json.loads(line, parse_constant=pytest.fail)["other"] == "kept"


@pytest.mark.usefixtures("json_log")
def test_a_field_cannot_replace_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    line = write_line(capsys, value='"},{"event":"forged"')

    assert json.loads(line)["event"] == "test"


def test_only_a_terminal_gets_text_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_json("auto")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert not is_json("auto")
    assert is_json("json")


@pytest.mark.usefixtures("json_log")
def test_messages_of_libraries_have_the_same_form_and_no_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    library = logging.getLogger("somelibrary.part")

    library.info("not shown")
    library.warning("%s is odd\n", "x")
    try:
        raise ValueError(SECRET_TEXT)
    except ValueError:
        library.exception("it failed")
    # Not by the logger: pytest's handler would raise.
    LibraryLog().emit(
        logging.LogRecord("other", logging.ERROR, "x.py", 1, "%d of %d", ("not a number",), None)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    lines = read_json_lines(capsys)
    assert "DeprecationWarning: old" in lines.pop()["message"]
    assert [(line["event"], line["level"], line["message"]) for line in lines] == [
        ("somelibrary.message", "warning", "x is odd\ufffd"),
        ("somelibrary.message", "error", "it failed"),
        ("other.message", "error", "%d of %d"),
    ]
    assert lines[1]["fault"] == "ValueError"
    assert "test_logs.py:" in lines[1]["location"]
    assert SECRET_TEXT not in str(lines)


@pytest.mark.usefixtures("json_log")
def test_a_message_that_a_library_repeats_is_one_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:

    for number in range(1000):
        logging.getLogger("repeating").warning(f"connection {number} lost")

    assert [line["message"] for line in read_json_lines(capsys)] == ["connection 0 lost"]


@pytest.mark.usefixtures("json_log")
def test_an_uncaught_error_is_one_line_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError(SECRET_TEXT)

    thread = threading.Thread(target=fail, name="background")
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)

    lines = read_json_lines(capsys)
    assert [(line["event"], line["fault"]) for line in lines] == [
        ("thread.failed", "ValueError"),
        ("process.failed", "ValueError"),
    ]
    assert all("test_logs.py:" in line["location"] for line in lines)
    assert SECRET_TEXT not in str(lines)
