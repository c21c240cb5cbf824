"""`python -m tests.chaos`: a soak of any length, with a seed to repeat it."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import plan_faults
from tests.chaos.report import render_report
from tests.chaos.soak import Soak, run_soak


def main() -> int:
    """Soak, print what came of it; return 1 where anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Runs the whole service, sends it deliveries, kills, pauses, restarts and wipes its parts "
        "at random, and compares everything that was acknowledged with what is there in the end.",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to send (default: %(default)s)")
    parser.add_argument("--seed", default="1", help="the same seed, the same faults (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1500.0, help="records a second (default: %(default)s)")
    parser.add_argument(
        "--calm", action="store_true", help="wait after each fault until the service has recovered from it"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rapidbridge-chaos-"))
    print(f"seed {options.seed}, {options.minutes:g} minutes; logs are in {folder}", flush=True)
    soak = Soak(
        options.seed,
        plan_faults(options.seed),
        options.minutes * 60,
        options.rate,
        options.calm,
        report_progress=lambda line: print(line, flush=True),
    )
    try:
        report = run_soak(soak, folder)
    except KeyboardInterrupt:
        print("broken off: nothing was compared")
        return 130
    print(render_report(report))
    return 0 if report.is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
