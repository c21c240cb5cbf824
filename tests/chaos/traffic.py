"""Traffic of a soak: pages of competing records, deletions, errors, unreadable bodies."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from random import Random
from threading import Event
from typing import Any, Protocol

from app.simulator.event_writer import EventClock
from app.truto.webhook_sender import SendOutcome

RESOURCES = ("crm/contacts", "ticketing/tickets")
ACCOUNTS = 5
# Few keys, so that every record competes with older and newer versions of itself.
KEYS = 2000
_MAX_PER_PAGE = 200
# Weights of deliveries by kind; of records that are sound, no object, or hold an invalid number.
_KIND_WEIGHTS = {"page": 94, "deletion": 3, "errors": 2, "unreadable": 1}
_RECORD_WEIGHTS = (99.5, 0.25, 0.25)
# Shares of deliveries that are sent after newer ones, and sent twice.
_LATE, _REPEATED = 0.15, 0.05
_MAX_LATE = 4
_EVENTS = {
    "page": "sync_job_run:record",
    "deletion": "record:deleted",
    "errors": "sync_job_run:record_error",
    "unreadable": "sync_job_run:record",
}
_PADDING = "0123456789abcdef" * 8
# In each record and each record error: it must be in no log line and on no page of the service.
RECORD_CANARY = "zq7-field-of-a-record"


@dataclass(slots=True)
class SentDelivery:
    """One delivery that was sent.

    kind: page, deletion, errors or unreadable. records: (key, number) of the readable records, in order; the key
    is None if the record can be no row. Every number is unique. unreadable, errors: number of records.
    created_at: unique. is_acknowledged: it was answered 200.
    """

    kind: str
    created_at: str = ""
    resource: str = ""
    account: str = ""
    records: list[tuple[int | None, int]] = field(default_factory=list)
    unreadable: int = 0
    errors: int = 0
    is_acknowledged: bool = False


class Sender(Protocol):
    """Sends a body until it is acknowledged or given up."""

    def send(self, body: bytes, /) -> SendOutcome: ...


def compute_digest(body: bytes) -> bytes:
    """Return the digest that identifies a body."""
    return hashlib.sha256(body).digest()[:16]


def build_record(key: int, number: int) -> dict[str, Any]:
    """Return a record, always the same for its number, so that the audit detects a garbled one."""
    email = f"{RECORD_CANARY}@example.com"
    return {"id": f"k{key}", "number": number, "email": email, "padding": _PADDING[number % 16 :]}


class Traffic:
    """The deliveries of all senders to an installation, by the digest of their bodies.

    name: of the installation; its accounts begin with it. acknowledged_count: 200 answers, those to repeats included. acknowledged_at: time of the last one.
    given_up_count: deliveries that no retry brought to a 200.
    """

    def __init__(self, name: str, seed: str, clock: EventClock) -> None:
        self.name = name
        self.sent: dict[bytes, SentDelivery] = {}
        self._seed = seed
        self._clock = clock
        self._numbers = count(1)
        self.acknowledged_count = 0
        self.given_up_count = 0
        self.acknowledged_at = datetime.min.replace(tzinfo=UTC)

    def run(self, place: int, sender: Sender, stopped: Event, records_per_s: float) -> None:
        """Send deliveries one after the other until stopped, at most at the given rate."""
        due_at = time.monotonic()
        for body in self._bodies(Random(f"{self._seed}/{self.name}/sender/{place}"), place):
            if stopped.is_set():
                return
            # Recorded before sending, because it may be stored without an answer.
            sent = self.sent[compute_digest(body)]
            if sender.send(body).is_delivered:
                sent.is_acknowledged = True
                self.acknowledged_count += 1
                self.acknowledged_at = datetime.now(UTC)
            else:
                self.given_up_count += 1
            due_at = max(due_at, time.monotonic() - 1.0) + len(sent.records) / records_per_s
            stopped.wait(max(0.0, due_at - time.monotonic()))

    def _bodies(self, chance: Random, place: int) -> Iterator[bytes]:
        late: list[bytes] = []
        while True:
            body = self._make_body(chance, f"run-{place}")
            if chance.random() < _LATE:
                late.append(body)
                continue
            yield body
            if chance.random() < _REPEATED:
                late.append(body)
            if len(late) > _MAX_LATE:
                yield from late
                late.clear()

    def _make_body(self, chance: Random, run: str) -> bytes:
        resource = chance.choice(RESOURCES)
        account = f"{self.name}-{chance.randrange(ACCOUNTS)}"
        [kind] = chance.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()))
        sent = SentDelivery(kind, self._clock.next_time(), resource, account)
        payload: dict[str, Any] = {"resource": resource, "method": "list", "integrated_account_id": account}
        payload |= {"sync_job_run_id": run, "sync_job_id": "job"}
        if kind == "deletion":
            payload["record"] = self._make_record(chance, sent)
        elif kind == "errors":
            sent.errors = chance.randint(1, 5)
            payload["errors"] = [
                {"resource": resource, "error": {"status": 502, "message": RECORD_CANARY}}
            ] * sent.errors
        else:
            pick = [self._make_record, self._make_non_object, self._make_unreadable]
            picks = chance.choices(pick, _RECORD_WEIGHTS, k=chance.randint(1, _MAX_PER_PAGE))
            payload["records"] = [make(chance, sent) for make in picks]
        about = {"id": f"event-{next(self._numbers)}", "event": _EVENTS[kind], "created_at": sent.created_at}
        body = json.dumps({**about, "payload": payload}).encode()
        if kind == "unreadable":
            body = body[: len(body) // 2]
            sent.records, sent.unreadable = [], 0
        self.sent[compute_digest(body)] = sent
        return body

    def _make_record(self, chance: Random, sent: SentDelivery) -> Any:
        key, number = chance.randrange(KEYS), next(self._numbers)
        sent.records.append((key, number))
        return build_record(key, number)

    def _make_non_object(self, _chance: Random, sent: SentDelivery) -> Any:
        number = next(self._numbers)
        sent.records.append((None, number))
        return number

    def _make_unreadable(self, _chance: Random, sent: SentDelivery) -> Any:
        sent.unreadable += 1
        return {"id": "k1", "email": RECORD_CANARY, "huge": float("inf")}


@contextmanager
def sending(traffic: Traffic, senders: Sequence[Sender], *, records_per_s: float) -> Iterator[None]:
    """Send with each sender in a thread inside the block; at its end, finish current deliveries and retries.

    records_per_s: of each sender.
    """
    stopped = Event()
    with ThreadPoolExecutor(len(senders)) as pool:
        running = [
            pool.submit(traffic.run, place, sender, stopped, records_per_s)
            for place, sender in enumerate(senders)
        ]
        try:
            yield
        finally:
            stopped.set()
        for run in running:
            run.result()
