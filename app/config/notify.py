"""Subscribers of notifications: the [[notify]] tables of the routes file."""

import difflib
import re
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from app.standard_webhooks import SECRET_ADVICE, check_signing_secret

NOTIFICATION_KINDS = (
    "run.reconciled",
    "run.incomplete",
    "run.stalled",
    "run.stopped",
    "deletes.held",
    "sink.failing",
    "sink.recovered",
    "account.unknown",
    "key.missing",
    "webhook.inactive",
    "webhook.unauthorized",
    "webhook.rejected",
    "delivery.failed",
    "delivery.delayed",
    "workers.missing",
    "worker.outdated",
    "task.failing",
    "spool.in_use",
    "spool.unreadable",
    "disk.low",
)

# Good news opens no incident.
_NO_INCIDENTS = ("run.reconciled", "sink.recovered")
_INTEGRATION_KEY = "the Integration Key of an Events API V2 integration in PagerDuty"
_ROUTING_KEY = re.compile(r"[A-Za-z0-9]{32}")


def check_http_url(url: str) -> str:
    """Return a valid http:// or https:// URL; raises ValueError without the URL."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not url.isprintable() or " " in url:
        raise ValueError(
            "not an http:// or https:// URL; write one, or the $NAME of a variable that contains it"
        )
    return url


def _check_pattern(pattern: str) -> str:
    if not any(fnmatchcase(kind, pattern) for kind in NOTIFICATION_KINDS):
        near = difflib.get_close_matches(pattern, NOTIFICATION_KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(NOTIFICATION_KINDS)}"
        raise ValueError(f"no notification matches {pattern}; {hint}")
    return pattern


KindPattern = Annotated[str, AfterValidator(_check_pattern)]


def _check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError('the list is empty; remove `events`, or list some, such as "run.*"')
    return patterns


def _check_secret(secret: str, info: ValidationInfo) -> str:
    if info.data.get("form") == "pagerduty":
        if not _ROUTING_KEY.fullmatch(secret):
            raise ValueError(f"not {_INTEGRATION_KEY}, of 32 letters and digits")
        return secret
    return check_signing_secret(secret)


class NotifyConfig(BaseModel):
    """One subscriber, and the notifications it accepts. events: shell-style patterns of their kinds.

    form: "standard" sends JSON signed by the rules of Standard Webhooks, "slack" and "teams" a message for an
    incoming webhook, "pagerduty" an event. secret: of the signature, or PagerDuty's key. allow_private: the
    endpoint may have an address outside of the public internet. name: identifies the subscriber in logs and
    tables, because its URL may be a secret.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    url: Annotated[str, AfterValidator(check_http_url)] = Field(repr=False)
    form: Literal["standard", "slack", "teams", "pagerduty"] = "standard"
    secret: Annotated[str, AfterValidator(_check_secret)] = Field(default="", repr=False)
    events: Annotated[tuple[KindPattern, ...], AfterValidator(_check_patterns)] = ("*",)
    allow_private: bool = Field(default=False, strict=True)

    @property
    def receives_ends(self) -> bool:
        """Whether the subscriber receives the ends of conditions too."""
        return self.form == "pagerduty"

    def accepts(self, kind: str) -> bool:
        """Whether the subscriber accepts notifications of this kind."""
        if self.form == "pagerduty" and kind in _NO_INCIDENTS:
            return False
        return any(fnmatchcase(kind, pattern) for pattern in self.events)

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if self.form in ("slack", "teams") and self.secret:
            service = "Slack" if self.form == "slack" else "Microsoft Teams"
            raise ValueError(f"{service} does not verify signatures; remove `secret`")
        if self.form == "pagerduty" and not self.secret:
            raise ValueError(f"`secret` is missing: {_INTEGRATION_KEY}")
        if self.form == "standard" and not self.secret:
            raise ValueError(f"`secret` is missing, which signs the notifications; {SECRET_ADVICE}")
        return self
