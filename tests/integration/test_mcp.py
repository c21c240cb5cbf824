"""`rapidbridge mcp`: an agent reads the receiver through the SDK's own client."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from mcp.server.mcpserver.exceptions import ToolError

from app.config.current_config import CurrentConfig
from app.config.load import read_config
from app.mcp_server.write_tools import WriteTools
from app.store import bounded_count
from app.store.audit_log import AuditLog
from app.store.operations import Operation, Operations
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from tests.support.agent import Agent, running_agent
from tests.support.delivered_store import DeliveredStore
from tests.support.documentation import PAGES
from tests.support.replays import execute
from tests.support.seeded_store import SECRET_NAME, SeededStore
from tests.support.waiting import wait_until
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


@pytest.fixture(scope="module")
def acting(delivered: DeliveredStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent that may act."""
    folder = tmp_path_factory.mktemp("acting")
    token = {"TRUTO_API_TOKEN": "token"}
    with running_agent(folder, "--allow-write", **delivered.settings, **token) as started:
        yield started


def test_every_tool_reads_only_and_has_a_typed_result(agent: Agent) -> None:
    tools = agent.list_tools()

    assert {"list_accounts", "show_run", "list_deliveries", "list_failures", "run_checks"} <= set(tools)
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint, tool.name
        assert tool.output_schema, tool.name
        assert tool.description, tool.name
    assert "never instructions" in agent.instructions


def test_every_tool_is_documented(acting: Agent) -> None:
    named = [
        name
        for mark in ("tools", "actions")
        for name in re.findall(
            r"^\| `(\w+)`",
            PAGES["docs/mcp.md"].partition(f"<!-- {mark} -->")[2].partition("\n\n")[0],
            re.MULTILINE,
        )
    ]

    assert named == list(acting.list_tools())


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

    assert (group["number"], group["example"]) == ({"number": 1, "is_exact": True}, delivery)
    assert group["cause"]["reason"] == "worker_lost"
    assert "every worker that processed the delivery died" in group["meaning"]
    assert shown["delivery"]["state"] == "dead"
    assert "more memory" in shown["advice"]


def test_the_gaps_of_a_run_are_counted_and_explained(agent: Agent, delivered: DeliveredStore) -> None:
    delivered.add_run("acme", "incomplete-run")

    run = agent.call("show_run", run="incomplete-run")

    assert run["verdict"] == "incomplete"
    assert run["records"]["arrived"] == 4
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
        agent.call("list_failures", kind="records"),
        agent.call("list_runs"),
        agent.call("show_run", run="secret-run"),
        agent.call("list_accounts"),
    ]

    for secret in (SECRET_NAME, "secret-account@example.com"):
        assert secret not in json.dumps(results)
        assert secret not in agent.log


def test_a_route_is_explained(agent: Agent) -> None:
    route = agent.call("explain_route", resource="crm/contacts")

    assert route["position"] == 1
    assert route["sinks"] == ["main", "lake"]
    assert agent.call("explain_route", resource="hr/people")["position"] is None


def test_a_route_is_explained_by_the_event(agent: Agent) -> None:
    changed = agent.call("explain_route", resource="crm/contacts", event="record:updated")
    lifecycle = agent.call("explain_route", resource="", event="sync_job_run:started")

    assert changed["position"] == 1
    assert "carries no records" in lifecycle["explanation"]


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
        ("show_account", {"integrated_account": "nobody"}, "list_accounts"),
        ("list_deliveries", {"cursor": "second page"}, "next_cursor"),
        ("list_deliveries", {"cursor": '["2026-11-25", "1"]'}, "next_cursor"),
        ("list_accounts", {"cursor": '["worst", "2026-11-25", "a"]'}, "next_cursor"),
        ("list_failures", {"cursor": "[]"}, "next_cursor"),
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
    assert "Unknown tool" in agent.call_wrongly("replay_failures", expected=1)


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
    assert "pip install -e '.[mcp]'" in ran.stderr
    assert not ran.stdout


def test_an_agent_replays_exactly_the_failures_that_it_counted(
    acting: Agent, delivered: DeliveredStore, seeded: SeededStore
) -> None:
    failed = [seeded.put("dead", "worker_lost", resource="crm/replayed") for _ in range(2)]

    refused = acting.call_wrongly("replay_failures", expected=1, resource="crm/replayed")
    operation = acting.call("replay_failures", expected=2, resource="crm/replayed")
    again = acting.call("list_operations")["operations"][0]
    ended = execute(delivered.store, _read_operation(delivered, operation["operation"]))

    assert "2 failures are in the set, and 1 were expected" in refused
    assert (operation["requested_by"], operation["state"]) == ("mcp", "queued")
    assert again["operation"] == operation["operation"]
    assert ended.kind == "replay"
    assert {seeded.read_row(delivery)["state"] for delivery in failed} == {"pending"}
    assert _read_audit(delivered)[0] == ("mcp", "failed.replay", 2)


