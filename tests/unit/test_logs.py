"""A value of a log line can neither forge a line nor fill the log."""

import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from app.logs import configure_logging


@pytest.fixture(autouse=True)
def logging_configuration() -> Iterator[None]:
    configured = structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in ("rq", "httpx")}
    configure_logging()
    yield
    structlog.configure(**configured)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def write_line(capsys: pytest.CaptureFixture[str], **values: object) -> str:
    structlog.get_logger().info("test", **values)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "value", ["x" * 3_000_000, ["x" * 3_000_000], {"x" * 3_000_000: 1}, "\n" * 3_000_000]
)
def test_a_long_value_is_cut(capsys: pytest.CaptureFixture[str], value: object) -> None:
    line = write_line(capsys, value=value, other="kept")

    assert len(line) < 1500
    assert "…" in line
    assert line.endswith("other=kept\n")


@pytest.mark.parametrize("char", ["\n", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\ud800", "\0"])
@pytest.mark.parametrize("wrap", [str, lambda text: [text], lambda text: {text: text}])
def test_a_control_character_never_reaches_the_log(
    capsys: pytest.CaptureFixture[str], char: str, wrap: Callable[[str], object]
) -> None:
    line = write_line(capsys, value=wrap(f"a{char}b"))

    assert len(line.splitlines()) == 1
    assert char not in line.removesuffix("\n")


def test_other_values_are_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    line = write_line(capsys, number=7, share=0.5, flag=True, nothing=None, name="Zoë/ü", text="two words")

    assert line.endswith('number=7 share=0.5 flag nothing= name=Zoë/ü text="two words"\n')
