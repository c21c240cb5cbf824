"""Passes of target-postgres: `python -m benchmarks.target_load SETTINGS FILE…`, in its environment.

SETTINGS: its configuration file. FILE: the Singer messages of one pass.
"""

import json
import sys
from pathlib import Path

from target_postgres.target import TargetPostgres

from benchmarks.timed_passes import serve_passes


def main() -> None:
    """Load the file of each pass by one run of the target."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    files = [Path(path) for path in sys.argv[2:]]

    def run_pass(number: int) -> None:
        with files[number].open() as messages:
            TargetPostgres(config=settings).listen(file_input=messages)

    serve_passes(run_pass)


if __name__ == "__main__":
    main()
