"""Pages of records in fetch order. Pure: the seed determines every byte."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from app.simulator.event_writer import EventWriter
from app.simulator.plan import Plan
from app.simulator.sample_records import digest_record, make_record

_RECENT_RECORDS = 200


@dataclass(frozen=True, slots=True)
class Page:
    """A page of records, ready to send. digests: by record id, of the newest version in the page."""

    resource: str
    method: str
    body: bytes
    record_count: int
    created_at: str
    digests: Mapping[str, bytes]


def count_pages(plan: Plan, run_number: int) -> int:
    """Return the number of pages in a run that is not stopped."""
    return sum(-(-count // plan.batch_size) for count in _count_records(plan, run_number))


def fetch_pages(
    plan: Plan, run_number: int, ids: Mapping[str, str], rng: Random, writer: EventWriter
) -> Iterator[Page]:
    """Yield the pages of a run, by resource. ids: of the run, job and account, by Truto's names."""
    for (resource, method), count in zip(plan.resources, _count_records(plan, run_number), strict=True):
        versions: defaultdict[int, int] = defaultdict(int)
        fresh = 0
        for start in range(0, count, plan.batch_size):
            records = []
            for _ in range(min(plan.batch_size, count - start)):
                # Pagination by offset returns a record again, in a newer version, if other records move.
                if fresh and rng.random() < plan.changes:
                    index = rng.randrange(max(0, fresh - _RECENT_RECORDS), fresh)
                    versions[index] += 1
                else:
                    index, fresh = fresh, fresh + 1
                revision = f"{ids['sync_job_run_id']}/{versions.get(index, 0)}"
                records.append(make_record(resource, ids["integrated_account_id"], index, revision))
            payload: dict[str, Any] = {
                "resource": resource,
                **plan.variants.place_records(records),
                "meta": {"count": len(records)},
            }
            if plan.v4:
                payload |= {"retryAfter": None}
            else:
                payload = plan.variants.place_method(method, plan.variants.place_ids(ids, payload))
            body, created_at = writer.write_run_event("record", payload)
            digests = {record["id"]: digest_record(record) for record in records}
            yield Page(resource, method, body, len(records), created_at, digests)


def _count_records(plan: Plan, run_number: int) -> list[int]:
    total, kinds = plan.compute_share(plan.records, run_number), len(plan.resources)
    return [total * (place + 1) // kinds - total * place // kinds for place in range(kinds)]
