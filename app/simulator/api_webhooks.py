"""The stand-in's webhooks: looked at, created, switched on and off, and tested."""

from collections.abc import Mapping
from typing import Any

from app.simulator.api_endpoints import ApiRequest, ApiResponse
from app.simulator.session import SimulationSession
from app.simulator.simulated_webhooks import SimulatedWebhook, SimulatedWebhooks


def handle_webhook_request(session: SimulationSession, request: ApiRequest) -> ApiResponse:
    """Answer what is asked about webhooks."""
    webhooks = session.webhooks
    match (request.method, request.id):
        case ("POST", ""):
            return _create_webhook(webhooks, request.body)
        case ("POST", "test") if webhook := webhooks.get(str(request.body.get("id"))):
            return _test_webhook(webhooks, webhook)
        case ("GET", id_) if webhook := webhooks.get(id_):
            return 200, webhook.describe()
        case ("PATCH", id_) if webhook := webhooks.get(id_):
            return _update_webhook(webhooks, webhook, request.body)
    return 404, {"message": "Webhook not found"}


def _create_webhook(webhooks: SimulatedWebhooks, body: Mapping[str, Any]) -> ApiResponse:
    target_url, types = body.get("target_url"), body.get("event_types", [])
    if not (isinstance(target_url, str) and target_url and isinstance(types, list)):
        return 422, {"message": "target_url is required, event_types a list"}
    webhook = webhooks.create(
        target_url, tuple(map(str, types)), is_active=body.get("is_active", True) is True
    )
    return 200, {**webhook.describe(), "secret": webhook.secret}


def _update_webhook(
    webhooks: SimulatedWebhooks, webhook: SimulatedWebhook, body: Mapping[str, Any]
) -> ApiResponse:
    is_active = body.get("is_active", webhook.is_active)
    if not isinstance(is_active, bool):
        return 422, {"message": "is_active must be true or false"}
    return 200, webhooks.set_active(webhook, is_active=is_active).describe()


def _test_webhook(webhooks: SimulatedWebhooks, webhook: SimulatedWebhook) -> ApiResponse:
    status = webhooks.send_test_event(webhook)
    if 200 <= status < 300:
        return 200, {"success": True}
    # What Truto answers here, beyond an error, is unconfirmed.
    return 422, {
        "message": f"The target URL answered {status}" if status else "The target URL did not answer"
    }
