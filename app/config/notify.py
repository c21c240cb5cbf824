"""An endpoint that is told of what matters: a [[notify]] table of the routes file."""

import base64
import difflib
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NOTIFICATION_KINDS = (
    "run.reconciled",
    "run.incomplete",
    "run.stalled",
    "run.stopped",
    "sink.failing",
    "webhook.inactive",
)

_SECRET_PREFIX = "whsec_"  # noqa: S105  # how all of them begin
_SECRET_BYTES = range(24, 65)
_SECRET_ADVICE = "write whsec_ and behind it what `openssl rand -base64 32` prints"  # noqa: S105  # advice


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not url.isprintable() or " " in url:
        raise ValueError("no address: write https://… or http://…, or the $VARIABLE that holds it")
    return url


def _check_pattern(pattern: str) -> str:
    if not any(fnmatchcase(kind, pattern) for kind in NOTIFICATION_KINDS):
        near = difflib.get_close_matches(pattern, NOTIFICATION_KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(NOTIFICATION_KINDS)}"
        raise ValueError(f"nothing is called {pattern}; {hint}")
    return pattern


KindPattern = Annotated[str, AfterValidator(_check_pattern)]


def _check_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not patterns:
        raise ValueError('it would be told of nothing: leave `events` out, or name some, such as "run.*"')
    return patterns


def _check_secret(secret: str) -> str:
    try:
        key_bytes = len(_decode_secret(secret))
    except ValueError:
        key_bytes = 0
    if not secret.startswith(_SECRET_PREFIX) or key_bytes not in _SECRET_BYTES:
        raise ValueError(f"not whsec_ and the base64 of 24 to 64 bytes: {_SECRET_ADVICE}")
    return secret


def _decode_secret(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)


class NotifyConfig(BaseModel):
    """Where notices go to, and which; shell-style patterns in `events`.

    form: "standard" is signed as Standard Webhooks says, "slack" a text as Slack's incoming webhooks take it.
    name: what logs and tables call it; its URL may be a secret itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    url: Annotated[str, AfterValidator(_check_url)] = Field(repr=False)
    form: Literal["standard", "slack"] = "standard"
    secret: Annotated[str, AfterValidator(_check_secret)] = Field(default="", repr=False)
    events: Annotated[tuple[KindPattern, ...], AfterValidator(_check_patterns)] = ("*",)

    @property
    def signing_key(self) -> bytes:
        """What to sign with."""
        return _decode_secret(self.secret)

    def accepts(self, kind: str) -> bool:
        """Whether it is to be told of this kind of notice."""
        return any(fnmatchcase(kind, pattern) for pattern in self.events)

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if self.form == "slack" and self.secret:
            raise ValueError("nobody checks signatures at Slack: take `secret` out")
        if self.form == "standard" and not self.secret:
            raise ValueError(f"without a `secret` nothing can be signed: {_SECRET_ADVICE}")
        return self
