"""The pages of a simulated run depend on its plan and seed alone."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from app.simulator.event_writer import EventClock, EventWriter, make_job_ids
from app.simulator.pages import Page, count_pages, fetch_pages
from app.simulator.plan import Plan
from app.simulator.sample_records import digest_record, make_record

PLAN = Plan("http://127.0.0.1/", "s", "seed", records=230, batch_size=20)
IDS = {"sync_job_run_id": "run", "sync_job_id": "job", "integrated_account_id": "account"}
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def pages(plan: Plan = PLAN, seed: str = "a") -> list[Page]:
    rng = Random(seed)
    writer = EventWriter(rng, EventClock(lambda: NOW), plan)
    return list(fetch_pages(plan, 0, IDS, rng, writer))


def records(page: Page) -> list[dict[str, Any]]:
    payload: dict[str, Any] = json.loads(page.body)["payload"]
    page_records: list[dict[str, Any]] = payload["records"]
    return page_records


def test_pages_contain_every_record_once_in_fetch_order() -> None:
    fetched = pages()

    ids = [(page.resource, record["id"]) for page in fetched for record in records(page)]
    assert len(ids) == len(set(ids)) == sum(page.record_count for page in fetched) == 230
    assert [page.resource for page in fetched] == [
        resource for resource, _ in PLAN.resources for _ in range(len(fetched) // 4)
    ]
    assert len(fetched) == count_pages(PLAN, 0)


def test_the_same_seed_gives_the_same_bytes() -> None:
    plan = Plan("http://127.0.0.1/", "s", "seed", records=230, batch_size=20, changes=0.3)

    assert pages(plan) == pages(plan)
    assert pages(plan) != pages(plan, seed="b")


def test_a_page_names_its_run_job_account_resource_and_method() -> None:
    [page, *_] = pages()

    envelope = json.loads(page.body)
    job = make_job_ids(PLAN)
    assert (envelope["webhook_id"], envelope["environment_id"]) == (job.webhook_id, job.environment_id)
    assert envelope["created_at"] == page.created_at
    assert {name: envelope["payload"][name] for name in (*IDS, "resource", "method")} == {
        **IDS,
        "resource": "crm/contacts",
        "method": "list",
    }


def test_a_page_has_the_digest_of_the_newest_version_of_its_records() -> None:
    for page in pages(Plan("http://127.0.0.1/", "s", "seed", records=300, batch_size=50, changes=0.6)):
        newest = {record["id"]: digest_record(record) for record in records(page)}
        assert page.digests == newest


def test_pages_are_generated_one_at_a_time() -> None:
    plan = Plan("http://127.0.0.1/", "s", "seed", records=1500, batch_size=20)
    rng = Random("a")
    writer = EventWriter(rng, EventClock(lambda: NOW), plan)

    tracemalloc.start()
    sent_bytes = sum(len(page.body) for page in fetch_pages(plan, 0, IDS, rng, writer))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert sent_bytes > 1_500_000
    assert peak_bytes < 500_000


def test_a_digest_depends_on_the_content_and_not_on_its_order() -> None:
    record = make_record("crm/contacts", "account", 4, "1")

    assert digest_record(dict(reversed(record.items()))) == digest_record(record)
    assert digest_record({**record, "name": "other"}) != digest_record(record)
    assert len(digest_record(record)) == 8


def test_records_contain_unescaped_non_ascii_text() -> None:
    body = b"".join(page.body for page in pages())

    assert all(text.encode() in body for text in ("Дарья", "李雷", "🙂"))
    assert b"\\u" not in body


def test_event_times_increase_even_if_the_clock_stops_or_goes_back() -> None:
    times = iter([NOW, NOW, NOW - timedelta(hours=1), NOW + timedelta(microseconds=2900)])
    clock = EventClock(lambda: next(times))

    assert [clock.next_time() for _ in range(4)] == [
        "2026-11-24T00:00:00.000Z",
        "2026-11-24T00:00:00.001Z",
        "2026-11-24T00:00:00.002Z",
        "2026-11-24T00:00:00.003Z",
    ]
