"""Runner for checks, side by side and with a timeout."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from app.checks.check_result import NOT_CHECKED, CheckResult, fail
from app.errors import RapidBridgeError
from app.logs import locate_error

Check = Callable[[], Iterable[CheckResult]]


def run_checks(checks: Mapping[str, Check], *, timeout_s: float) -> list[CheckResult]:
    """Run checks in parallel and return their results, in the order of `checks`.

    checks: by component. A check that raises or exceeds timeout_s adds a failed result and keeps its earlier
    ones; the other checks are not affected.
    """
    results: dict[str, list[CheckResult]] = {component: [] for component in checks}
    # Daemon threads: a check that hangs must not keep the process from exiting.
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
                "timeout",
                f"the check did not finish within {timeout_s:g} s",
                "Check that the server is running and not overloaded.",
            )
            # A new list: the thread may still append to the old one.
            results[component] = [*results[component], timeout_result]
    return [result for component in checks for result in results[component]]


def list_unchecked(components: Iterable[str], results: Sequence[CheckResult]) -> list[str]:
    """Return everything that was not checked, as phrases. components: those of the checks that were run."""
    stated = [
        f"{result.component}: {result.message.removeprefix(NOT_CHECKED)}"
        for result in results
        if result.message.startswith(NOT_CHECKED)
    ]
    checked = {result.component for result in results}
    # Their checks read the database and Redis, whose own results name the fault.
    silent = [
        f"{component}: needs a server that is unavailable"
        for component in components
        if component not in checked
    ]
    return stated + silent


def _run_check(component: str, check: Check, results: list[CheckResult]) -> None:
    try:
        for result in check():
            results.append(result)  # noqa: PERF402  # one by one: a later error must not discard earlier results
    except RapidBridgeError as error:
        advice = "Check that the server is running, then run: rapidbridge doctor"
        results.append(fail(component, "reachable", str(error), advice))
    except Exception as error:  # noqa: BLE001  # one broken check must not hide the others
        # The error's own message may contain a URL with a password.
        message = f"the check itself failed: {type(error).__name__} at {locate_error(error)}"
        results.append(fail(component, "error", message, "Report this as a bug of `doctor`."))
