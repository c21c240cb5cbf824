"""The results file of a benchmark: command, machine, and measured rows."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("gunicorn", "gevent", "flask", "rq", "redis", "sqlalchemy", "psycopg")


def save_results(path: Path | None, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write flat rows, one measurement each, with their environment to a file. None writes nothing."""
    if path is None:
        return
    results = {"command": _read_command(), "environment": _describe_environment(), "rows": list(rows)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def load_results(path: Path) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a file that `save_results` wrote."""
    rows: Sequence[Mapping[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def _read_command() -> str:
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def _describe_environment() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "processor": _read_processor(),
        **{name: version(name) for name in _PACKAGES},
    }


def _read_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
