"""The secret that commands sign events with, and the place it comes from."""

from typing import NamedTuple

from app.cli.local.development_secret import WEBHOOK_SECRET
from app.config.settings import Settings


class SigningSecret(NamedTuple):
    """A secret. source: its place, for messages. webhook_id: of the only webhook that it is for, or None."""

    value: str
    source: str
    webhook_id: str | None = None


def find_signing_secret(settings: Settings, option: str | None) -> SigningSecret | None:
    """Return the secret to sign with; None without one. option: the value of --secret."""
    if option:
        return SigningSecret(option, "--secret")
    # A secret for any webhook first.
    for secret in sorted(settings.webhook_secrets, key=lambda secret: secret.webhook_id is not None):
        return SigningSecret(secret.value, "TRUTO_WEBHOOK_SECRET", secret.webhook_id)
    development_secret = WEBHOOK_SECRET.read()
    return SigningSecret(development_secret, "var/webhook-secret") if development_secret else None
