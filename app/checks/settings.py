"""Checks of the settings, without any server."""

import re
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from app.checks.check_result import CheckResult, fail, ok, warn
from app.config.dangerous_settings import find_dangerous_settings
from app.config.load import Config
from app.config.machine import Machine
from app.config.settings import Settings, WebhookSecret
from app.plural import format_count

_COMPONENT = "settings"
_CHECK = "secret"
_PLACEHOLDER = re.compile(
    r"^[<\[{$]|change.?me|replace|placeholder|example|your|^(secret|test|todo|x+|0+)$", re.I
)
_MIN_LENGTH = 16
# Measured: up to 94 MiB without large bodies. See docs/performance.md.
_PROCESS_BYTES = 128 * 2**20
_SET_TRUTOS_SECRET = "Set the secret that Truto showed when the webhook was created."  # noqa: S105  # advice


def evaluate_config(config: Config) -> Iterator[CheckResult]:
    """Yield a summary of the routes."""
    sinks = ", ".join(f"{name} ({sink_config.type})" for name, sink_config in config.routes.sinks.items())
    number = len(config.routes.routes)
    yield ok(_COMPONENT, "routes", f"{format_count(number, 'route')}, sinks: {sinks or 'none'}")


def evaluate_dangerous_settings(config: Config, variables: Mapping[str, str]) -> Iterator[CheckResult]:
    """Yield a warning for each setting that weakens the receiver. variables: see `read_driver_variables`."""
    for setting in find_dangerous_settings(config, variables):
        message = f"{setting.place}: {setting.gives_up}"
        yield warn(_COMPONENT, setting.kind, message, f"{setting.advice}.")


def evaluate_processes(settings: Settings, machine: Machine) -> CheckResult:
    """Return whether this machine has the memory for the numbers of processes."""
    numbers = {
        "WEB_CONCURRENCY": settings.web_concurrency,
        "WORKER_CONCURRENCY": settings.worker_concurrency,
    }
    message = (
        f"{format_count(settings.web_concurrency, 'web process')}, "
        f"{format_count(settings.worker_concurrency, 'worker process')}, for "
        f"{format_count(machine.cores, 'core')} and {machine.memory_bytes / 2**20:,.0f} MiB of memory"
    )
    # Web and workers may have a machine each.
    max_number = machine.memory_bytes // _PROCESS_BYTES
    too_large = [name for name, number in numbers.items() if number > max(1, max_number)]
    if not too_large:
        return ok(_COMPONENT, "processes", message)
    advice = (
        f"A process needs about {_PROCESS_BYTES // 2**20} MiB, more with large bodies. "
        f"Lower {' and '.join(too_large)} to {max(1, max_number)}, or unset, and restart."
    )
    return warn(_COMPONENT, "processes", message, advice)


def evaluate_secrets(
    secrets: Sequence[WebhookSecret], *, has_development_secret: bool
) -> Iterator[CheckResult]:
    """Yield whether the webhook secrets look like Truto's.

    has_development_secret: whether `rapidbridge up` has generated a secret in the working folder.
    """
    if not secrets:
        advice = "Set it to the secret that Truto showed, or run: rapidbridge webhook create --url https://…"
        if has_development_secret:
            message = "TRUTO_WEBHOOK_SECRET is not set: `rapidbridge up` uses a generated development secret"
            yield warn(_COMPONENT, _CHECK, message, advice)
        else:
            message = "TRUTO_WEBHOOK_SECRET is not set: the receiver will not start"
            yield fail(_COMPONENT, _CHECK, message, advice)
        return
    problems = [
        problem
        for number, secret in enumerate(secrets, 1)
        if (problem := _find_problem(number, secret, secrets))
    ]
    yield from problems
    if not problems:
        pinned = sum(secret.webhook_id is not None for secret in secrets)
        count = format_count(len(secrets), "secret")
        yield ok(_COMPONENT, _CHECK, f"{count}, {pinned} pinned to a webhook")


def _find_problem(
    number: int, secret: WebhookSecret, all_secrets: Sequence[WebhookSecret]
) -> CheckResult | None:
    name = f"secret {number} of TRUTO_WEBHOOK_SECRET"
    if _PLACEHOLDER.search(secret.value) or _is_one_character(secret.value):
        message = f"{name} looks like a placeholder: anyone can guess it and sign deliveries"
        return fail(_COMPONENT, _CHECK, message, _SET_TRUTOS_SECRET)
    earlier = [other for other in all_secrets[: number - 1] if other.value == secret.value]
    if any(other.webhook_id == secret.webhook_id for other in earlier):
        return warn(_COMPONENT, _CHECK, f"{name} is a duplicate", "Remove one of the two.")
    if any(None in (other.webhook_id, secret.webhook_id) for other in earlier):
        message = f"{name} is both pinned and not pinned, so it is valid for every webhook"
        return warn(_COMPONENT, _CHECK, message, "Remove the entry without a webhook id.")
    if len(secret.value) < _MIN_LENGTH:
        message = f"{name} has only {len(secret.value)} characters and can be guessed"
        return fail(_COMPONENT, _CHECK, message, _SET_TRUTOS_SECRET)
    if not _is_uuid(secret.value):
        advice = "Check that it was copied completely, and that it is not the API token."
        return warn(_COMPONENT, _CHECK, f"{name} is not a UUID, as Truto's secrets are", advice)
    return None


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_one_character(text: str) -> bool:
    return len(set(text.replace("-", ""))) <= 1
