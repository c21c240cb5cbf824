"""Every setting: its name, default, unit and check. The only reader of the environment."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.errors import ConfigError

# Names that the contract reserves for parts which read them elsewhere: known, never "unknown".
_RESERVED = ("DASHBOARD_PASSWORD",)


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """A secret of Truto's, valid for every webhook, or for `webhook_id` alone where that is set."""

    value: str
    webhook_id: str | None = None

    def __repr__(self) -> str:
        return f"WebhookSecret(<{len(self.value)} characters>, webhook_id={self.webhook_id!r})"


def _parse_secrets(text: object) -> object:
    if not isinstance(text, str):
        return text
    secrets = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        webhook_id, equals, value = part.rpartition("=")
        if equals and not (webhook_id.strip() and value.strip()):
            raise ValueError("a part has nothing before or after its `=`: write secret or webhook_id=secret")
        secrets.append(WebhookSecret(value.strip(), webhook_id.strip() or None))
    return tuple(secrets)


def _check_database_url(text: object) -> object:
    if not re.match(r"(sqlite|postgres|postgresql|postgresql\+psycopg)://", str(text)):
        raise ValueError("not postgres://… or sqlite:///…: set the URL of a PostgreSQL or SQLite database")
    return text


def _check_redis_url(text: object) -> object:
    if urlsplit(str(text)).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("not redis://…, rediss://… or unix://…: set the URL of a Redis or Valkey server")
    return text


def _check_api_url(text: object) -> object:
    if urlsplit(str(text)).scheme not in ("http", "https"):
        raise ValueError("not https://… or http://…: set the address of Truto's API, or unset it")
    return text


def _check_token(text: object) -> object:
    if not (str(text).isascii() and str(text).isprintable() and " " not in str(text)):
        raise ValueError("it holds characters that no token has: copy it from Truto again")
    return text


class Settings(BaseModel):
    """What the processes run with; built once by `read_settings` and passed down."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="ignore")

    webhook_secrets: Annotated[tuple[WebhookSecret, ...], BeforeValidator(_parse_secrets)] = Field(
        default=(), alias="TRUTO_WEBHOOK_SECRET"
    )
    truto_api_token: Annotated[str, BeforeValidator(_check_token)] = Field(
        default="", alias="TRUTO_API_TOKEN", repr=False
    )
    truto_api_url: Annotated[str, BeforeValidator(_check_api_url)] = Field(
        default="https://api.truto.one", alias="TRUTO_API_URL"
    )
    database_url: Annotated[str, BeforeValidator(_check_database_url)] = Field(
        default="sqlite:///var/rapidbridge.db", alias="DATABASE_URL", repr=False
    )
    redis_url: Annotated[str, BeforeValidator(_check_redis_url)] = Field(
        default="", alias="REDIS_URL", repr=False
    )
    redis_tls_verify: bool = Field(default=True, alias="REDIS_TLS_VERIFY")
    routes_file: Path | None = Field(default=None, alias="ROUTES_FILE")
    port: int = Field(default=8000, ge=1, le=65535, alias="PORT")
    web_concurrency: int = Field(default=2, ge=1, le=64, alias="WEB_CONCURRENCY")
    worker_concurrency: int = Field(default=1, ge=1, le=64, alias="WORKER_CONCURRENCY")
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3, alias="MAX_BODY_BYTES")
    late_records: Literal["deliver", "keep"] = Field(default="deliver", alias="LATE_RECORDS")
    stalled_after_minutes: float = Field(default=15, gt=0, alias="STALLED_AFTER_MINUTES")
    reactivate_webhook: bool = Field(default=False, alias="REACTIVATE_WEBHOOK")
    replay_window_s: int = Field(default=0, ge=0, alias="REPLAY_WINDOW_S")
    retention_days: int = Field(default=0, ge=0, le=36500, alias="RETENTION_DAYS")
    maintenance: str = Field(default="", alias="MAINTENANCE")

    @property
    def secret_values(self) -> tuple[str, ...]:
        return tuple(secret.value for secret in self.webhook_secrets)

    def may_sign(self, secret: str, webhook_id: str) -> bool:
        """Whether a body signed with this secret may belong to this webhook."""
        return any(
            known.value == secret and known.webhook_id in (None, webhook_id) for known in self.webhook_secrets
        )


def list_setting_names() -> tuple[str, ...]:
    """Return the names of all settings, those included that later parts read."""
    return (*(field.alias for field in Settings.model_fields.values() if field.alias), *_RESERVED)


def read_environment() -> dict[str, str]:
    """Return the variables that are set: the environment's, and beneath it a `.env` of the working folder."""
    variables = {name: value or "" for name, value in dotenv_values(".env").items()} | dict(os.environ)
    # An empty variable is how platforms spell "unset".
    return {name: value for name, value in variables.items() if value.strip()}


