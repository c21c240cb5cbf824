"""CPU instructions of the hot steps: `python -m benchmarks.instructions [--records N] …`.

callgrind counts them (`apt-get install valgrind`), so that the numbers repeat to a few parts in 100,000 on
a busy machine: enough to tell a change of 1 % from noise. System calls and waiting are not counted, and all
instructions count alike: compare a step with itself, not with another. Takes a minute or two.
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

from app.config.routes import build_default_routes
from app.sinks.sql.rows import make_rows
from app.truto.events import read_envelope
from app.truto.records import read_records
from app.truto.signature import parse_signature_header, sign, verify
from benchmarks.payloads import make_delivery
from benchmarks.results import save_results
from tests.support.sent_records import send
from tests.support.web_process import SECRET

_CALLS = 20
_COUNTED = re.compile(r"Collected : (\d+)")


def repeat(step: str, records: int, calls: int) -> None:
    """Call a step several times; runs under callgrind."""
    call = _build_steps(records)[step]
    for _ in range(calls):
        call()


def _build_steps(records: int) -> dict[str, Callable[[], object]]:
    body = make_delivery(0, records).body
    signature = sign(body, SECRET)
    parsed = read_records(body)
    assert parsed is not None
    now = datetime.now(UTC)
    page = send([value for _, value in parsed.records], received_at=now, version=now)
    [route] = build_default_routes("sqlite:///x").routes
    return {
        "verify the signature": lambda: verify(body, parse_signature_header(signature), [SECRET]),
        "read the envelope": lambda: read_envelope(body),
        "compress the body": lambda: zlib.compress(body, 1),
        "read the records": lambda: read_records(body),
        "make rows of them": lambda: make_rows(page.build_batch(route).records, route.columns),
    }


def _count_instructions(step: str, records: int, calls: int) -> int:
    code = f"from benchmarks.instructions import repeat; repeat({step!r}, {records}, {calls})"
    callgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    # A random hash seed would order sets of strings differently in every run.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [*callgrind, sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    count = _COUNTED.search(ran.stderr)
    assert count, ran.stderr
    return int(count[1])


def main() -> None:
    """Print a table of the steps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--records", type=int, default=50, help="records in a body (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        parser.error("valgrind is not installed: apt-get install valgrind")
    print(f"\n{options.records} records\n\n| step | instructions a delivery | a record |\n|---|--:|--:|")
    rows = []
    steps = list(_build_steps(options.records))
    # Python's start and the steps' input, the same for all steps.
    start = _count_instructions(steps[0], options.records, 0)
    for step in steps:
        per_delivery = (_count_instructions(step, options.records, _CALLS) - start) / _CALLS
        print(f"| {step} | {per_delivery:,.0f} | {per_delivery / options.records:,.0f} |", flush=True)
        rows.append({"step": step, "records": options.records, "instructions": round(per_delivery)})
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
