"""Truto: the token, and the webhooks that send here."""

from collections.abc import Iterator
from contextlib import suppress

from app.cli.common.clients import open_optional_truto_api
from app.cli.common.output import replace_control_chars
from app.cli.doctor.finding import CheckResult, fail, ok, warn
from app.cli.webhook.addresses import find_target_problem, redact_address
from app.cli.webhook.known import list_known_webhooks, list_pinned_webhooks
from app.config.settings import Settings
from app.errors import ConfigError, StoreUnavailable, TrutoRefused, TrutoUnavailable
from app.truto.client import TrutoApi
from app.truto.webhooks import Webhook, find_missing_events

_COMPONENT = "truto"


def check_truto(settings: Settings) -> Iterator[CheckResult]:
    """Ask Truto, where there is a token."""
    with open_optional_truto_api(settings) as api:
        if api is None:
            yield ok(_COMPONENT, "token", "TRUTO_API_TOKEN is not set: nothing is asked of Truto")
            return
        try:
            yield from _check_api(api, settings)
        except TrutoUnavailable as error:
            yield warn(
                _COMPONENT, "reachable", str(error), "Look again later; receiving does not depend on it."
            )


def _check_api(api: TrutoApi, settings: Settings) -> Iterator[CheckResult]:
    try:
        next(api.list_runs({}), None)
    except TrutoRefused as error:
        yield fail(
            _COMPONENT,
            "token",
            str(error),
            "Set TRUTO_API_TOKEN to a token of the runs' environment, or unset it.",
        )
        return
    yield ok(_COMPONENT, "token", "TRUTO_API_TOKEN is accepted")
    ids = list_pinned_webhooks(settings)
    # What recent runs were sent to is told by the store; that it is away is told elsewhere.
    with suppress(StoreUnavailable, ConfigError):
        ids = list_known_webhooks(settings)
    if not ids:
        advice = "Pin it: TRUTO_WEBHOOK_SECRET=<webhook id>=<secret>."
        yield warn(_COMPONENT, "webhook", "which webhook sends here is not known", advice)
    for webhook_id in ids:
        try:
            webhook = api.get_webhook(webhook_id)
        except TrutoRefused as error:
            advice = "See that the id in TRUTO_WEBHOOK_SECRET is right, and the token of its environment."
            yield fail(_COMPONENT, "webhook", f"{replace_control_chars(webhook_id)}: {error}", advice)
        else:
            yield from evaluate_webhook(webhook)


def evaluate_webhook(webhook: Webhook) -> Iterator[CheckResult]:
    """Say whether a webhook will send what is needed here."""
    id_ = replace_control_chars(webhook.id)
    problems = []
    if webhook.is_active is False:
        advice = f"Mend what made it fail, then: rapidbridge webhook reactivate {id_}"
        problems.append(fail(_COMPONENT, "webhook", f"{id_} is switched off: Truto sends nothing", advice))
    if problem := find_target_problem(webhook.target_url):
        message = f"{id_} sends to {redact_address(webhook.target_url)}"
        problems.append(fail(_COMPONENT, "target", message, f"Correct it at Truto: {problem}"))
    if missing := find_missing_events(webhook.event_types):
        message = f"{id_} does not send {', '.join(missing)}"
        problems.append(fail(_COMPONENT, "events", message, "Subscribe it to them at Truto."))
    yield from problems or [
        ok(_COMPONENT, "webhook", f"{id_} is active, sends to {redact_address(webhook.target_url)}")
    ]
