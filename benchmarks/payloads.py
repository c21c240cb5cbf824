"""The same records in every form that a benchmark sends, loads or stores."""

import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from app.config.routes import Route
from app.simulator.sample_records import make_record
from app.sinks.base import Batch
from app.store.models import IncomingDelivery
from app.truto.events import RECORD_EVENT, Envelope
from app.truto.signature import sign
from app.truto.target_url import WEBHOOK_PATH
from tests.support.sent_records import send
from tests.support.web_process import SECRET

RESOURCE = "crm/contacts"
# The SQL sink's name for the resource's table; the loaders are configured to use the same.
TABLE = "crm_contacts"
_ACCOUNT = "5f0c1f3e-5a6c-4a55-8d0a-2f1f5d9f3c11"
_RUN = "0d7f4f1b-6f0e-4a0f-9a52-3b9d2e6f4c22"
# The feeder enqueues due deliveries and would share the work: nothing is due during a measurement. A delivery
# that is due in more than an hour would count as held.
_DUE_AFTER = timedelta(minutes=30)


_IDS = {"sync_job_run_id": "r", "integrated_account_id": "account"}


class RequestStream:
    """Endless signed requests, each with another id, of a number of records of about 1 KB.

    The id comes last, so that the signature of all before it is computed once: the sender shares the machine.
    """

    _numbers = itertools.count(time.time_ns())

    def __init__(self, path: str, records: int) -> None:
        page = [make_record(RESOURCE, "account", index, "1") for index in range(records)]
        payload = {**_IDS, "resource": RESOURCE, "method": "list", "records": page}
        text = json.dumps({"event": RECORD_EVENT, "payload": payload}, ensure_ascii=False)
        self._beginning = text[:-1].encode()
        self._mac = hmac.new(SECRET.encode(), self._beginning, hashlib.sha256)
        self._path = path

    def bodies(self) -> Iterator[bytes]:
        """Yield the bodies alone."""
        for request in self:
            yield request.partition(b"\r\n\r\n")[2]

    def __iter__(self) -> Iterator[bytes]:
        while True:
            end = f', "id": "{next(self._numbers)}"}}'.encode()
            mac = self._mac.copy()
            mac.update(end)
            head = (
                f"POST {self._path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"X-Truto-Signature: format=sha256,v={mac.hexdigest()}\r\n"
                # The header that other receivers expect.
                f"X-Hub-Signature-256: sha256={mac.hexdigest()}\r\n"
                f"Content-Length: {len(self._beginning) + len(end)}\r\n\r\n"
            )
            yield head.encode() + self._beginning + end


def make_requests(record_count: int, batch_size: int) -> list[bytes]:
    """Return the signed HTTP requests that bring a number of records, `batch_size` in each."""
    return [_make_request(records) for records in _split_into_pages(record_count, batch_size)]


def make_batches(record_count: int, batch_size: int) -> Iterator[Batch]:
    """Yield the same deliveries as the batches that a worker passes to a sink."""
    for page in _split_into_pages(record_count, batch_size):
        now = datetime.now(UTC)
        sent = send(
            page,
            delivery_id=uuid4(),
            received_at=now,
            version=now,
            resource=RESOURCE,
            account=_ACCOUNT,
            job="",
            run=_RUN,
        )
        yield sent.build_batch(Route(sinks=("main",)))


def make_delivery(number: int, records: int) -> IncomingDelivery:
    """Return a verified delivery that is not due yet; another number means other records."""
    first = number * records
    page = [make_record(RESOURCE, "account", first + index, "1") for index in range(records)]
    payload = {**_IDS, "resource": RESOURCE, "method": "list", "records": page}
    event = {"id": str(number), "event": RECORD_EVENT, "payload": payload}
    return IncomingDelivery(
        json.dumps(event, ensure_ascii=False).encode(),
        b"%d" % number,
        datetime.now(UTC) + _DUE_AFTER,
        Envelope(
            event_id=str(number),
            event=RECORD_EVENT,
            sync_job_run_id="r",
            integrated_account_id="account",
            resource=RESOURCE,
            method="list",
        ),
    )


def _make_records(count: int) -> list[dict[str, Any]]:
    return [make_record(RESOURCE, _ACCOUNT, index, "1") for index in range(count)]


def _split_into_pages(record_count: int, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    records = _make_records(record_count)
    yield from (records[start : start + batch_size] for start in range(0, record_count, batch_size))


def _make_request(records: Sequence[Mapping[str, Any]]) -> bytes:
    payload = {
        "resource": RESOURCE,
        "method": "list",
        "integrated_account_id": _ACCOUNT,
        "sync_job_run_id": _RUN,
        "records": records,
    }
    created_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    event = {"id": str(uuid4()), "event": RECORD_EVENT, "payload": payload, "created_at": created_at}
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    head = (
        f"POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Truto-Signature: {sign(body, SECRET)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
