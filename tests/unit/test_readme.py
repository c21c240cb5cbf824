"""What the README says is so."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click import Context

from app.cli import main
from app.config.routes import GateConfig
from app.config.routes_file import read_routes
from app.config.settings import Settings, list_setting_names

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(mark: str) -> str:
    """The code block that follows a mark."""
    return README.partition(f"<!-- {mark} -->")[2].partition("```")[2].partition("\n")[2].partition("```")[0]


def section(title: str) -> str:
    return re.split(r"^##+ ", README.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


def test_every_setting_is_described_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", section("Settings"), re.MULTILINE)

    assert {name for name, _ in rows} == {field.alias for field in Settings.model_fields.values()}
    assert {name for name, _ in rows} < set(list_setting_names())
    for name, said in rows:
        field = next(field for field in Settings.model_fields.values() if field.alias == name)
        if field.default not in ((), "", None):
            shown = (
                {True: "1", False: "0"}.get(field.default)
                if isinstance(field.default, bool)
                else field.default
            )
            assert said.startswith(f"`{shown}`"), name


def test_every_command_is_described() -> None:
    named = re.findall(r"^\| `rapidbridge (\w+)( \w+)?.*?` \|", section("Commands"), re.MULTILINE)

    described = list(dict.fromkeys(name for name, _ in named))
    order = [
        "up",
        "demo",
        "simulate",
        "worker",
        "migrate",
        "doctor",
        "runs",
        "webhook",
        "deliveries",
        "dead",
        "replay",
        "prune",
        "erase",
    ]
    assert described == sorted(described, key=order.index)
    assert sorted(described) == main.list_commands(Context(main))
    groups = {name: main.get_command(Context(main), name) for name in described}
    assert {(name, part.strip()) for name, part in named if part} == {
        (name, part)
        for name, group in groups.items()
        if isinstance(group, click.Group)
        for part in group.list_commands(Context(group))
    }


def commands(group: click.Group) -> Iterator[click.Command]:
    for name in group.list_commands(Context(group)):
        command = group.get_command(Context(group), name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


def test_every_command_and_option_says_what_it_is_for() -> None:
    assert isinstance(main, click.Group)
    for command in commands(main):
        assert command.help
        for option in command.get_params(Context(command)):
            is_argument = isinstance(option, click.Argument)
            assert is_argument or option.to_info_dict().get("help"), f"{command.name} {option.name}"


def test_the_routes_of_the_readme_are_routes() -> None:
    variables = {
        "DATABASE_URL": "sqlite:///x",
        "NOTIFY_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "SLACK_URL": "https://hooks.slack.example/services/x",
    }
    routes = read_routes(block("routes"), source="README", variables=variables)

    assert len(routes.routes) == 3
    assert [(spec.name, spec.form) for spec in routes.notify] == [("ops", "standard"), ("team", "slack")]
    assert (
        routes.find_refusal_reason(sync_job_id="", integrated_account_id="sandbox-1", environment_id="")
        is not None
    )
    assert routes.gate.model_fields_set == set(GateConfig.model_fields)


def test_the_statuses_of_the_readme_are_those_of_the_code() -> None:
    told = set(re.findall(r"`([a-z_]+)`", section("What the sender is told").partition("`GET /healthz`")[0]))
    sources = "".join(path.read_text() for path in (ROOT / "app/web").glob("*.py"))

    words = told - {"status", "delivery"}
    assert len(words) == 9
    assert all(f'"{word}"' in sources for word in words)


def test_the_shells_of_the_readme_complete_commands() -> None:
    rapidbridge = Path(sys.executable).with_name("rapidbridge")
    asked = {"_RAPIDBRIDGE_COMPLETE": "bash_complete", "COMP_WORDS": "rapidbridge de", "COMP_CWORD": "1"}

    told = subprocess.run([rapidbridge], env=os.environ | asked, capture_output=True, text=True, check=False)

    assert "_RAPIDBRIDGE_COMPLETE=bash_source rapidbridge" in README
    assert [line.partition(",")[2] for line in told.stdout.split()] == ["dead", "deliveries", "demo"]


def test_the_exit_codes_are_those_of_the_help() -> None:
    told = "Exit codes: " + README.partition("Exit codes: ")[2].partition("\n")[0]

    assert told in " ".join((main.help or "").split())


def test_ci_runs_the_readmes_test_command() -> None:
    command = block("tests").strip()

    assert command.startswith("python3 -m venv")
    assert "sed -n '/<!-- tests -->/" in (ROOT / ".ci/run").read_text()


def test_every_guarantee_is_guarded_by_tests_that_exist() -> None:
    guarantees = (ROOT / "docs/guarantees.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", guarantees)

    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    unguarded = [
        part.partition("\n")[0] for part in guarantees.split("\n## ")[1:7] if "\nGuarded by `" not in part
    ]
    assert not missing
    assert not unguarded
    assert [title[0] for title in re.findall(r"^## (\d.*)$", guarantees, re.MULTILINE)] == [*"123456"]
