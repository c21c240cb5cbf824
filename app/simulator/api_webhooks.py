"""The stand-in's webhooks: looked at, created, switched on and off, and tested."""

from collections.abc import Mapping
from typing import Any

from app.simulator.api_requests import Answer, Request
from app.simulator.session import Stage
from app.simulator.webhooks import SimulatedWebhook, Webhooks


def answer_webhooks(stage: Stage, asked: Request) -> Answer:
    """Answer what is asked about webhooks."""
    webhooks = stage.webhooks
    match (asked.method, asked.id):
        case ("POST", ""):
            return _create(webhooks, asked.body)
        case ("POST", "test") if webhook := webhooks.get(str(asked.body.get("id"))):
            return _test(webhooks, webhook)
        case ("GET", id_) if webhook := webhooks.get(id_):
            return 200, webhook.describe()
        case ("PATCH", id_) if webhook := webhooks.get(id_):
            return _change(webhooks, webhook, asked.body)
    return 404, {"message": "Webhook not found"}


def _create(webhooks: Webhooks, body: Mapping[str, Any]) -> Answer:
    target_url, types = body.get("target_url"), body.get("event_types", [])
    if not (isinstance(target_url, str) and target_url and isinstance(types, list)):
        return 422, {"message": "target_url is required, event_types a list"}
    made = webhooks.create(target_url, tuple(map(str, types)), is_active=body.get("is_active", True) is True)
    return 200, {**made.describe(), "secret": made.secret}


def _change(webhooks: Webhooks, webhook: SimulatedWebhook, body: Mapping[str, Any]) -> Answer:
    is_active = body.get("is_active", webhook.is_active)
    if not isinstance(is_active, bool):
        return 422, {"message": "is_active must be true or false"}
    return 200, webhooks.set_active(webhook, is_active=is_active).describe()


def _test(webhooks: Webhooks, webhook: SimulatedWebhook) -> Answer:
    status = webhooks.test(webhook)
    if 200 <= status < 300:
        return 200, {"success": True}
    # What Truto answers here, beyond an error, is unconfirmed.
    return 422, {
        "message": f"The target URL answered {status}" if status else "The target URL did not answer"
    }
