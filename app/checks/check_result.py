"""Result of one check, with its level and advice."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

CheckLevel = Literal["ok", "warn", "fail"]

_SLOW_S = 0.05
# The beginning of a message about something that could not be checked, or was not to be.
NOT_CHECKED = "not checked: "


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check of one component.

    component: settings, web, store, redis, workers, "sink <name>", truto or receiver. check: a stable name.
    level: "warn" works now but risks trouble later; "fail" does not work, or loses deliveries.
    message, advice: may quote names that another system sent: escape them for the output in use.
    advice: the next step; "" if the level is "ok".
    """

    component: str
    check: str
    level: CheckLevel
    message: str
    advice: str = ""


def ok(component: str, check: str, message: str) -> CheckResult:
    """Return the result of a check that passed."""
    return CheckResult(component, check, "ok", message)


def warn(component: str, check: str, message: str, advice: str) -> CheckResult:
    """Return the result of a check that passed, with a risk."""
    return CheckResult(component, check, "warn", message, advice)


def fail(component: str, check: str, message: str, advice: str) -> CheckResult:
    """Return the result of a check that failed."""
    return CheckResult(component, check, "fail", message, advice)


def is_ok(results: Iterable[CheckResult]) -> bool:
    """Whether no check failed; warnings are allowed."""
    return all(result.level != "fail" for result in results)


def evaluate_latency(component: str, latency_s: float) -> CheckResult:
    """Return whether a server responds fast enough."""
    message = f"responds in {latency_s * 1000:.1f} ms"
    if latency_s <= _SLOW_S:
        return ok(component, "latency", message)
    advice = "Move the server closer to the receiver: every delivery waits for it, and so does Truto."
    return warn(component, "latency", message, advice)
