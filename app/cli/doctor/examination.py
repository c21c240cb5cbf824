"""Runs checks side by side: none waits for another, none for long, and one that fails hides no other."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from app.cli.doctor.finding import Finding, red
from app.errors import RapidBridgeError
from app.logs import place_of

Check = Callable[[], Iterable[Finding]]


def examine_all(checks: Mapping[str, Check], *, within_s: float) -> list[Finding]:
    """Return what the checks found, in their order. checks: by the room they look at."""
    found: dict[str, list[Finding]] = {room: [] for room in checks}
    # Daemons: one that hangs does not keep the command from ending.
    threads = {
        room: threading.Thread(target=_run, args=(room, check, found[room]), daemon=True)
        for room, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + within_s
    for room, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            late = red(
                room, "time", f"gave no answer within {within_s:g} s", "See that it is up and not overloaded."
            )
            # A list of its own: the thread may still add to the other.
            found[room] = [*found[room], late]
    return [finding for room in checks for finding in found[room]]


def _run(room: str, check: Check, found: list[Finding]) -> None:
    try:
        for finding in check():
            found.append(finding)  # noqa: PERF402  # one by one: what a later step breaks must not take them
    except RapidBridgeError as error:
        found.append(red(room, "reachable", str(error), "See that it is up, then look again."))
    except Exception as error:  # noqa: BLE001  # one broken check must not hide the others
        # Its message may hold an address with a password.
        message = f"the check failed: {type(error).__name__} at {place_of(error)}"
        found.append(red(room, "check", message, "Report this as a fault of the doctor's."))
