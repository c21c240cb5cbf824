"""A campaign: one target, many mutated inputs, and the failures that they cause."""

import hashlib
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.fuzz.mutation import Mutator
from tests.fuzz.new_lines import NewLines
from tests.fuzz.targets import Target

# CPU time, so that a busy machine fails nothing. Inputs are short: each takes milliseconds at most.
MAX_INPUT_CPU_S = 5.0
_MAX_FAILURES = 5
_MAX_NEW_INPUTS = 2000
_INPUTS_PER_CHECK = 500
_PROGRESS_INTERVAL_S = 10.0


class InputTimeout(BaseException):
    """An input took longer than its limit. No `except Exception` of the code under test hides it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that broke a property. place: exception and line, the same for inputs with one cause."""

    place: str
    content: bytes
    description: str


@dataclass(slots=True)
class CampaignResult:
    """inputs: the number checked. new_inputs: those that ran a line for the first time."""

    target: str
    inputs: int = 0
    duration_s: float = 0.0
    new_inputs: int = 0
    failures: list[Failure] = field(default_factory=list)

    def describe(self) -> str:
        """Return one line for a report."""
        rate = self.inputs / max(self.duration_s, 1e-9)
        return (
            f"{self.target:<17} {self.inputs:>11,} inputs  {self.duration_s:>7.1f} s  {rate:>8,.0f}/s  "
            f"{self.new_inputs:>5} new  {len(self.failures)} failures"
        )


def run_campaign(
    name: str,
    target: Target,
    corpus: Sequence[bytes],
    *,
    max_inputs: int,
    max_duration_s: float,
    seed: str,
    report_progress: Callable[[CampaignResult], None] = lambda _: None,
) -> CampaignResult:
    """Check the corpus and then mutated inputs, until one of the limits or five different failures.

    Inputs that run new lines join the corpus. Call it in the main thread: it uses a signal.
    """
    result = CampaignResult(name)
    mutator = Mutator(target, corpus, f"{seed} {name}")
    new_lines = NewLines()
    started = reported = time.monotonic()
    with _limited_cpu_time():
        while result.inputs < max_inputs and len(result.failures) < _MAX_FAILURES:
            is_seed = result.inputs < len(corpus)
            content = corpus[result.inputs] if is_seed else mutator.mutate()
            result.inputs += 1
            failure = find_failure(target, content)
            if failure is not None and failure.place not in {known.place for known in result.failures}:
                result.failures.append(failure)
            if new_lines.take() and not is_seed and failure is None and result.new_inputs < _MAX_NEW_INPUTS:
                result.new_inputs += 1
                mutator.add(content)
            if result.inputs % _INPUTS_PER_CHECK == 0:
                now = time.monotonic()
                result.duration_s = now - started
                if result.duration_s > max_duration_s:
                    break
                if now - reported > _PROGRESS_INTERVAL_S:
                    reported = now
                    report_progress(result)
    result.duration_s = time.monotonic() - started
    return result


def find_failure(target: Target, content: bytes) -> Failure | None:
    """Check one input; return the failure, or None."""
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_INPUT_CPU_S)
    try:
        target.check(content)
    except (Exception, InputTimeout) as error:  # noqa: BLE001  # every exception is a broken property
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        return Failure(place, content, "".join(traceback.format_exception(error)))
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def save_failure(folder: Path, target: str, failure: Failure) -> Path:
    """Write the input of a failure to a file that is named after it; return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{target}-{hashlib.sha256(failure.content).hexdigest()[:12]}"
    path.write_bytes(failure.content)
    return path


@contextmanager
def _limited_cpu_time() -> Iterator[None]:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise InputTimeout(f"the input takes more than {MAX_INPUT_CPU_S:g} s of CPU time")

    previous = signal.signal(signal.SIGVTALRM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, previous)
