"""Webhooks of the simulated API: the plan's own and created ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import httpx

from app.http_client import open_http_client, send
from app.simulator.event_writer import EventClock, EventWriter, make_id, make_job_ids
from app.simulator.plan import Plan
from app.truto.signature import sign

_TIMEOUT_S = 30.0
_RUN_EVENTS = tuple(
    f"sync_job_run:{action}"
    for action in (
        *("created", "started", "updated", "completed", "failed", "deleted"),
        *("rate_limited", "record", "record_error"),
    )
)


def find_unknown_events(event_types: Sequence[str]) -> list[str]:
    """Return the events of runs that Truto does not have, and may refuse to subscribe to: unconfirmed."""
    return [
        event
        for event in event_types
        if event.startswith("sync_job_run:") and "*" not in event and event not in _RUN_EVENTS
    ]


@dataclass(frozen=True, slots=True)
class SimulatedWebhook:
    """One webhook. secret: the key that signs its events."""

    id: str
    target_url: str
    secret: str = field(repr=False)
    is_active: bool = True
    event_types: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the webhook as JSON for the API, without its secret."""
        return {
            "id": self.id,
            "target_url": self.target_url,
            "is_active": self.is_active,
            "event_types": list(self.event_types),
        }


class SimulatedWebhooks:
    """All webhooks by id. The plan's runs always send to the plan's own webhook, even if it is inactive."""

    def __init__(self, plan: Plan, clock: EventClock) -> None:
        job = make_job_ids(plan)
        self._plan = plan
        self._clock = clock
        self._environment_id = job.environment_id
        self._rng = Random(f"{plan.seed}/webhooks")  # noqa: S311  # repeatable, no secret
        own = SimulatedWebhook(job.webhook_id, plan.url, plan.secret, event_types=_RUN_EVENTS)
        self._webhooks = {own.id: own}

    def get(self, webhook_id: str) -> SimulatedWebhook | None:
        """Return a webhook by its id, or None."""
        return self._webhooks.get(webhook_id)

    def create(self, target_url: str, event_types: tuple[str, ...], *, is_active: bool) -> SimulatedWebhook:
        """Add a webhook with a new secret."""
        id_, secret = make_id(self._rng), make_id(self._rng)
        webhook = SimulatedWebhook(id_, target_url, secret, is_active=is_active, event_types=event_types)
        self._webhooks[id_] = webhook
        return webhook

    def set_active(self, webhook: SimulatedWebhook, *, is_active: bool) -> SimulatedWebhook:
        """Activate or deactivate a webhook."""
        changed = replace(webhook, is_active=is_active)
        self._webhooks[webhook.id] = changed
        return changed

    def send_test_event(self, webhook: SimulatedWebhook) -> int:
        """Send a signed `test` event once; return the HTTP status, or 0 for no answer."""
        plan = self._plan
        writer = EventWriter(
            self._rng, self._clock, environment_id=self._environment_id, webhook_id=webhook.id
        )
        body = writer.write_test_event()
        signature = sign(body, webhook.secret, encoding=plan.encoding, with_format=plan.with_format)
        headers = {"Content-Type": "application/json", "User-Agent": "truto", "X-Truto-Signature": signature}
        try:
            with open_http_client(trust_env=False) as client:
                response = send(
                    client,
                    "POST",
                    webhook.target_url,
                    timeout_s=_TIMEOUT_S,
                    max_bytes=None,
                    content=body,
                    headers=headers,
                )
                return response.status_code
        except (httpx.RequestError, httpx.InvalidURL):
            return 0
