"""`rapidbridge routes`: check, explain, suggest."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.checks.column_suggestions import ColumnSuggestions
from app.checks.routes import check_routes
from app.config.load import Config
from app.config.routes_file import read_routes
from app.config.settings import read_settings
from app.database.engine import open_database
from app.store.column_misfits import ColumnMisfits
from app.store.migrate import migrate
from app.truto.records import decode_json
from tests.support.seeded_store import NOW, SeededStore

SINKS = '[sinks.main]\ntype = "sql"\nurl = "sqlite:///{folder}/sink.db"\n'


class Site:
    """A store and a routes file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        url = f"sqlite:///{folder}/store.db"
        self.store = open_database(url)
        migrate(self.store)
        self.seeded = SeededStore(self.store, url)

    def route(self, text: str) -> None:
        (self.folder / "routes.toml").write_text(SINKS.format(folder=self.folder) + text)

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.seeded.rapidbridge("routes", *words, code=code, ROUTES_FILE=f"{self.folder}/routes.toml")

    def run_json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code).stdout)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.store.close()


def list_problems(site: Site, text: str, code: int = 0) -> list[tuple[str, str, str]]:
    site.route(text)
    checks = site.run_json("check", code=code)["checks"]
    return [(check["level"], check["check"], check["message"]) for check in checks if check["level"] != "ok"]


def test_an_invalid_file_is_refused_with_lines(site: Site) -> None:
    site.route('[[routes]]\nsinks = ["mian"]\n')

    ran = site.run("check", code=2)

    assert "routes.toml:5: [[routes]] 1, sinks: no sink named mian" in " ".join(ran.stderr.split())


def test_a_sound_file_has_no_problems(site: Site) -> None:
    assert list_problems(site, '[[routes]]\nsinks = ["main"]\n') == []
    assert "1 route, 1 sink" in site.run("check", "--offline").stdout


@pytest.mark.parametrize(
    ("first", "second", "is_shadowed"),
    [
        ("", 'resource = "crm/contacts"', True),
        ('resource = "crm/*"', 'resource = "crm/contacts"', True),
        ('resource = "crm/*"', 'resource = "crm/con*"', True),
        ('resource = "crm/*"', 'resource = "crm/contacts"\nmethod = "get"', True),
        ('event = "record:*"', 'event = "record:created"', True),
        ("", 'event = "record:created"', True),
        ("", 'event = "record:meta"', False),
        ('event = "*"', "", True),
        ("", 'event = "*"', False),
        ('resource = "crm/contacts"', "", False),
        ('resource = "crm/?"', 'resource = "crm/*"', False),
        ('resource = "crm/*"\nintegrated_account_id = "a"', 'resource = "crm/contacts"', False),
        ('webhook_id = "w"', 'webhook_id = "w"\nenvironment_id = "e"', True),
        ('environment_id = "e"', 'webhook_id = "w"', False),
    ],
)
def test_a_route_that_never_matches_is_named(first: str, second: str, *, is_shadowed: bool) -> None:
    routes = "".join(f'[[routes]]\nsinks = ["main"]\n{patterns}\n' for patterns in (first, second))
    text = SINKS.format(folder="/tmp") + routes
    config = Config(
        read_settings({}), read_routes(text, source="routes.toml", variables={}), "routes.toml", text
    )

    problems = [result for result in check_routes(config) if result.level != "ok"]

    assert [(result.level, result.check) for result in problems] == (
        [("warn", "matching")] if is_shadowed else []
    )
    assert all("[[routes]] 2 (routes.toml:" in result.message for result in problems)


def test_an_unused_sink_and_a_table_for_two_resources_are_named(site: Site) -> None:
    problems = list_problems(
        site,
        '[sinks.lake]\ntype = "files"\nurl = "file:///tmp"\n'
        '[[routes]]\nresource = "crm/contacts"\nsinks = ["main"]\n'
        '[[routes]]\nresource = "crm.Contacts"\nsinks = ["main"]\n',
        code=1,
    )

    assert [problem[:2] for problem in problems] == [("warn", "sinks"), ("fail", "tables")]
    assert "crm/contacts and crm.Contacts have the same table crm_contacts" in problems[1][2]


def test_values_that_did_not_fit_are_counted(site: Site) -> None:
    ColumnMisfits(site.store).add({("main", "crm/contacts", "amount"): 3}, now=NOW)

    [(level, check, message)] = list_problems(site, '[[routes]]\nsinks = ["main"]\n')

    assert (level, check) == ("warn", "misfits")
    assert message.startswith("crm/contacts: 3 values did not fit column amount of sink main")


def test_a_sink_that_cannot_be_reached_fails(site: Site) -> None:
    text = '[sinks.away]\ntype = "sql"\nurl = "postgres://u:hidden@127.0.0.1:1/d"\n[[routes]]\nsinks = ["main", "away"]\n'

    problems = list_problems(site, text, code=1)

    assert [problem[:2] for problem in problems] == [("fail", "writable")]
    assert "hidden" not in str(problems)


ROUTE = """
[[routes]]
resource = "crm/contacts"
sinks = ["main"]
key = "uid"
version_field = "updated_at"
filter = "status != 'archived'"
drop = ["remote_data"]
columns = { name = "text", amount = { type = "integer", path = "money.amount" }, money = "json" }
"""
SAMPLE = (
    '[{"uid": "7", "name": "N", "updated_at": "2026-01-01", "money": {"amount": "x"}, "remote_data": {"a": 1}},'
    ' {"uid": 8, "status": "archived"}, 5]'
)


