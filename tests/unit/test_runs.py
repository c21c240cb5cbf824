"""A run is read whole, whatever else Truto puts into it."""

import json
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest

from app.truto.runs import (
    RecordCounts,
    is_final,
    read_resource_stats,
    read_run,
    status_from_event,
    status_rank,
)

RUN: dict[str, Any] = {
    "id": "4a4de828-f4db-4c9e-adfd-434e0864c3c7",
    "args": {"project_slug": "x"},
    "resources": [{"resource": "crm/contacts", "method": "list", "loop_on": "{{args.ids}}", "persist": True}],
    "sync_job_id": "j",
    "integrated_account_id": "a",
    "status": "running",
    "daemon_id": "default",
    "daemon_group_key": "default",
    "webhook_id": "w",
    "error_handling": "ignore",
    "ignore_previous_run": False,
    "version": 1,
    "resource_stats": {"crm/contacts": {"list": {"fetched": 100, "persisted": 90}}},
    "created_at": "2021-08-10T10:00:00.000Z",
    "updated_at": "2021-08-10 10:00:10",
    "started_at": "2021-08-10T10:00:01.000Z",
    "finished_at": None,
    "sync_job": {
        "id": "j",
        "integration_name": "zendesk",
        "args_schema": {"a": {"type": "string"}},
        "resources": [],
        "environment_id": "n",
        "created_at": "2021-08-10T10:00:00.000Z",
        "updated_at": "2021-08-10T10:00:00.000Z",
    },
}


def test_every_documented_field_is_read() -> None:
    run = read_run(RUN)

    assert run is not None
    assert run.id == RUN["id"]
    assert run.args == {"project_slug": "x"}
    assert run.resources == RUN["resources"]
    assert (run.sync_job_id, run.integrated_account_id, run.status, run.webhook_id) == (
        "j",
        "a",
        "running",
        "w",
    )
    assert (run.daemon_id, run.daemon_group_key, run.error_handling) == ("default", "default", "ignore")
    assert (run.ignore_previous_run, run.version) == (False, 1)
    assert run.created_at == datetime(2021, 8, 10, 10, tzinfo=UTC)
    assert run.updated_at == datetime(2021, 8, 10, 10, 0, 10, tzinfo=UTC)
    assert run.finished_at is None
    assert run.sync_job is not None
    assert (run.sync_job.integration_name, run.sync_job.environment_id) == ("zendesk", "n")
    assert read_resource_stats(run.resource_stats) == {("crm/contacts", "list"): RecordCounts(100, 90)}


def test_unknown_fields_and_statuses_are_kept() -> None:
    run = read_run({**RUN, "status": "paused", "new_field": {"a": 1}, "sync_job": {"id": "j", "also_new": 2}})

    assert run is not None
    assert run.status == "paused"
    assert run.model_dump()["new_field"] == {"a": 1}
    assert run.model_dump()["sync_job"]["also_new"] == 2


@pytest.mark.parametrize("field", sorted(RUN.keys() - {"id"}))
@pytest.mark.parametrize("odd", [None, "text", 7, True, [], {}, [1], {"a": 1}])
def test_one_odd_field_does_not_cost_the_run(field: str, odd: object) -> None:
    run = read_run({**RUN, field: odd})

    assert run is not None
    assert run.id == RUN["id"]


def test_a_run_can_always_be_written_again() -> None:
    deep: Any = "bottom"
    for _ in range(400):
        deep = [deep]

    odd = {"new": "\ud800", "\ud800": 1, "\ud801 2": {"a": deep}, "status": "stop\ud800ped"}
    run = read_run({**RUN, "args": {"a": deep}, **odd})

    assert run is not None
    written = json.loads(run.model_dump_json())
    assert (written["id"], written["args"], written["sync_job_id"]) == (RUN["id"], {}, "j")
    assert written["resource_stats"] == RUN["resource_stats"]
    assert "new" not in written


def test_a_long_status_is_cut() -> None:
    assert status_from_event("updated", read_run({**RUN, "status": "x" * 3_000_000})) == "x" * 200


@pytest.mark.parametrize("value", [None, [], "text", {}, {"id": None}, {"id": []}, {"id": ""}])
def test_what_has_no_id_is_no_run(value: object) -> None:
    assert read_run(value) is None


@pytest.mark.parametrize(
    ("action", "status", "stands_for"),
    [
        ("created", "created", "created"),
        ("started", "created", "running"),
        ("started", "running", "running"),
        ("updated", "running", "running"),
        ("updated", "stopped", "stopped"),
        ("stopped", "running", "stopped"),
        ("stopped", None, "stopped"),
        ("completed", "running", "completed"),
        ("failed", "failed", "failed"),
        ("rate_limited", "running", "rate_limited"),
        ("rate_limited", "stopped", "stopped"),
        ("deleted", "completed", "deleted"),
        ("updated", "paused", "paused"),
        ("updated", None, ""),
    ],
)
def test_what_an_event_says_of_its_run(action: str, status: str | None, stands_for: str) -> None:
    assert status_from_event(action, read_run({"id": "r", "status": status})) == stands_for


def test_a_final_status_outranks_all_before_it() -> None:
    for early, late in [
        ("", "created"),
        ("created", "running"),
        ("running", "failed"),
        ("paused", "stopped"),
    ]:
        assert status_rank(early) < status_rank(late)
    assert [
        s for s in ("created", "running", "rate_limited", "completed", "failed", "stopped") if is_final(s)
    ] == [
        "completed",
        "failed",
        "stopped",
    ]
    assert all(
        status_rank(a) == status_rank(b) for a, b in permutations(("completed", "failed", "stopped"), 2)
    )


@pytest.mark.parametrize(
    "odd", [None, [], "text", {"a": 1}, {"a": {"b": 1}}, {"a": {"b": {"fetched": "many"}}}]
)
def test_odd_stats_count_nothing(odd: Any) -> None:
    assert all(stats == RecordCounts(None, None) for stats in read_resource_stats(odd).values())