def build_child_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a child's environment: this one, or with these settings in place of all of ours."""
    if settings is None:
        return dict(os.environ)
    ours = set(list_setting_names())
    others = {name: value for name, value in os.environ.items() if name not in ours}
    # The child may run in another folder, where `app` is found only if it is installed.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), others.get("PYTHONPATH"))))
    return others | {"PYTHONPATH": path} | dict(settings)


def read_settings(variables: Mapping[str, str], *, required: Sequence[str] = ()) -> Settings:
    """Read and check every setting at once.

    variables: as `read_environment` returns them. needs: names of settings without which to refuse.
    Raises ConfigError with every complaint; none of them holds a value.
    """
    problems = [
        *_find_missing(variables, required),
        *_find_misspelt(variables),
        *_find_contradictions(variables),
    ]
    try:
        settings = Settings.model_validate(variables)
    except ValidationError as error:
        problems += [
            _describe_problem(detail) for detail in error.errors(include_input=False, include_url=False)
        ]
    if problems:
        raise ConfigError(problems)
    return settings


def _describe_problem(detail: Any) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    return f"{detail['loc'][0]}: {message[0].lower()}{message[1:]}."


def _find_misspelt(variables: Mapping[str, str]) -> list[str]:
    """Names that nothing here reads, but which look as if something should."""
    known = list_setting_names()
    problems = []
    for name in sorted(variables.keys() - set(known)):
        unset = [candidate for candidate in known if candidate not in variables and len(candidate) >= 8]
        near = difflib.get_close_matches(name, unset, n=1, cutoff=0.87)
        if near:
            problems.append(f"{name}: no such setting. Did you mean {near[0]}?")
        elif re.match(r"TRUTO_|RAPIDBRIDGE_", name):
            problems.append(f"{name}: no such setting. Unset it, or use one of: {', '.join(known)}.")
    return problems


def _find_missing(variables: Mapping[str, str], required: Sequence[str]) -> list[str]:
    return [
        f"{name}: not set. {_HOW_TO_SET[name]}"
        for name in required
        if not variables.get(name, "").strip(", ")
    ]


_HOW_TO_SET = {
    "TRUTO_WEBHOOK_SECRET": (
        "Set it to the secret that Truto showed when the webhook was created (several: comma-separated)."
    ),
    "TRUTO_API_TOKEN": "Set it to an API token of the environment that the runs belong to.",
    "REDIS_URL": "Set it to a Redis or Valkey server, or let `rapidbridge up` start one.",
}


def _find_contradictions(variables: Mapping[str, str]) -> list[str]:
    problems = []
    # A dyno's disk is its own and is thrown away daily: web and worker would each have an inbox, soon lost.
    if "DYNO" in variables and variables.get("DATABASE_URL", "sqlite:").startswith("sqlite:"):
        problems.append(
            "DATABASE_URL: a SQLite file cannot be shared by this platform's processes. "
            "Attach a PostgreSQL (on Heroku: heroku addons:create heroku-postgresql)."
        )
    routes_file = variables.get("ROUTES_FILE")
    if routes_file and not Path(routes_file).is_file():
        problems.append(f"ROUTES_FILE: there is no file {routes_file}. Correct the path, or unset it.")
    return problems
