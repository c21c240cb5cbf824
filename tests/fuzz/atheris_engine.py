"""Coverage-guided fuzzing of one target with atheris: `python -m tests.fuzz.atheris_engine TARGET`.

atheris is not in the extras: its wheels are for Linux on x86-64 only. `pip install atheris`.
"""

import sys
from pathlib import Path

import atheris

# Instruments the code under test as it is imported.
with atheris.instrument_imports(include=["app"]):
    from tests.fuzz.corpus import FOLDER
    from tests.fuzz.targets import TARGETS


def fuzz(target: str, options: list[str]) -> None:
    """Check inputs until an option of libFuzzer ends it; does not return."""
    atheris.Setup([target, *options], TARGETS[target].check)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(
            f"name a target: {', '.join(TARGETS)}; options of libFuzzer follow, such as -max_total_time=60"
        )
    # libFuzzer writes to the first folder: the corpus of the tests stays as it is.
    found = Path("var/fuzz/atheris") / sys.argv[1]
    found.mkdir(parents=True, exist_ok=True)
    fuzz(sys.argv[1], ["-artifact_prefix=var/fuzz/", *sys.argv[2:], str(found), str(FOLDER / sys.argv[1])])
