"""Webhooks of the simulated API: the plan's own and created ones."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import httpx

from app.http_client import open_http_client, send
from app.simulator.event_payloads import build_event_payload
from app.simulator.event_writer import EventClock, EventWriter, make_id, make_job_ids
from app.simulator.plan import Plan
from app.simulator.variants import Variants
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
        self._rng = Random(f"{plan.seed}/webhooks")  # noqa: S311  # repeatable, no secret
        own = SimulatedWebhook(job.webhook_id, plan.url, plan.secret, event_types=_RUN_EVENTS)
        self._webhooks = {own.id: own}
        self._fixed_bodies: dict[tuple[str, str], bytes] = {}

    @property
    def variants(self) -> Variants:
        """The forms of the events that are sent on request."""
        return self._plan.variants

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

    def send_test_event(self, webhook: SimulatedWebhook, event: str, run: Mapping[str, Any]) -> int:
        """Send a signed event, and repeat it once if it is rejected and the variants say so.

        Returns the HTTP status of the first answer, or 0 for none. run: that the payload is about.
        """
        retry = self._plan.variants.test_retry
        payload = build_event_payload(self._plan, event, run, self._rng)
        writer = EventWriter(self._rng, self._clock, self._plan, webhook_id=webhook.id, run_id=run["id"])
        body = writer.write_event(event, payload)[0]
        if self._plan.variants.test_body == "fixed":
            body = self._fixed_bodies.setdefault((webhook.id, event), body)
        status = self._post(webhook, body)
        if not 200 <= status < 300 and retry != "none":
            time.sleep(self._plan.first_backoff_s)
            if retry == "same_id":
                later = {**json.loads(body), "created_at": self._clock.next_time()}
                body = json.dumps(later).encode()
            elif retry == "new_id":
                body = writer.write_event(event, payload)[0]
            self._post(webhook, body)
        return status

    def _post(self, webhook: SimulatedWebhook, body: bytes) -> int:
        plan = self._plan
        signature = sign(body, webhook.secret, encoding=plan.encoding, with_format=plan.with_format)
        headers = {"Content-Type": "application/json", "User-Agent": "truto", "X-Truto-Signature": signature}
        try:
            with open_http_client(allow_private=True, trust_env=False) as client:
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
