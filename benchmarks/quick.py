"""Instructions of each step of a delivery, compared with stored ones: `python -m benchmarks.quick`.

callgrind counts the instructions of the Python process (`apt-get install valgrind`). On a busy machine the
counts repeat to 3 %, most of them to 0.3 %: a larger difference is a change of the code, of a library or of
Python. Waiting and the work of PostgreSQL and Redis do not count. Compare a step with itself, not with
another. Takes one to two minutes.

The stored counts are those of Python as pyenv compiles it, without profile-guided optimization. An optimized
build of the same version counts up to 20 % less.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.environment import running_environment
from benchmarks.quick_steps import MARK
from tests.support.processes import ROOT

# By name, in the order of a delivery: see benchmarks/quick_steps.py and quick_services.py.
_STEPS = {
    "verify": "the signature",
    "envelope": "read without the records",
    "compress": "the body",
    "insert": "16 bodies compressed and committed",
    "accept": "the WSGI application: all of the above, for one request",
    "enqueue": "a job of 16",
    "lease": "16 deliveries",
    "parse": "the records",
    "rows": "the records as rows of the sink",
    "deliver": "a job of 16: leased, read, parsed, routed, written and settled",
    "reconcile": "a run of 16",
}
_MAX_RATIO = 1.25
_FIGURES = ROOT / "benchmarks" / "quick.json"
_UPDATE = "python -m benchmarks.quick --update"
_TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)

_Counts = Mapping[str, int]


def _count_instructions(names: Sequence[str]) -> dict[str, int]:
    """Return the instructions of steps for one delivery."""
    with running_environment() as environment, tempfile.TemporaryDirectory() as folder:
        # The application's background threads do not count.
        callgrind = ["valgrind", "--quiet", "--tool=callgrind", "--separate-threads=yes"]
        callgrind += [f"--dump-before={MARK}", f"--callgrind-out-file={folder}/part"]
        steps = [sys.executable, "-m", "benchmarks.quick_steps"]
        steps += [environment.database_url, environment.valkey.url, *names]
        # A random hash seed would order sets of strings differently in every run.
        variables = {**os.environ, "PYTHONHASHSEED": "0"}
        ran = subprocess.run(
            [*callgrind, *steps], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True
        )
        lines = [line.split() for line in ran.stdout.splitlines()]
        assert [name for name, _ in lines] == list(names), ran.stdout
        return {
            name: round(_read_total(Path(folder, f"part.{number}-01")) / int(deliveries))
            # The odd parts are the preparations.
            for number, (name, deliveries) in zip(range(2, 2 * len(lines) + 1, 2), lines, strict=True)
        }


def _read_total(part: Path) -> int:
    total = _TOTAL.search(part.read_text())
    assert total, f"{part}: no totals"
    return int(total[1])


def _render_table(counts: _Counts, stored: _Counts) -> Iterator[str]:
    yield "| step | | instructions a delivery | stored | ratio |"
    yield "|---|---|--:|--:|--:|"
    for name, count in counts.items():
        comparison = f"{stored[name]:,} | {count / stored[name]:.2f}" if name in stored else " | "
        yield f"| {name} | {_STEPS[name]} | {count:,} | {comparison} |"


def _find_problems(counts: _Counts, stored: _Counts) -> Iterator[str]:
    for name, count in counts.items():
        if name not in stored:
            yield f"{name}: no count is stored. Store it: {_UPDATE} --step {name}"
        elif count > stored[name] * _MAX_RATIO:
            yield (
                f"{name}: {count:,} instructions instead of {stored[name]:,}, over {_MAX_RATIO - 1:.0%} "
                "more. Make the step cheaper or, if the change is worth it, store the new count: "
                f"{_UPDATE} --step {name}"
            )


def main() -> None:
    """Print a table of the steps; exit with 1 if one takes over 25 % more instructions than stored."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description=__doc__)
    parser.add_argument("--step", action="append", choices=_STEPS, help="only this step; repeatable")
    parser.add_argument("--update", action="store_true", help="store the counts instead of comparing them")
    parser.add_argument(
        "--figures",
        type=Path,
        default=_FIGURES,
        help="file of stored counts (default: benchmarks/quick.json)",
    )
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        parser.error("valgrind is not installed: apt-get install valgrind")
    figures = json.loads(options.figures.read_text()) if options.figures.exists() else {}
    version = ".".join(platform.python_version_tuple()[:2])
    stored = figures.get(version, {})
    counts = _count_instructions(options.step or list(_STEPS))
    print(f"\nPython {version}, 50 records in a delivery\n", *_render_table(counts, stored), sep="\n")
    if not stored and not options.update:
        # An unknown version is no reason to reject a change.
        print(f"\nNot compared: no counts of Python {version} are stored. Store them: {_UPDATE}")
    elif options.update:
        figures[version] = stored | counts
        options.figures.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
    elif problems := list(_find_problems(counts, stored)):
        print("", *problems, sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
