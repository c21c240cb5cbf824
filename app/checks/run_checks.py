"""Runs checks side by side: none waits for another, none for long, and one that fails hides no other."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from app.checks.check_result import CheckResult, fail
from app.errors import RapidBridgeError
from app.logs import locate_error

Check = Callable[[], Iterable[CheckResult]]


def run_checks(checks: Mapping[str, Check], *, timeout_s: float) -> list[CheckResult]:
    """Return what the checks found, in their order. checks: by the room they look at."""
    results: dict[str, list[CheckResult]] = {component: [] for component in checks}
    # Daemons: one that hangs does not keep the command from ending.
    threads = {
        component: threading.Thread(
            target=_run_check, args=(component, check, results[component]), daemon=True
        )
        for component, check in checks.items()
    }
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + timeout_s
    for component, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            timeout_result = fail(
                component,
                "time",
                f"gave no answer within {timeout_s:g} s",
                "See that it is up and not overloaded.",
            )
            # A list of its own: the thread may still add to the other.
            results[component] = [*results[component], timeout_result]
    return [result for component in checks for result in results[component]]


def _run_check(component: str, check: Check, results: list[CheckResult]) -> None:
    try:
        for result in check():
            results.append(result)  # noqa: PERF402  # one by one: what a later step breaks must not take them
    except RapidBridgeError as error:
        results.append(fail(component, "reachable", str(error), "See that it is up, then look again."))
    except Exception as error:  # noqa: BLE001  # one broken check must not hide the others
        # Its message may hold an address with a password.
        message = f"the check failed: {type(error).__name__} at {locate_error(error)}"
        results.append(fail(component, "check", message, "Report this as a fault of the doctor's."))
