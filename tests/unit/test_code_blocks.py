"""Every code block of the README and of docs/ is run, compared or parsed by a test."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest

from app.cli.common.program import COMMANDS as TOP_COMMANDS
from app.config.routes_file import read_routes
from app.config.settings import list_setting_names, read_settings
from app.errors import ConfigError
from app.store.delivery_export import read_line
from tests.support.command_line import find_command, get_options, parse_command
from tests.support.documentation import CODE_BLOCKS, PAGES, ROOT, CodeBlock, read_marked_block
from tests.support.shell import list_lines, split_line
from tests.support.shown_programs import check_settings, check_words

ROUTES_VARIABLES = {
    "TOKEN": "t",
    "DATABASE_URL": "postgres://app@db/app",
    "DB_PASSWORD": "x",
    "NOTIFY_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "SLACK_URL": "https://hooks.slack.example/services/x",
    "TEAMS_URL": "https://example.logic.azure.example/x",
    "PAGERDUTY_KEY": "a1B2" * 8,
}
# The name of the receiver: the pages write HOST for it, or this one.
HOST = "sync.example.com"
# Files that commands of the pages read, and the user has.
FILES_OF_THE_USER = {"contact.json": '{"id": "1"}'}
# Blocks whose content only a test of their own can check, by page and mark: `<!-- mark -->` before the block.
TESTS_OF_MARKED_BLOCKS = {
    ("README.md", "demo output"): "tests/e2e/test_readme_example.py::test_the_demo_prints_the_lines_that_the_readme_shows",
    ("README.md", "simulate output"): "tests/e2e/test_readme_example.py::test_the_routes_example_gives_the_rows_that_the_readme_shows",
    ("docs/databases.md", "one role"): "tests/integration/test_roles.py::test_a_role_without_create_on_public_gets_the_statement_of_the_page",
    ("docs/databases.md", "own schema"): "tests/integration/test_roles.py::test_a_role_without_create_on_public_gets_the_statement_of_the_page",
    ("docs/databases.md", "two roles"): "tests/integration/test_roles.py::test_the_processes_work_with_the_rights_of_the_page",
    ("docs/http.md", "sentry"): "tests/unit/test_docs.py::test_the_example_of_an_instrumentation_serves_the_webhook",
    ("docs/logs.md", "accepted"): "tests/integration/test_log_lines.py::test_every_line_is_json_and_names_the_delivery",
    ("docs/logs.md", "started"): "tests/integration/test_log_lines.py::test_every_line_is_json_and_names_the_delivery",
    ("docs/mcp.md", "configuration"): "tests/unit/test_code_blocks.py::test_the_configuration_of_an_agent_starts_the_command",
    ("docs/metrics.md", "scrape"): "tests/unit/test_alerts.py::test_the_scrape_configuration_is_valid",
    ("docs/notifications.md", "examples"): "tests/unit/test_notifications_docs.py::test_the_examples_are_the_bodies_that_are_sent",
    ("docs/notifications.md", "verify"): "tests/unit/test_notifications_docs.py::test_the_verify_function_accepts_signed_messages_only",
    ("docs/operations.md", "imported line"): "tests/unit/test_code_blocks.py::test_an_imported_line_needs_the_members_of_the_page",
    ("docs/scaling.md", "autoscaling"): "tests/unit/test_scaling_docs.py::test_workers_are_added_for_a_backlog_and_not_for_a_retried_delivery",
    ("docs/upgrades.md", "rows without an account"): "tests/contract/test_sinks.py::test_the_query_of_the_page_finds_rows_without_an_account",
    ("docs/runs.md", "not sent"): "tests/integration/test_runs_commands.py::test_events_that_a_run_does_not_send_are_named",
    ("docs/runs.md", "deletes list"): "tests/integration/test_deletes_commands.py::test_the_list_is_that_of_the_page",
    ("docs/sinks.md", "http request"): "tests/integration/test_http_sink.py::test_the_documented_request_is_the_one_that_is_sent",
    ("docs/sinks.md", "http endpoint"): "tests/contract/test_sink_contract.py::TestHttp",
    ("docs/sinks.md", "python sink"): "tests/contract/test_sink_contract.py::test_the_documented_sink_passes_the_documented_suite",
    ("docs/sinks.md", "sink contract"): "tests/contract/test_sink_contract.py::test_the_documented_sink_passes_the_documented_suite",
}  # fmt: skip
# Languages that no test can check, each with the reason.
UNCHECKED_LANGUAGES = {"mermaid": "a picture; no parser of Mermaid is among the packages of Python"}


def check_shell(block: CodeBlock) -> None:
    lines = list_lines(block.text, is_console=block.language == "console")
    assert lines, "no command"
    for shown in lines:
        line = shown.replace("//HOST/", f"//{HOST}/")
        parsed = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, check=False)
        assert parsed.returncode == 0, parsed.stderr
        for command in split_line(line):
            check_settings([name for name in command.assigned if not name.startswith("_")])
            check_words(command.words)
            for word in command.words:
                check_url_path(word)


def check_url_path(word: str) -> None:
    """Check that an address of the receiver is one of its endpoints."""
    if urlsplit(word).hostname in (HOST, "localhost"):
        is_endpoint = f"`POST {urlsplit(word).path}`" in PAGES["docs/http.md"]
        assert is_endpoint, f"{word}: docs/http.md has no such endpoint"


def check_routes(block: CodeBlock) -> None:
    sinks = "" if "[sinks." in block.text else '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n'

    read_routes(sinks + block.text, source=block.page, variables=ROUTES_VARIABLES)


def check_variables(block: CodeBlock) -> None:
    """Check a file of variables: settings with valid values, or the names that compose.yaml reads."""
    variables = dict(line.split("=", 1) for line in block.text.splitlines())
    compose = dict(re.findall(r"\$\{(\w+)(:\?)?", (ROOT / "compose.yaml").read_text()))
    values = {name: value.replace("…", "x" * 24) for name, value in variables.items()}

    read_settings({name: value for name, value in values.items() if name in list_setting_names()})
    if not set(variables) <= set(list_setting_names()):
        required = {name for name, mark in compose.items() if mark}
        wrong = (set(variables) - set(compose)) | (required - set(variables))
        assert not wrong, f"unlike the variables of compose.yaml: {', '.join(sorted(wrong))}"


CHECKS: dict[str, Callable[[CodeBlock], None]] = {
    "sh": check_shell,
    "console": check_shell,
    "toml": check_routes,
    "dotenv": check_variables,
}


@pytest.mark.parametrize("block", CODE_BLOCKS, ids=lambda block: block.place)
def test_every_code_block_is_checked(
    block: CodeBlock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in FILES_OF_THE_USER.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)

    if check := CHECKS.get(block.language):
        try:
            check(block)
        except (AssertionError, ConfigError, click.UsageError) as error:
            message = error.format_message() if isinstance(error, click.UsageError) else str(error)
            pytest.fail(f"{block.place}: {message}")
    elif block.language not in UNCHECKED_LANGUAGES:
        assert (block.page, block.mark) in TESTS_OF_MARKED_BLOCKS, (
            f"{block.place}: no test checks this block of {block.language or 'no language'}. Write `<!-- a mark -->` "
            "before it, compare it in a test with read_marked_block, and name that test in TESTS_OF_MARKED_BLOCKS"
        )


def test_every_fence_of_the_pages_belongs_to_a_block() -> None:
    for page, text in PAGES.items():
        fences = len(re.findall(r"^[ >]*(?:```|~~~)", text, re.MULTILINE))
        assert fences == 2 * sum(block.page == page for block in CODE_BLOCKS), page


@pytest.mark.parametrize("key", TESTS_OF_MARKED_BLOCKS, ids=" ".join)
def test_the_test_of_a_marked_block_exists_and_reads_it(key: tuple[str, str]) -> None:
    page, mark = key
    file, _, name = TESTS_OF_MARKED_BLOCKS[key].partition("::")
    source = (ROOT / file).read_text()

    assert read_marked_block(page, mark)
    assert re.search(rf"^(?:def|class) {name}\b", source, re.MULTILINE)
    # The name of the page may be a constant of the file.
    assert page in source
    assert f'"{mark}"' in source


@pytest.mark.parametrize("page", PAGES)
def test_every_command_within_a_sentence_exists_with_its_options(page: str) -> None:
    prose = re.sub(r"^ *```.*?^ *```$", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    wrong = []
    for text in re.findall(r"`(?:\S*/)?rapidbridge ([a-z][^`]*)`", prose):
        words = text.replace("[", " ").replace("]", " ").split()
        name = find_command(words)
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        # A group stands for its commands.
        is_group = len(words) == 1 and words[0] in TOP_COMMANDS
        if not is_group and (name is None or not options <= get_options(name)):
            wrong.append(text)
    assert not wrong


def test_an_imported_line_needs_the_members_of_the_page() -> None:
    members = json.loads(read_marked_block("docs/operations.md", "imported line"))

    imported = read_line(json.dumps(members).encode())
    assert imported
    assert str(imported.id) == members["id"]
    for name in members.keys() - {"format"}:
        incomplete = {key: value for key, value in members.items() if key != name}
        with pytest.raises(ValueError, match=r"its id|its received_at|its body|no body"):
            read_line(json.dumps(incomplete).encode())
    # A line without a format is a bare body.
    assert read_line(json.dumps(members | {"format": ""}).encode()) is None


def test_the_configuration_of_an_agent_starts_the_command() -> None:
    servers = json.loads(read_marked_block("docs/mcp.md", "configuration"))["mcpServers"]

    assert [server["command"] for server in servers.values()] == ["rapidbridge"]
    for server in servers.values():
        parse_command(server["args"])
        read_settings(server["env"])
