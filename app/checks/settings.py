"""The settings that need no server to be judged."""

import re
from collections.abc import Iterator, Sequence
from uuid import UUID

from app.checks.check_result import CheckResult, fail, ok, warn
from app.config.load import Config
from app.config.settings import WebhookSecret

_COMPONENT = "settings"
_CHECK = "secret"
_PLACEHOLDER = re.compile(
    r"^[<\[{$]|change.?me|replace|placeholder|example|your|^(secret|test|todo|x+|0+)$", re.I
)
_MIN_LENGTH = 16


def evaluate_config(config: Config) -> Iterator[CheckResult]:
    """Say what was read. That it can be read at all was found out before."""
    sinks = ", ".join(f"{name} ({sink_config.type})" for name, sink_config in config.routes.sinks.items())
    number = len(config.routes.routes)
    yield ok(_COMPONENT, "routes", f"{number} route{'' if number == 1 else 's'}, sinks: {sinks or 'none'}")
    if config.settings.maintenance:
        yield warn(
            _COMPONENT,
            "maintenance",
            "MAINTENANCE is set: every run that starts is refused",
            "Unset it to receive.",
        )


def evaluate_secrets(
    secrets: Sequence[WebhookSecret], *, has_development_secret: bool
) -> Iterator[CheckResult]:
    """Say whether the secrets look like Truto's. is_for_development: `up` has made one here."""
    if not secrets:
        how = "Set it to the secret that Truto showed, or run: rapidbridge webhook create --url https://…"
        if has_development_secret:
            message = "TRUTO_WEBHOOK_SECRET is not set: `up` uses one of its own, made for development"
            yield warn(_COMPONENT, _CHECK, message, how)
        else:
            yield fail(
                _COMPONENT, _CHECK, "TRUTO_WEBHOOK_SECRET is not set: the receiver will not start", how
            )
        return
    problems = [
        problem
        for number, secret in enumerate(secrets, 1)
        if (problem := _find_problem(number, secret, secrets))
    ]
    yield from problems
    if not problems:
        pinned = sum(secret.webhook_id is not None for secret in secrets)
        number = f"{len(secrets)} secret{'' if len(secrets) == 1 else 's'}"
        yield ok(_COMPONENT, _CHECK, f"{number}, {pinned} of them pinned to a webhook")


def _find_problem(
    number: int, secret: WebhookSecret, all_secrets: Sequence[WebhookSecret]
) -> CheckResult | None:
    which = f"secret {number} of TRUTO_WEBHOOK_SECRET"
    if _PLACEHOLDER.search(secret.value) or _is_one_character(secret.value):
        message = f"{which} looks like a placeholder: whoever guesses it gets in"
        return fail(
            _COMPONENT, _CHECK, message, "Set the secret that Truto showed when the webhook was created."
        )
    earlier = [other for other in all_secrets[: number - 1] if other.value == secret.value]
    if any(other.webhook_id == secret.webhook_id for other in earlier):
        return warn(_COMPONENT, _CHECK, f"{which} stands there twice", "Take one of them out.")
    if any(None in (other.webhook_id, secret.webhook_id) for other in earlier):
        message = f"{which} stands there pinned and not pinned: it is valid for every webhook"
        return warn(_COMPONENT, _CHECK, message, "Take out the one without a webhook's id.")
    if len(secret.value) < _MIN_LENGTH:
        message = f"{which} has {len(secret.value)} characters: it can be guessed"
        return fail(
            _COMPONENT, _CHECK, message, "Set the secret that Truto showed when the webhook was created."
        )
    if not _is_uuid(secret.value):
        message = f"{which} is no UUID, as Truto's are"
        return warn(
            _COMPONENT, _CHECK, message, "See that it was copied whole, and that it is not the API token."
        )
    return None


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_one_character(text: str) -> bool:
    return len(set(text.replace("-", ""))) <= 1