def test_a_route_is_explained_with_sample_records(site: Site) -> None:
    site.route(ROUTE)
    (site.folder / "sample.json").write_text(SAMPLE)

    shown = site.run("explain", "crm/contacts", "get", "--record", f"{site.folder}/sample.json").stdout
    result = site.run_json("explain", "crm/contacts", "--record", f"{site.folder}/sample.json")

    assert "1 of 1, " in shown
    assert "routes.toml:5" in "".join(shown.split())
    assert 'money = {"amount":"x"}' in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert (result["route"], result["table"], result["keys"]["key"]) == (1, "crm_contacts", "uid")
    written, filtered, rejected = result["records"]
    assert written["json"] == {
        "uid": "7",
        "name": "N",
        "updated_at": "2026-01-01",
        "money": {"amount": "x"},
    }
    assert (written["key"], written["version"]) == ("7", "2026-01-01T00:00:00+00:00")
    assert (written["columns"], written["misfits"]) == (
        {"name": "N", "amount": None, "money": {"amount": "x"}},
        {"amount": "not_an_integer"},
    )
    assert (filtered["result"], rejected["result"]) == ("filtered", "not_object")


@pytest.mark.parametrize(
    "sample",
    [
        '{"uid": "7"}',
        '[{"uid": "7"}]',
        '{"event": "sync_job_run:record", "payload": {"records": [{"uid": "7"}]}}',
        '{"event": "record:created", "payload": {"record": {"uid": "7"}}}',
    ],
)
def test_a_sample_is_a_record_a_list_or_an_event(site: Site, sample: str) -> None:
    site.route(ROUTE)
    (site.folder / "sample.json").write_text(sample)

    result = site.run_json("explain", "crm/contacts", "--record", f"{site.folder}/sample.json")

    assert [record["json"] for record in result["records"]] == [{"uid": "7"}]


def test_a_resource_without_a_route_and_a_broken_sample_are_named(site: Site) -> None:
    site.route(ROUTE)
    (site.folder / "sample.json").write_text("{")

    assert "No route matches" in site.run("explain", "hris/employees", code=1).stdout
    broken = site.run("explain", "crm/contacts", "--record", f"{site.folder}/sample.json", code=2)
    assert "the sample is no JSON" in broken.stderr


def test_columns_are_suggested_from_the_records_that_arrived(site: Site) -> None:
    records = [
        '{"id": "1", "zip": "007", "n": 1, "amount": 1.50, "at": "2026-01-01T10:00:00Z", "day": "2026-01-01"}',
        '{"id": "2", "n": 2, "amount": 2, "owner": {"id": 7}, "ok": true, "tags": ["a"], "dataKey": null}',
    ]
    for record in records:
        site.seeded.put(body=b'{"event": "e", "payload": {"records": [%b]}}' % record.encode())
    error = b'{"event": "sync_job_run:record_error", "payload": {"error": {"message": "no"}}}'
    site.seeded.put(body=error, event="sync_job_run:record_error")
    site.route(ROUTE)

    shown = site.run("suggest", "crm/contacts").stdout
    result = site.run_json("suggest", "crm/contacts", "--records", "1")

    assert shown.splitlines()[0].startswith("# From 2 records, the newest received at 2026-")
    assert all(len(line) <= 80 for line in shown.splitlines())
    lines = {line.partition(" ")[0]: line.partition("=")[2] for line in shown.splitlines()[3:]}
    types = {name: text.partition("#")[0].strip() for name, text in lines.items()}
    assert types["zip"] == '"text"'
    assert (types["n"], types["ok"]) == ('"integer"', '"boolean"')
    assert (types["at"], types["day"]) == ('"timestamp"', '"date"')
    assert types["owner_id"] == '{ type = "integer", path = "owner.id" }'
    assert not {"tags", "data_key"} & types.keys()
    assert lines["zip"].endswith("# 50 %")
    assert result["records"] == 1
    # The suggestion can be pasted below a route, and every value fits.
    (site.folder / "routes.toml").write_text(
        SINKS.format(folder=site.folder) + '[[routes]]\nsinks = ["main"]\n' + shown
    )
    explained = site.folder / "sample.json"
    explained.write_text(f"[{','.join(records)}]")
    previews = site.run_json("explain", "crm/contacts", "--record", str(explained))["records"]
    assert [preview["misfits"] for preview in previews] == [{}, {}]


def test_without_records_nothing_is_suggested(site: Site) -> None:
    site.route(ROUTE)

    assert "No stored body has a record of hris/employees" in " ".join(
        site.run("suggest", "hris/employees", code=1).stderr.split()
    )


@pytest.mark.parametrize(
    ("records", "columns"),
    [
        (['{"a": 1}', '{"a": "1"}'], []),
        (['{"a": 1}', '{"a": {"b": 1}}'], ["a_b"]),
        (['{"a": 9223372036854775808}'], ["a"]),
        (['{"remote_data": {"a": 1}}'], []),
        (['{"Is Open?": true, "1st": 1, "data": "x", "xmin": 1}'], ["is_open", "n1st", "data_", "xmin_"]),
        (['{"a_b": 1, "a.b": 2}'], ["a_b"]),
        (['{"\\u0000": 1, "ключ": 2}'], []),
    ],
)
def test_every_suggested_column_has_a_valid_name_and_one_type(records: list[str], columns: list[str]) -> None:
    suggestions = ColumnSuggestions()
    for record in records:
        suggestions.add(decode_json(record))
    suggested = suggestions.suggest()

    assert sorted(column.name for column in suggested) == sorted(columns)
    table = "".join(f'{c.name} = {{ type = "{c.type}", path = {json.dumps(c.path)} }}\n' for c in suggested)
    text = SINKS.format(folder="/tmp") + f'[[routes]]\nsinks = ["main"]\n[routes.columns]\n{table}'
    assert [*read_routes(text, source="f", variables={}).routes[0].columns] == [c.name for c in suggested]
