"""Checks at Truto's API: the token, and the webhooks that send to this receiver."""

from collections.abc import Iterator
from contextlib import suppress

from app.checks.check_result import NOT_CHECKED, CheckResult, fail, ok, warn
from app.checks.known_webhooks import list_known_webhooks, list_pinned_webhooks
from app.config.settings import Settings
from app.errors import ConfigError, StoreUnavailable, TrutoRefused, TrutoUnavailable
from app.truto.client import TrutoClient
from app.truto.target_url import find_target_problem, redact_target_url
from app.truto.webhooks import Webhook, find_missing_events

_COMPONENT = "truto"


def check_truto(settings: Settings) -> Iterator[CheckResult]:
    """Check the token and the known webhooks; without a token, send no request."""
    if not settings.truto_api_token:
        yield ok(_COMPONENT, "token", f"{NOT_CHECKED}TRUTO_API_TOKEN is not set")
        return
    with TrutoClient(settings.truto_api_url, settings.truto_api_token) as client:
        try:
            yield from _check_api(client, settings)
        except TrutoUnavailable as error:
            advice = "Run `rapidbridge doctor` again later. Receiving does not depend on Truto's API."
            yield warn(_COMPONENT, "reachable", str(error), advice)


def _check_api(api: TrutoClient, settings: Settings) -> Iterator[CheckResult]:
    try:
        next(api.list_runs({}), None)
    except TrutoRefused as error:
        advice = "Set TRUTO_API_TOKEN to a token of the environment that your runs belong to, or unset it."
        yield fail(_COMPONENT, "token", str(error), advice)
        return
    yield ok(_COMPONENT, "token", "TRUTO_API_TOKEN is valid")
    ids = list_pinned_webhooks(settings)
    # The store's own check reports a store that cannot be read.
    with suppress(StoreUnavailable, ConfigError):
        ids = list_known_webhooks(settings)
    if not ids:
        message = "no webhook that sends to this receiver is known"
        yield warn(_COMPONENT, "webhook", message, "Pin it: TRUTO_WEBHOOK_SECRET=<webhook id>=<secret>")
    for webhook_id in ids:
        try:
            webhook = api.get_webhook(webhook_id)
        except TrutoRefused as error:
            advice = (
                "Check the webhook id in TRUTO_WEBHOOK_SECRET, and that TRUTO_API_TOKEN belongs to its "
                "environment."
            )
            yield fail(_COMPONENT, "webhook", f"{webhook_id}: {error}", advice)
        else:
            yield from evaluate_webhook(webhook)


def evaluate_webhook(webhook: Webhook) -> Iterator[CheckResult]:
    """Yield whether a webhook is active, has a usable target and sends all required events."""
    target_url = redact_target_url(webhook.target_url)
    problems = []
    if webhook.is_active is False:
        message = f"{webhook.id} is inactive: Truto sends it nothing"
        advice = (
            f"Fix the cause of its failed deliveries, then run: rapidbridge webhook reactivate {webhook.id}"
        )
        problems.append(fail(_COMPONENT, "webhook", message, advice))
    if problem := find_target_problem(webhook.target_url):
        message = f"{webhook.id} sends to {target_url}"
        problems.append(fail(_COMPONENT, "target", message, f"Correct the target URL at Truto: {problem}"))
    if missing := find_missing_events(webhook.event_types):
        message = f"{webhook.id} does not send {', '.join(missing)}"
        advice = f"Subscribe it to these events at Truto, then run: rapidbridge webhook show {webhook.id}"
        problems.append(fail(_COMPONENT, "events", message, advice))
    yield from problems or [ok(_COMPONENT, "webhook", f"{webhook.id} is active and sends to {target_url}")]
