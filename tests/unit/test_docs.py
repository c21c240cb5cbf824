"""The pages of docs/ against the code: keys, settings, commands, paths, links and test names."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click import Context
from pydantic import BaseModel

from app.cli import EXIT_CONFIG_ERROR, EXIT_UNREACHABLE, main
from app.config.notify import NotifyConfig
from app.config.routes import ColumnConfig, GateConfig, RefuseRule, Route, Routes, RunRule, StopLimits
from app.config.settings import Settings, list_setting_names
from app.config.sinks import (
    FilesSinkConfig,
    HttpSinkConfig,
    KafkaSinkConfig,
    PythonSinkConfig,
    SqlSinkConfig,
    WarehouseSinkConfig,
)
from app.encryption import Keyring
from app.store.schema import metadata
from tests.support.command_line import COMMANDS, get_options
from tests.support.documentation import (
    PAGES,
    ROOT,
    list_code_blocks,
    read_marked_block,
    read_marked_table,
    read_section,
)

TABLES_OF_ROUTES_FILE: dict[str, type[BaseModel]] = {
    "sql": SqlSinkConfig,
    "files": FilesSinkConfig,
    "http": HttpSinkConfig,
    "python": PythonSinkConfig,
    "kafka": KafkaSinkConfig,
    "warehouse": WarehouseSinkConfig,
    "routes": Route,
    "columns": ColumnConfig,
    "stop_at": StopLimits,
    "refuse": RefuseRule,
    "allow": RunRule,
    "gate": GateConfig,
    "notify": NotifyConfig,
}


def get_anchors(page: str) -> set[str]:
    """Return the anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: str) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        name = target.relative_to(ROOT).as_posix()
        if not target.exists() or (anchor and anchor not in get_anchors(name)):
            broken.append(link)
    assert not broken


def test_the_index_links_every_page() -> None:
    linked = set(re.findall(r"^\| \[\w+\.md\]\((\w+\.md)\)", PAGES["docs/README.md"], re.MULTILINE))

    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_code_that_a_page_names_exists(page: str) -> None:
    paths = re.findall(r"`((?:app|workers|tests|benchmarks)/[\w/.-]+)", PAGES[page])

    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_page_names_tables_that_exist() -> None:
    # The others are made by the SQL sink in its own database.
    known = {*metadata.tables, "rapidbridge_sink_tables", "rapidbridge_sink_views"}
    named = {name for text in PAGES.values() for name in re.findall(r"`(rapidbridge_\w+)`", text)}
    metrics = set(
        re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram) \|", PAGES["docs/metrics.md"], re.MULTILINE)
    )

    assert named - metrics <= known
    documented = set(re.findall(r"^\| `(rapidbridge_\w+)` \|", PAGES["docs/tables.md"], re.MULTILINE))
    assert documented == set(metadata.tables)


@pytest.mark.parametrize("table", TABLES_OF_ROUTES_FILE)
def test_the_keys_of_the_routes_file_are_those_of_the_models(table: str) -> None:
    model = TABLES_OF_ROUTES_FILE[table]
    rows = read_marked_table("docs/routes.md", f"keys: {table}")
    fields = {field.alias or name: field for name, field in model.model_fields.items()}

    assert sorted(rows) == sorted(fields)
    for name, default in rows.items():
        field = fields[name]
        # A subscriber without a name gets one from its position.
        is_required = field.is_required() and (table, name) != ("notify", "name")
        assert default.startswith("required") == is_required, name
        if isinstance(field.default, bool):
            assert default == f"`{str(field.default).lower()}`"
        elif isinstance(field.default, str):
            assert default.startswith(f'`"{field.default}"`'), name
        elif isinstance(field.default, int | float):
            assert default == f"`{field.default:.15g}`", name
        elif field.default is None:
            assert default in ("no limit", "none"), name


def test_every_table_of_the_routes_file_is_documented() -> None:
    documented = set(re.findall(r"`\[+([a-z]{3,})(?:\.NAME)?\]+`", PAGES["docs/routes.md"]))

    assert documented == set(Routes.model_fields)


def test_every_setting_is_described_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGES["docs/settings.md"], re.MULTILINE)

    assert {name for name, _ in rows} == set(list_setting_names())
    for name, default in rows:
        field = next(field for field in Settings.model_fields.values() if field.alias == name)
        if field.default_factory:
            assert default.startswith("[by the machine]"), name
        elif field.default not in ((), "", None, Keyring()):
            shown = (
                {True: "1", False: "0"}.get(field.default)
                if isinstance(field.default, bool)
                else field.default
            )
            assert default.startswith(f"`{shown}`"), name


