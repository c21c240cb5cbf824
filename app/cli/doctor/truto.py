"""Truto: the token, and the webhooks that send here."""

from collections.abc import Iterator
from contextlib import suppress

from app.cli.common.output import printable
from app.cli.doctor.finding import Finding, green, red, yellow
from app.cli.runs.asking import truto_if_set
from app.cli.webhook.addresses import fault_of_target, shown
from app.cli.webhook.known import known_webhooks, pinned_webhooks
from app.config.settings import Settings
from app.errors import ConfigError, StoreUnavailable, TrutoRefused, TrutoUnavailable
from app.truto.api import TrutoApi
from app.truto.webhooks import Webhook, missing_events

_ROOM = "truto"


def check_truto(settings: Settings) -> Iterator[Finding]:
    """Ask Truto, where there is a token."""
    with truto_if_set(settings) as api:
        if api is None:
            yield green(_ROOM, "token", "TRUTO_API_TOKEN is not set: nothing is asked of Truto")
            return
        try:
            yield from _check(api, settings)
        except TrutoUnavailable as error:
            yield yellow(_ROOM, "reachable", str(error), "Look again later; receiving does not depend on it.")


def _check(api: TrutoApi, settings: Settings) -> Iterator[Finding]:
    try:
        next(api.list_runs({}), None)
    except TrutoRefused as error:
        yield red(
            _ROOM,
            "token",
            str(error),
            "Set TRUTO_API_TOKEN to a token of the runs' environment, or unset it.",
        )
        return
    yield green(_ROOM, "token", "TRUTO_API_TOKEN is accepted")
    ids = pinned_webhooks(settings)
    # What recent runs were sent to is told by the store; that it is away is told elsewhere.
    with suppress(StoreUnavailable, ConfigError):
        ids = known_webhooks(settings)
    if not ids:
        advice = "Pin it: TRUTO_WEBHOOK_SECRET=<webhook id>=<secret>."
        yield yellow(_ROOM, "webhook", "which webhook sends here is not known", advice)
    for each in ids:
        try:
            webhook = api.get_webhook(each)
        except TrutoRefused as error:
            advice = "See that the id in TRUTO_WEBHOOK_SECRET is right, and the token of its environment."
            yield red(_ROOM, "webhook", f"{printable(each)}: {error}", advice)
        else:
            yield from judge_webhook(webhook)


def judge_webhook(webhook: Webhook) -> Iterator[Finding]:
    """Say whether a webhook will send what is needed here."""
    id_ = printable(webhook.id)
    faults = []
    if webhook.is_active is False:
        advice = f"Mend what made it fail, then: rapidbridge webhook reactivate {id_}"
        faults.append(red(_ROOM, "webhook", f"{id_} is switched off: Truto sends nothing", advice))
    if fault := fault_of_target(webhook.target_url):
        message = f"{id_} sends to {shown(webhook.target_url)}"
        faults.append(red(_ROOM, "target", message, f"Correct it at Truto: {fault}"))
    if missing := missing_events(webhook.event_types):
        message = f"{id_} does not send {', '.join(missing)}"
        faults.append(red(_ROOM, "events", message, "Subscribe it to them at Truto."))
    yield from faults or [green(_ROOM, "webhook", f"{id_} is active, sends to {shown(webhook.target_url)}")]
