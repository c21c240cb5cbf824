"""A soak of any length: `python -m tests.chaos`, with a seed to repeat it."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import plan_faults
from tests.chaos.report import render_report
from tests.chaos.soak import Soak, run_soak
from tests.support.container import can_run_containers


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Runs two installations, sends them deliveries, kills, pauses, restarts, fails over and "
        "wipes their parts at random, and compares every acknowledged delivery with the inbox and the sinks at the end.",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="time to send (default: %(default)s)")
    parser.add_argument(
        "--seed", default="1", help="the same seed gives the same faults (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=1500.0, help="records a second (default: %(default)s)")
    parser.add_argument(
        "--calm", action="store_true", help="wait after a fault until the service has recovered from it"
    )
    return parser


def main() -> int:
    """Run a soak and print its report; return 1 if the audit found a fault."""
    options = build_parser().parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rapidbridge-chaos-"))
    print(f"seed {options.seed}, {options.minutes:g} minutes; logs are in {folder}", flush=True)
    if not can_run_containers():
        print(
            "this user cannot create namespaces: no two workers share a host name and process id", flush=True
        )
    soak = Soak(
        options.seed,
        plan_faults(options.seed, with_containers=can_run_containers()),
        min_sending_s=options.minutes * 60,
        max_sending_s=options.minutes * 60,
        records_per_s=options.rate,
        waits_for_recovery=options.calm,
        report_progress=lambda line: print(line, flush=True),
    )
    try:
        report = run_soak(soak, folder)
    except KeyboardInterrupt:
        print("interrupted: nothing was compared")
        return 130
    print(render_report(report))
    return 0 if report.is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