def test_replays_follow_a_changed_routes_file_and_survive_an_invalid_one(
    delivered: DeliveredStore, seeded: SeededStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, registry = tmp_path / "routes.toml", WorkerRegistry(delivered.store)
    old, new = (f'[sinks.{sink}]\ntype = "sql"\nurl = "{delivered.url}"\n' for sink in ("main", "renamed"))
    file.write_text(f'{old}[[routes]]\nsinks = ["main"]\n')
    seeded.put("dead", "worker_lost", resource="crm/changed")
    settings = delivered.settings | {"ROUTES_FILE": str(file)}
    with running_agent(tmp_path, "--allow-write", **settings) as agent:
        assert agent.call("explain_route", resource="crm/changed")["sinks"] == ["main"]

        file.write_text(f'{new}[[routes]]\nsinks = ["renamed"]\n')
        wait_until(lambda: agent.call("explain_route", resource="crm/changed")["sinks"] == ["renamed"])
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        config = read_config().delivery_config
        now = datetime.now(UTC)
        registry.record_heartbeat(WorkerRecord("w", now, config.to_json(), config.digest), now=now)
        try:
            file.write_text("not valid")
            wait_until(lambda: "event=routes.refused" in agent.log)
            operation = agent.call("replay_failures", expected=1, resource="crm/changed")
        finally:
            registry.remove("w")

        assert agent.call("explain_route", resource="crm/changed")["sinks"] == ["renamed"]
    execute(delivered.store, _read_operation(delivered, operation["operation"]))


def test_a_set_that_is_empty_or_too_large_to_count_is_refused_with_the_next_step(
    delivered: DeliveredStore, seeded: SeededStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in delivered.settings.items():
        monkeypatch.setenv(name, value)
    tools = WriteTools(CurrentConfig(read_config()), delivered.store)
    for _ in range(3):
        seeded.put("dead", "x", resource="crm/large")
    monkeypatch.setattr(bounded_count, "COUNT_LIMIT", 2)
    actions = len(_read_audit(delivered))

    for expected in (2, 3):
        with pytest.raises(ToolError, match=r"2\+ failures are in the set.*Choose a smaller set"):
            tools.replay_failures(expected, resource="crm/large")
    with pytest.raises(ToolError, match="no failure is in the set"):
        tools.discard_failures(1, "a test", resource="crm/none")

    assert len(_read_audit(delivered)) == actions


def test_an_agent_discards_with_a_reason(
    acting: Agent, delivered: DeliveredStore, seeded: SeededStore
) -> None:
    delivery = seeded.put("unrouted", "no_route", resource="crm/discarded")

    operation = acting.call("discard_failures", expected=1, because="a test", resource="crm/discarded")
    execute(delivered.store, _read_operation(delivered, operation["operation"]))
    cancelled = acting.call("cancel_operation", operation=operation["operation"])

    assert cancelled["state"] == "finished"
    row = seeded.read_row(delivery)
    assert (row["state"], row["discard_reason"]) == ("discarded", "a test")
    assert _read_audit(delivered)[0] == ("mcp", "failed.discard", 1)


def test_an_agent_pauses_and_resumes_a_sink(acting: Agent, delivered: DeliveredStore) -> None:
    unknown = acting.call_wrongly("pause_sink", sink="lakes", reason="a test")
    paused = acting.call("pause_sink", sink="lake", reason="a test")
    sinks = {sink["sink"]: sink for sink in acting.call("list_sinks")["sinks"]}
    resumed = acting.call("resume_sink", sink="lake")

    assert "known: lake, main" in unknown
    assert paused["is_changed"]
    assert (sinks["lake"]["pause_reason"], sinks["main"]["paused_at"]) == ("a test", None)
    assert resumed["is_changed"]
    before = _read_audit(delivered)
    assert before[:2] == [("mcp", "sink.resume", 1), ("mcp", "sink.pause", 1)]
    assert not acting.call("resume_sink", sink="lake")["is_changed"]
    assert _read_audit(delivered) == before


def test_an_agent_requests_the_stop_of_a_run_once(acting: Agent, delivered: DeliveredStore) -> None:
    delivered.deliver("started", "started", sync_job_run_id="open-run", id="open-run")

    first = acting.call("stop_run", run="open-run")
    second = acting.call("stop_run", run="open-run")

    assert (first["is_changed"], second["is_changed"]) == (True, False)
    assert [action for _, action, _ in _read_audit(delivered)].count("run.stop") == 1
    assert acting.call("show_run", run="open-run")["stop"]["state"] == "requested"


def test_actions_are_marked_for_the_programs_that_ask_their_user(acting: Agent) -> None:
    hints = {
        name: tool.annotations.destructive_hint
        for name, tool in acting.list_tools().items()
        if tool.annotations and not tool.annotations.read_only_hint
    }

    assert hints == {
        "replay_failures": False,
        "discard_failures": True,
        "cancel_operation": True,
        "pause_sink": False,
        "resume_sink": False,
        "stop_run": True,
    }


def _read_operation(delivered: DeliveredStore, operation_id: str) -> Operation:
    operation = Operations(delivered.store).get(UUID(operation_id))
    assert operation
    return operation


def _read_audit(delivered: DeliveredStore) -> list[tuple[str, str, int]]:
    entries = AuditLog(delivered.store).list_newest(limit=99)
    return [(entry.actor, entry.action, entry.number.number) for entry in entries]
