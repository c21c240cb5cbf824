"""Piles deliveries up in the inbox and has workers drain them, as fast as they can."""

import itertools
import json
import time
from datetime import UTC, datetime, timedelta

from app.redis.queue import IDS_PER_JOB, DeliveryQueue
from app.simulator.records import make_record
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.store.pending import PendingDeliveries
from app.truto.events import RECORD_EVENT, Envelope
from app.web.enqueuer import NewDelivery
from benchmarks.cpu import Meter
from benchmarks.stage import BenchmarkEnvironment
from tests.support.waiting import wait_until

RECORDS = 100
# The sweeper wakes what is due and would share the work of waking: nothing is due for as long as this takes.
_NOT_YET = timedelta(hours=1)
_LONGEST_S = 600

_numbers = itertools.count()


def pile_up(environment: BenchmarkEnvironment, deliveries: int) -> list[NewDelivery]:
    """Store deliveries of records that no sink has yet; wake nobody."""
    arrivals = [make_delivery(next(_numbers), RECORDS) for _ in range(deliveries)]
    return [NewDelivery(receipt.delivery_id) for receipt in Inbox(environment.store).put(arrivals)]


def drain(
    environment: BenchmarkEnvironment, waiting: list[NewDelivery], meter: Meter
) -> tuple[float, dict[str, float]]:
    """Wake the workers, wait until all is settled; return the seconds that it took, and those of CPU."""
    worklist = PendingDeliveries(environment.store)
    began = time.perf_counter()
    DeliveryQueue(environment.redis).enqueue(waiting)
    wait_until(
        lambda: worklist.find_oldest_received_at() is None, timeout_s=_LONGEST_S, what="an empty inbox"
    )
    return time.perf_counter() - began, meter.read_s()


def count_deliveries_for(seconds: float, *, deliveries_per_s: float, workers: int) -> int:
    """Return how many deliveries keep workers busy for about so long: as many jobs for each of them."""
    jobs = seconds * deliveries_per_s / IDS_PER_JOB
    return max(1, round(jobs / workers)) * workers * IDS_PER_JOB


def make_delivery(number: int, records: int) -> IncomingDelivery:
    """Make a verified delivery; another number means other records."""
    first = number * records
    made = [make_record("crm/contacts", "account", first + place, "1") for place in range(records)]
    payload = {"resource": "crm/contacts", "method": "list", "sync_job_run_id": "r", "records": made}
    event = {"id": str(number), "event": RECORD_EVENT, "payload": payload}
    return IncomingDelivery(
        json.dumps(event, ensure_ascii=False).encode(),
        b"%d" % number,
        datetime.now(UTC) + _NOT_YET,
        Envelope(
            event_id=str(number),
            event=RECORD_EVENT,
            sync_job_run_id="r",
            integrated_account_id="account",
            resource="crm/contacts",
            method="list",
        ),
    )
