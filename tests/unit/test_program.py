"""The program's version, its help, and the hints that name it."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from app.cli import main
from app.cli.common.messages import format_message
from app.cli.common.program import COMMANDS, DEFAULT_PORT, name_program
from app.config.settings import Settings, list_setting_names
from app.config.version import VERSION
from app.database.engine import open_database
from app.store.failures import FAILED_STATES
from app.store.migrate import migrate
from app.store.models import DeliveryState

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


def run(words: list[str], *, folder: Path, search_path: str = "", **settings: str) -> str:
    """Run a program without settings of this machine; return its standard error."""
    hidden = set(list_setting_names())
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    variables |= {"PYTHONPATH": str(ROOT), "PATH": f"{search_path}:{os.environ['PATH']}"} | settings
    return subprocess.run(
        words, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
    ).stderr


@pytest.mark.parametrize(
    ("words", "search_path", "expected"),
    [
        (["rapidbridge"], str(PROGRAMS), "rapidbridge"),
        (["venv/bin/rapidbridge"], "", "venv/bin/rapidbridge"),
        (["venv/bin/python", "-m", "app.cli"], "", "venv/bin/python -m app.cli"),
        (["python", "-m", "app.cli"], str(PROGRAMS), "python -m app.cli"),
    ],
)
def test_a_hint_can_be_run_as_the_program_was_called(
    tmp_path: Path, words: list[str], search_path: str, expected: str
) -> None:
    (tmp_path / "venv").symlink_to(PROGRAMS.parent)
    (tmp_path / "store.db").touch()
    url = f"sqlite:///{tmp_path}/store.db"

    before = run([*words, "deliveries", "list"], folder=tmp_path, search_path=search_path, DATABASE_URL=url)
    hint = before.strip().rpartition("run:")[2].strip()
    run(shlex.split(hint), folder=tmp_path, search_path=search_path, DATABASE_URL=url)
    after = run([*words, "deliveries", "list"], folder=tmp_path, search_path=search_path, DATABASE_URL=url)

    assert hint == f"{expected} migrate"
    assert after == ""


def test_usage_errors_name_the_program_as_it_was_called(tmp_path: Path) -> None:
    error = run([sys.executable, "-m", "app.cli", "deliveries", "tail", "--until", "1h"], folder=tmp_path)

    assert f"Try '{sys.executable} -m app.cli deliveries tail --help' for help." in error
    assert f"use `{sys.executable} -m app.cli deliveries list`" in " ".join(error.split())


def test_a_hint_names_the_port_unless_it_is_the_default() -> None:
    assert name_program("Start it: rapidbridge up", port=9000) == "Start it: PORT=9000 rapidbridge up"
    assert name_program("Start it: rapidbridge up", port=DEFAULT_PORT) == "Start it: rapidbridge up"
    assert (
        name_program("rapidbridge tables, rapidbridge.log", port=9000)
        == "rapidbridge tables, rapidbridge.log"
    )


def test_a_hint_names_the_port_in_force(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "app.cli"]
    away = ("--url", "http://127.0.0.1:9/webhooks/truto", "--secret", "x")

    error = run([*words, "replay", "--all"], folder=tmp_path, PORT="9000", DATABASE_URL="sqlite:///none.db")
    simulated = run([*words, "simulate", "--secret", "x"], folder=tmp_path, PORT="9")
    elsewhere = run([*words, "simulate", *away], folder=tmp_path, PORT="9000")

    # Only the commands that use the port name it.
    assert f"create it with: {sys.executable} -m app.cli migrate" in " ".join(error.split())
    assert f"Start the receiver: PORT=9 {sys.executable} -m app.cli up" in simulated
    assert f"Start the receiver: PORT=9 {sys.executable} -m app.cli up" in elsewhere


def test_a_message_names_the_port_in_force(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rapidbridge"])
    monkeypatch.delenv("PORT", raising=False)
    hint = "Start `rapidbridge up`, then run: rapidbridge dead list"

    default = format_message(hint)
    monkeypatch.setenv("PORT", "9000")
    exported = format_message(hint)
    monkeypatch.delenv("PORT")
    (tmp_path / ".env").write_text("PORT=9001\n")
    in_file = format_message(hint)

    assert default == hint
    assert exported == "Start `PORT=9000 rapidbridge up`, then run: rapidbridge dead list"
    assert in_file == exported.replace("9000", "9001")


@pytest.mark.parametrize(
    ("command", "suggestion"),
    [
        ("run list", "Did you mean 'runs'?"),
        ("delivery list", "Did you mean 'deliveries'?"),
        ("webhooks show", "Did you mean 'webhook'?"),
        ("simulat", "Did you mean 'simulate'?"),
        ("deliveries lst", "Did you mean 'list'?"),
        ("runs wach", "Did you mean 'watch'?"),
        ("dead reply", "Did you mean 'replay'?"),
        ("simulate --recods 5", "'--records'"),
        ("deliveries list --state setled", "Did you mean settled?"),
        ("replay --state Dead", "Did you mean dead?"),
        ("dead list --reason no_rout", "Did you mean no_route?"),
        ("runs list --status complete", "Did you mean completed?"),
        ("runs list --status xyz", "'xyz' is not one of created, running,"),
        ("runs start --error-handling bach", "Did you mean batch?"),
    ],
)
def test_a_misspelt_word_is_refused_with_a_suggestion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, suggestion: str
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/store.db"
    database = open_database(url)
    migrate(database)
    database.close()

    ran = CliRunner(env={"DATABASE_URL": url}).invoke(main, shlex.split(command))

    assert ran.exit_code == 2
    assert suggestion in " ".join(ran.stderr.split())


def test_a_command_unlike_all_others_gets_no_suggestion() -> None:
    ran = CliRunner().invoke(main, ["tune"])

    assert ran.exit_code == 2
    assert "No such command 'tune'.\n" in ran.stderr


def test_version_and_port_agree_with_the_project_and_the_settings() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == VERSION
    assert Settings.model_fields["port"].default == DEFAULT_PORT


def test_the_version_is_shown_without_an_installed_project(tmp_path: Path) -> None:
    script = (
        "import importlib.metadata as metadata, runpy, sys\n"
        "metadata.Distribution.discover = lambda **_: []\n"
        "sys.argv[1:] = ['--version']\n"
        "runpy.run_module('app.cli', run_name='__main__', alter_sys=True)"
    )

    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.stdout == f"rapidbridge, version {VERSION}\n"


def list_paths(group: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    assert isinstance(group, click.Group)
    yield path
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from list_paths(command, *path, name)
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", sorted(list_paths(main)), ids=lambda path: " ".join(path) or "main")
def test_every_help_fits_80_columns_and_cuts_no_summary(path: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*path, "--help"], prog_name="rapidbridge", env={"COLUMNS": "80"}).output

    lines = [line for line in text.splitlines() if not line.startswith("Usage: ")]
    assert [line for line in lines if len(line) > 80 or line.endswith("...")] == []


@pytest.mark.parametrize("path", sorted(list_paths(main))[1:], ids=" ".join)
def test_help_and_documentation_use_the_same_sentence_for_a_command(path: tuple[str, ...]) -> None:
    command: click.Command | None = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    sentence = (command.help or "").partition("\n")[0]
    rows = (ROOT / "docs" / "commands.md").read_text().splitlines()

    if len(path) == 1:
        assert COMMANDS[path[0]][1] == sentence
    if not isinstance(command, click.Group):
        row = next(row for row in rows if re.match(rf"\| `rapidbridge {' '.join(path)}[ `]", row))
        assert row.split(" | ", 1)[1].startswith(sentence)


def test_filters_are_listed_apart_from_a_commands_own_options() -> None:
    text = CliRunner().invoke(main, ["deliveries", "list", "--help"], env={"COLUMNS": "80"}).output

    own, _, filters = text.partition("\nFilters")
    assert "--count" in own
    assert "  --resource" not in own
    assert "  --resource" in filters


def test_the_state_filter_accepts_the_values_of_the_states() -> None:
    for words, states in (
        (["deliveries", "list"], tuple(DeliveryState)),
        (["replay"], tuple(DeliveryState)),
        (["dead", "list"], (*FAILED_STATES, DeliveryState.DISCARDED)),
        (["dead", "replay"], FAILED_STATES),
    ):
        command: click.Command | None = main
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        assert command is not None
        option = next(parameter for parameter in command.params if parameter.name == "states")
        values = [state.value for state in states]

        assert option.type_cast_value(click.Context(command), values) == tuple(values)
