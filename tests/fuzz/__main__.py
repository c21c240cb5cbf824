"""Fuzzing of any target for any time: `python -m tests.fuzz`."""

import argparse
import resource
import sys
from pathlib import Path

from tests.fuzz.campaign import CampaignResult, find_failure, run_campaign, save_failure
from tests.fuzz.corpus import read_corpus
from tests.fuzz.targets import TARGETS

_FAILURES = Path("var/fuzz")
# A target that allocates more fails with MemoryError, instead of slowing the machine down.
_MAX_MEMORY_BYTES = 4 * 1024**3
_DEFAULT_INPUTS = 20_000


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Checks the properties of parsers with mutated inputs. A failing input is saved, and the "
        "command that repeats it is printed.",
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"default: all; one of {', '.join(TARGETS)}"
    )
    parser.add_argument("--inputs", type=int, help=f"inputs per target (default: {_DEFAULT_INPUTS:,})")
    parser.add_argument("--seconds", type=float, help="time per target")
    parser.add_argument("--seed", default="1", help="the same seed gives the same inputs (default: 1)")
    parser.add_argument("--file", type=Path, help="check only the input in this file, with one target")
    return parser


def main() -> int:
    """Run the campaigns and print their results; return 1 if a property is broken."""
    parser = build_parser()
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown:
        parser.error(f"unknown target {unknown[0]}; known: {', '.join(TARGETS)}")
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    if options.file:
        if len(options.targets) != 1:
            parser.error("--file needs one target; write: python -m tests.fuzz TARGET --file PATH")
        return _repeat(options.targets[0], options.file)
    max_inputs = options.inputs or (sys.maxsize if options.seconds else _DEFAULT_INPUTS)
    results = []
    for name in options.targets or TARGETS:
        result = run_campaign(
            name,
            TARGETS[name],
            read_corpus(name),
            max_inputs=max_inputs,
            max_duration_s=options.seconds or float("inf"),
            seed=options.seed,
            report_progress=lambda progress: print(f"  {progress.describe()}", flush=True),
        )
        print(result.describe(), flush=True)
        _print_failures(result)
        results.append(result)
    failed = sum(bool(result.failures) for result in results)
    print(f"{sum(result.inputs for result in results):,} inputs, {failed} targets with failures")
    return 1 if failed else 0


def _repeat(name: str, path: Path) -> int:
    failure = find_failure(TARGETS[name], path.read_bytes())
    print(failure.description if failure else f"{path}: no property of {name} is broken")
    return 1 if failure else 0


def _print_failures(result: CampaignResult) -> None:
    for failure in result.failures:
        path = save_failure(_FAILURES, result.target, failure)
        print(f"{failure.place}\n{failure.description}")
        print(f"repeat it with: python -m tests.fuzz {result.target} --file {path}")


if __name__ == "__main__":
    sys.exit(main())
