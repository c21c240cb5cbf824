"""`rapidbridge support-bundle`: useful, and without secrets and records, on both databases."""

import json
import stat
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from app.checks.support_bundle import FORMAT, PACKAGES
from app.config.settings import list_setting_names
from app.database.engine import Database
from app.store.schema import deliveries
from tests.support.commands import run_command
from tests.support.seeded_store import SECRET_NAME, SeededStore
from tests.support.web_process import ROOT, make_environment

HIDDEN = "hunter2-never-shown"
SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ACCOUNT = "94801e49-a652-42f9-af14-dd203d7897da"
SECRETS = {
    "TRUTO_WEBHOOK_SECRET": f"{HIDDEN},w1={HIDDEN}-2",
    "TRUTO_API_TOKEN": HIDDEN,
    "TRUTO_API_URL": f"http://user:{HIDDEN}@127.0.0.1:1",
    "REDIS_URL": f"redis://:{HIDDEN}@127.0.0.1:1/0",
    "DASHBOARD_PASSWORD": HIDDEN,
    "DASHBOARD_READ_PASSWORD": f"{HIDDEN}-3",
    "METRICS_TOKEN": HIDDEN,
}
ROUTES = f"""
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[sinks.away]
type = "sql"
url = "postgresql://user:{HIDDEN}@127.0.0.1:1/d"

[sinks.endpoint]
type = "http"
url = "https://sync.example.com/hook?token={HIDDEN}"
secret = "{SIGNING_SECRET}"

[[notify]]
url = "https://hooks.example.com/{HIDDEN}"
secret = "$NOTIFY_SECRET"

[[routes]]
resource = "crm/contacts"
integrated_account_id = "{ACCOUNT}"
sinks = ["main", "away", "endpoint"]
filter = "name != '{HIDDEN}'"

[[routes]]
resource = "*"
sinks = ["main"]
"""


@pytest.fixture
def seeded(store: Database, store_url: str) -> SeededStore:
    return SeededStore(store, store_url)


def test_the_bundle_contains_no_secret_and_no_record(seeded: SeededStore, tmp_path: Path) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(ROUTES)
    seeded.put("dead", "sink_unavailable")
    # No code: the text of a record may be in it.
    seeded.put("dead", f"cannot store {SECRET_NAME}")
    seeded.put("unrouted", "no_route", resource="hris/employees")
    seeded.put_with_dead_records(reason="too_deep")
    seeded.put_with_dead_records(reason=f"bad name {SECRET_NAME}", count=1)
    settings = {"DATABASE_URL": seeded.url, "ROUTES_FILE": str(routes), **SECRETS}
    hidden_url = seeded.url.replace("postgres@", f"postgres:{HIDDEN}@")
    environment = make_environment(**settings | {"DATABASE_URL": hidden_url}) | {
        "NOTIFY_SECRET": SIGNING_SECRET
    }

    ran = run_command("support-bundle", "--output", "bundle.json", cwd=tmp_path, environment=environment)

    assert ran.returncode == 0, ran.stderr
    file = tmp_path / "bundle.json"
    text = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with seeded.store.engine.connect() as connection:
        ids = [str(row.id) for row in connection.execute(deliveries.select())]
    hidden = (HIDDEN, "whsec_", "Lovelace", ACCOUNT, *ids)
    assert [word for word in hidden if word in text + ran.stdout + ran.stderr] == []
    bundle = json.loads(text)
    assert bundle["format"] == FORMAT
    assert bundle["routes"]["sinks"] == {"main": "sql", "away": "sql", "endpoint": "http"}
    assert [route["resource"] for route in bundle["routes"]["routes"]] == ["crm/contacts", "*"]
    assert {f"{name}=set" for name in (*SECRETS, "DATABASE_URL")} <= set(bundle["settings"])
    assert {each["component"] for each in bundle["checks"]} >= {"settings", "store", "redis", "sink away"}
    failures = {
        (each["state"], each["reason"], each["resource"]): each["number"] for each in bundle["failures"]
    }
    assert failures == {
        ("dead", "sink_unavailable", "crm/contacts"): "1",
        ("dead", "(text)", "crm/contacts"): "1",
        ("unrouted", "no_route", "hris/employees"): "1",
        ("record", "too_deep", "crm/contacts"): "2",
        ("record", "(text)", "crm/contacts"): "1",
    }
    assert bundle["store"]["failed"]["dead"] == 2


def test_invalid_settings_are_in_the_bundle_without_their_values(tmp_path: Path) -> None:
    environment = make_environment(DATABASE_URL=f"mysql://u:{HIDDEN}@h/d", PORT="many")

    ran = run_command("support-bundle", "--output", "-", cwd=tmp_path, environment=environment)

    assert ran.returncode == 0
    assert HIDDEN not in ran.stdout
    problems = json.loads(ran.stdout)["problems"]
    assert {problem.partition(":")[0] for problem in problems} == {"DATABASE_URL", "PORT"}
    assert {"DATABASE_URL", "PORT"} <= set(list_setting_names())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///there/is/none.db", "does not exist yet"),
        (f"postgresql://u:{HIDDEN}@127.0.0.1:1/d", "no server listens"),
    ],
)
def test_a_missing_database_is_a_result(url: str, words: str, tmp_path: Path) -> None:
    environment = make_environment(DATABASE_URL=url)

    ran = run_command("support-bundle", cwd=tmp_path, environment=environment)

    [file] = tmp_path.glob("rapidbridge-support-*.json")
    bundle = json.loads(file.read_text())
    assert ran.returncode == 0, ran.stderr
    assert file.name in ran.stderr
    assert not bundle["ok"]
    assert words in bundle["store"]
    assert HIDDEN not in file.read_text()


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("mine")

    ran = run_command(
        "support-bundle", "--output", "bundle.json", cwd=tmp_path, environment=make_environment()
    )

    assert ran.returncode == 2
    assert "--force" in ran.stderr
    assert (tmp_path / "bundle.json").read_text() == "mine"


def test_the_versions_are_those_of_all_packages_of_a_deployment() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        name: lines
        for name, lines in project["optional-dependencies"].items()
        if name not in ("bench", "test")
    }
    lines = [*project["dependencies"], *(line for each in extras.values() for line in each)]

    assert set(PACKAGES) == {Requirement(line).name for line in lines}
