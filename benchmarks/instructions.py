"""Instructions that hot steps take, for one record: `python -m benchmarks.instructions [--records N] …`.

Counted by callgrind (`apt-get install valgrind`), so that they come out the same to a few parts in 100,000
however busy the machine is: what tells a change of 1 % from noise. Only code on the CPU is counted, no system
calls, no waiting; and all instructions count alike, so this compares a step with itself, not with another.
Takes a minute or two.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from app.config.routes import build_default_routes
from app.sinks.base import Batch, Record
from app.sinks.sql.rows import make_rows
from app.truto.events import read_envelope
from app.truto.records import read_records
from app.truto.signature import parse_signature_header, sign, verify
from benchmarks import results
from benchmarks.drain import make_delivery
from tests.support.web_process import SECRET

_CALLS = 20
_COUNTED = re.compile(r"Collected : (\d+)")


def repeat(step: str, records: int, calls: int) -> None:
    """Do a step so often; what runs under callgrind."""
    action = _steps(records)[step]
    for _ in range(calls):
        action()


def _steps(records: int) -> dict[str, Callable[[], object]]:
    body = make_delivery(0, records).body
    signature = sign(body, SECRET)
    found = read_records(body)
    assert found is not None
    now = datetime.now(UTC)
    kept = [Record(ordinal, value) for ordinal, value in found.records]
    batch = Batch(UUID(int=0), now, now, "crm/contacts", "list", "account", "", "r", kept, is_deletion=False)
    [route] = build_default_routes("sqlite:///x").routes
    return {
        "verify the signature": lambda: verify(body, parse_signature_header(signature), [SECRET]),
        "read the envelope": lambda: read_envelope(body),
        "compress the body": lambda: zlib.compress(body, 1),
        "read the records": lambda: read_records(body),
        "make rows of them": lambda: make_rows(batch, route),
    }


def _count(step: str, records: int, calls: int) -> int:
    code = f"from benchmarks.instructions import repeat; repeat({step!r}, {records}, {calls})"
    callgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    # The order of sets of strings would change from run to run.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [*callgrind, sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    counted = _COUNTED.search(ran.stderr)
    assert counted, ran.stderr
    return int(counted[1])


def main() -> None:
    """Print a table of steps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--records", type=int, default=50, help="in a body (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        parser.error("valgrind is not installed: apt-get install valgrind")
    print(f"\n{options.records} records\n\n| step | instructions a delivery | a record |\n|---|--:|--:|")
    rows = []
    steps = list(_steps(options.records))
    # Python's start and what the steps work on, the same for all.
    start = _count(steps[0], options.records, 0)
    for step in steps:
        a_delivery = (_count(step, options.records, _CALLS) - start) / _CALLS
        print(f"| {step} | {a_delivery:,.0f} | {a_delivery / options.records:,.0f} |", flush=True)
        rows.append({"step": step, "records": options.records, "instructions": round(a_delivery)})
    results.save_results(options.json, rows)


if __name__ == "__main__":
    main()
