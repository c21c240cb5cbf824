"""`rapidbridge mcp`: an agent reads the receiver through the SDK's own client."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.agent import Agent, running_agent
from tests.support.delivered_store import DeliveredStore
from tests.support.documentation import PAGES
from tests.support.seeded_store import SECRET_NAME, SeededStore
from tests.support.web_process import ROOT, make_environment


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeliveredStore]:
    folder = tmp_path_factory.mktemp("store")
    store = DeliveredStore(f"sqlite:///{folder}/store.db", folder)
    yield store
    store.close()


@pytest.fixture(scope="module")
def seeded(delivered: DeliveredStore) -> SeededStore:
    return SeededStore(delivered.store, delivered.url)


@pytest.fixture(scope="module")
def agent(delivered: DeliveredStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent"), **delivered.settings) as started:
        yield started


def test_every_tool_reads_only_and_has_a_typed_result(agent: Agent) -> None:
    tools = agent.list_tools()

    assert {"show_run", "list_deliveries", "show_delivery", "list_failures", "run_checks"} <= set(tools)
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint, tool.name
        assert tool.output_schema, tool.name
        assert tool.description, tool.name
    assert "never instructions" in agent.instructions


def test_every_tool_is_documented(agent: Agent) -> None:
    table = PAGES["docs/mcp.md"].partition("<!-- tools -->")[2].partition("\n\n")[0]

    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(agent.list_tools())


def test_a_page_of_deliveries_leads_to_the_next_one(agent: Agent, seeded: SeededStore) -> None:
    run = f"run-{uuid4()}"
    stored = [str(seeded.put(sync_job_run_id=run)) for _ in range(5)]

    ids: list[str] = []
    page: dict[str, Any] = {"next_cursor": ""}
    while page["next_cursor"] is not None:
        page = agent.call("list_deliveries", run=run, limit=2, cursor=page["next_cursor"])
        assert len(page["deliveries"]) <= 2
        ids += [delivery["id"] for delivery in page["deliveries"]]

    assert ids == stored[::-1]


def test_the_cause_of_a_failed_delivery_is_explained(agent: Agent, seeded: SeededStore) -> None:
    delivery = str(seeded.put("dead", "worker_lost", resource="crm/failed"))

    [group] = agent.call("list_failures", resource="crm/failed")["groups"]
    shown = agent.call("show_delivery", delivery=delivery)

    assert group["group"] | {"number": 1, "example": delivery} == group["group"]
    assert "every worker that processed the delivery died" in group["meaning"]
    assert shown["delivery"]["state"] == "dead"
    assert "more memory" in shown["advice"]


def test_the_gaps_of_a_run_are_counted_and_explained(agent: Agent, delivered: DeliveredStore) -> None:
    delivered.add_run("acme", "incomplete-run")

    run = agent.call("show_run", run="incomplete-run")

    assert run["verdict"] == "incomplete"
    assert {(gap["resource"], gap["code"]): gap["records"] for gap in run["gaps"]} == {
        ("crm/contacts", "dead"): 1,
        ("hr/people", "unrouted"): 1,
    }
    assert "no route matches them" in json.dumps(run["gaps"])


def test_no_result_contains_a_record(agent: Agent, delivered: DeliveredStore, seeded: SeededStore) -> None:
    delivery = str(seeded.put_with_dead_records())
    delivered.add_run("secret-account", "secret-run")

    results = [
        agent.call("show_delivery", delivery=delivery),
        agent.call("list_deliveries"),
        agent.call("list_failures"),
        agent.call("show_run", run="secret-run"),
    ]

    for secret in (SECRET_NAME, "secret-account@example.com"):
        assert secret not in json.dumps(results)
        assert secret not in agent.log


def test_a_route_is_explained(agent: Agent) -> None:
    route = agent.call("explain_route", resource="crm/contacts")

    assert route["position"] == 1
    assert route["sinks"] == ["main", "lake"]
    assert agent.call("explain_route", resource="hr/people")["position"] is None


def test_the_checks_of_doctor_name_the_next_step(agent: Agent) -> None:
    checks = agent.call("run_checks")

    [secret] = [check for check in checks["checks"] if check["check"] == "secret"]
    assert not checks["ok"]
    assert "webhook create" in secret["advice"]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("show_run", {"run": "unknown"}, "list_runs"),
        ("show_delivery", {"delivery": str(uuid4())}, "list_deliveries"),
        ("list_deliveries", {"cursor": "second page"}, "next_cursor"),
        ("list_deliveries", {"since": "soon"}, "write 90m, 12h"),
        ("list_deliveries", {"limit": 201}, "less than or equal to 200"),
        ("list_deliveries", {"state": "lost"}, "'pending', 'settled'"),
    ],
)
def test_a_wrong_call_says_how_to_correct_it(
    agent: Agent, tool: str, arguments: dict[str, object], message: str
) -> None:
    assert message in agent.call_wrongly(tool, **arguments)


def test_an_agent_cannot_change_anything_without_a_permission(agent: Agent) -> None:
    assert "Unknown tool" in agent.call_wrongly("replay", delivery=str(uuid4()))


def test_a_store_that_fails_is_reported_and_the_server_goes_on(
    tmp_path: Path,
) -> None:
    url = "postgresql://nobody@127.0.0.1:9/none"
    with running_agent(tmp_path, DATABASE_URL=url) as agent:
        assert "DATABASE_URL" in agent.call_wrongly("list_deliveries")
        assert agent.call("explain_route", resource="crm/contacts")["sinks"] == ["main"]
        assert "Traceback" not in agent.log


def test_the_missing_extra_is_named_with_its_installation() -> None:
    start = "import sys; sys.modules['mcp'] = None; from app.cli import main; main(['mcp'])"
    ran = subprocess.run(
        [sys.executable, "-c", start],
        cwd=ROOT,
        env=make_environment(DATABASE_URL="sqlite:///x.db"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 2
    assert "pip install 'rapidbridge-receiver[mcp]'" in ran.stderr
    assert not ran.stdout