def test_every_command_is_described() -> None:
    rows = re.findall(
        r"^\| `rapidbridge ([^`]*?)(?: \[?(?:ID|NAME|RESOURCE).*)?` \| (.*) \|$",
        PAGES["docs/commands.md"],
        re.MULTILINE,
    )
    order = [
        "up", "demo", "simulate", "worker", "migrate", "doctor", "support-bundle", "runs", "routes", "sinks", "deletes", "files", "webhook", "deliveries", "dead",
        "replay", "operations", "prune", "erase", "keys", "mcp",
    ]  # fmt: skip

    names = [name for name, _ in rows]
    assert sorted(names) == sorted(COMMANDS)
    assert names == sorted(names, key=lambda name: order.index(name.split()[0]))
    for name, text in rows:
        assert set(re.findall(r"`(-{1,2}[a-z-]+)", text)) <= get_options(name), name


def test_the_documented_filters_are_those_of_the_commands() -> None:
    filters = set(re.findall(r"`(--[a-z]+)`", read_section("docs/commands.md", "Filters")))

    sharing = (
        "deliveries list",
        "deliveries export",
        "deliveries tail",
        "dead list",
        "dead replay",
        "replay",
    )
    assert filters == set.intersection(*(get_options(name) for name in sharing)) - {
        "--help",
        "-h",
        "--json",
    }


def test_every_command_and_option_has_a_help_text() -> None:
    assert isinstance(main, click.Group)
    groups = [
        command
        for name in main.list_commands(Context(main))
        if (command := main.get_command(Context(main), name))
    ]
    for command in (*groups, *COMMANDS.values()):
        assert command.help
        for option in command.get_params(Context(command)):
            is_argument = isinstance(option, click.Argument)
            assert is_argument or option.to_info_dict().get("help"), f"{command.name} {option.name}"


def test_the_exit_codes_are_those_of_the_help() -> None:
    documented = re.findall(r"^\| (\d) \| ", read_section("docs/commands.md", "Exit codes"), re.MULTILINE)
    helped = re.findall(r"\b(\d) [a-z]", (main.help or "").partition("Exit codes:")[2])

    assert documented == helped == ["0", "1", str(EXIT_CONFIG_ERROR), str(EXIT_UNREACHABLE)]


def test_shell_completion_completes_commands() -> None:
    rapidbridge = Path(sys.executable).with_name("rapidbridge")
    variables = {"_RAPIDBRIDGE_COMPLETE": "bash_complete", "COMP_WORDS": "rapidbridge de", "COMP_CWORD": "1"}

    ran = subprocess.run(
        [rapidbridge], env=os.environ | variables, capture_output=True, text=True, check=False
    )

    assert "_RAPIDBRIDGE_COMPLETE=bash_source rapidbridge" in PAGES["docs/commands.md"]
    assert [line.partition(",")[2] for line in ran.stdout.split()] == [
        "dead",
        "deletes",
        "deliveries",
        "demo",
    ]


def test_the_documented_answers_are_those_of_the_web_process() -> None:
    rows = re.findall(r"\| (\d{3}) \| `([a-z_]+)` \|", read_section("docs/http.md", "The webhook"))
    sources = "".join(path.read_text() for path in (ROOT / "app/web").glob("*.py"))

    own = {status for code, status in rows if code not in ("404", "405")}  # those come from Flask
    assert len(rows) == 12
    assert all(f'"{status}"' in sources for status in own)


def test_the_example_of_an_instrumentation_serves_the_webhook(tmp_path: Path) -> None:
    (tmp_path / "wsgi_with_sentry.py").write_text(read_marked_block("docs/http.md", "sentry"))
    variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
        "REDIS_URL": "redis://127.0.0.1:9",
        "TRUTO_WEBHOOK_SECRET": "x",
        "SENTRY_DSN": "http://key@127.0.0.1:9/1",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }

    ran = subprocess.run(
        [sys.executable, "-c", "from wsgi_with_sentry import app; print(list(app.url_map.iter_rules()))"],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "webhooks.receive" in ran.stdout, ran.stderr
    own_pages = [text for page, text in PAGES.items() if page != "docs/protocol.md"]
    endpoints = {path for text in own_pages for path in re.findall(r"`(?:GET|POST) (/[^` ]*)`", text)}
    assert len(endpoints) > 4
    # A slash at the end belongs to the same rule.
    assert not [path for path in endpoints if f"<Rule '{path.rstrip('/')}' " not in ran.stdout]
    [line] = [block.text for block in list_code_blocks("sh") if block.page == "docs/http.md"]
    started = subprocess.run(
        [sys.executable, "-m", *shlex.split(line), "--check-config"],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stderr


def test_every_guarantee_is_guarded_by_tests_that_exist() -> None:
    guarantees = PAGES["docs/guarantees.md"]
    named = re.findall(r"`((?:app|tests)/[\w/]+\.py)::(\w+)`", guarantees)

    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    unguarded = [
        part.partition("\n")[0] for part in guarantees.split("\n## ")[1:9] if "\nGuarded by `" not in part
    ]
    assert not missing
    assert not unguarded
    assert [title[0] for title in re.findall(r"^## (\d.*)$", guarantees, re.MULTILINE)] == [*"12345678"]
