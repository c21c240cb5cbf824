"""Search for secrets and fields of records in everything that an installation shows."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from subprocess import CompletedProcess

from tests.chaos.audit import AuditResult
from tests.chaos.site import Installation
from tests.chaos.traffic import RECORD_CANARY

_PAGES = ("/readyz", "/metrics", "/healthz")
_COMMANDS = (
    ("doctor", "--json", "--no-post"),
    ("support-bundle", "--output", "-"),
    ("dead", "list"),
    ("sinks", "list"),
    ("keys", "list"),
)
_POLL_S = 2.0


class LeakSearch:
    """Searches the answers of the web processes during the faults, and logs and commands at the end.

    Each secret in a place is a fault "leaked" of the result. No line is quoted.
    """

    def __init__(self, installations: Sequence[Installation], result: AuditResult) -> None:
        self._installations = installations
        self._result = result
        self._is_over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Read and search the pages inside the block, whatever the faults make of them."""
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(self._read_pages)
            try:
                yield
            finally:
                self._is_over.set()
            reading.result()

    def search_commands(self) -> None:
        """Search the output of commands that people paste into reports."""
        runs = list(product(self._installations, _COMMANDS))
        # At the same time, because some of them wait for servers that are not there.
        with ThreadPoolExecutor(len(runs)) as pool:
            for (installation, words), ran in zip(runs, pool.map(_run_command, runs), strict=True):
                self._search(installation, " ".join(words), (ran.stdout + ran.stderr).splitlines())

    def search_logs(self) -> None:
        """Search each log line of each program."""
        for installation in self._installations:
            for program in installation.programs:
                with program.log.open(errors="replace") as lines:
                    self._search(installation, program.log.name, lines)

    def _read_pages(self) -> None:
        while not self._is_over.wait(_POLL_S):
            for installation in self._installations:
                for page in _PAGES:
                    self._search(installation, page, installation.read_page(page).splitlines())

    def _search(self, installation: Installation, place: str, lines: Iterable[str]) -> None:
        kind = "log lines" if place.endswith(".log") else "lines of pages and commands"
        canaries = {**installation.canaries, "field of a record": RECORD_CANARY, "signature": "sha256,v="}
        number = 0
        for number, line in enumerate(lines, start=1):
            for name, canary in canaries.items():
                if canary in line:
                    self._result.add_fault(
                        "leaked", f"{name} in {place} of {installation.name}, line {number}"
                    )
        self._result.counts[f"{kind} searched"] += number


def _run_command(run: tuple[Installation, Sequence[str]]) -> CompletedProcess[str]:
    installation, words = run
    return installation.run_command(*words)
