"""The steps that `benchmarks.quick` counts; runs under callgrind."""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.garbage_collection import freeze_start_objects
from app.simulator.sample_records import make_record
from app.store.compression import compress
from app.truto.events import RECORD_EVENT, read_envelope
from app.truto.records import read_records
from app.truto.signature import parse_signature_header, sign, verify

# The C function of `os.getloadavg`, which nothing else calls: callgrind's counts begin anew at each call.
MARK = "getloadavg"
SECRET = "0b6ad2b7-5cf4-4b19-9d0e-5d9e7ad0a4a1"
_RESOURCE, RUN = "crm/contacts", "r"
_RECORDS = 50
# psycopg prepares a statement at its sixth execution.
_WARM_UP_CALLS, _CALLS = 7, 4


@dataclass(frozen=True, slots=True)
class Step:
    """A step. prepare: returns a number of calls, each for other deliveries. deliveries: of each call."""

    prepare: Callable[[int], Sequence[Callable[[], object]]]
    deliveries: int


def make_body(number: int, run: str = RUN) -> bytes:
    """Return a body of 50 records; another number means another delivery of other records."""
    # Made once: to make the records takes longer than a step.
    return _make_template(run).replace(b'"id": "', b'"id": "%d-' % number)


@cache
def _make_template(run: str) -> bytes:
    page = [make_record(_RESOURCE, "account", index, "1") for index in range(_RECORDS)]
    payload: dict[str, Any] = {"sync_job_run_id": run, "integrated_account_id": "account"}
    payload |= {"resource": _RESOURCE, "method": "list", "records": page}
    return json.dumps({"id": "e", "event": RECORD_EVENT, "payload": payload}, ensure_ascii=False).encode()


def _build_steps() -> Mapping[str, Step]:
    """Return the steps without a server."""
    body = make_body(0)
    header = sign(body, SECRET)
    return {
        "verify": _repeat(lambda: verify(body, parse_signature_header(header), [SECRET])),
        "envelope": _repeat(lambda: read_envelope(body)),
        "compress": _repeat(lambda: compress([body])),
        "parse": _repeat(lambda: read_records(body)),
    }


def _repeat(call: Callable[[], object]) -> Step:
    return Step(lambda count: [call] * count, 1)


def main(database_url: str, redis_url: str, *names: str) -> None:
    """Call steps, each between two marks; print each name and the number of its deliveries."""
    steps = _build_steps()
    if not steps.keys() >= set(names):
        # Imported here: a single step of the others begins three times as fast.
        from benchmarks.quick_services import ServiceSteps  # noqa: PLC0415

        steps = {**steps, **ServiceSteps(database_url, redis_url).build_steps()}
    freeze_start_objects()
    for name in names:
        calls = steps[name].prepare(_WARM_UP_CALLS + _CALLS)
        for call in calls[:_WARM_UP_CALLS]:
            call()
        gc.collect()
        os.getloadavg()
        for call in calls[_WARM_UP_CALLS:]:
            call()
        os.getloadavg()
        print(name, steps[name].deliveries * _CALLS, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
