"""All settings with their names, defaults and checks.

The only module that reads the environment.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.config.database_identity import derive_namespace
from app.config.database_url import check_database_url, check_schema_name
from app.config.problems import describe_violation, quote_value
from app.config.redis_url import check_redis_url
from app.errors import ConfigError

# Reserved for the dashboard: not read yet, but no unknown setting either.
_RESERVED = ("DASHBOARD_PASSWORD",)
# Set by a supervisor for each worker process that it starts; not a setting.
WORKER_VARIABLE = "SUPERVISED_WORKER"
# No message quotes these: a URL may contain a password.
_SECRET_SETTINGS = ("TRUTO_WEBHOOK_SECRET", "TRUTO_API_TOKEN", "TRUTO_API_URL", "DATABASE_URL", "REDIS_URL")


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """A secret of Truto's webhooks: of the webhook `webhook_id`, or of any webhook if that is None."""

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
            raise ValueError("one side of a `=` is empty; write secret or webhook_id=secret")
        secrets.append(WebhookSecret(value.strip(), webhook_id.strip() or None))
    return tuple(secrets)


def _check_database_url(text: object) -> object:
    if not re.match(r"(sqlite|postgres|postgresql|postgresql\+psycopg)://", str(text)):
        raise ValueError(
            "starts with neither postgres:// nor sqlite://; set the URL of a PostgreSQL or SQLite database"
        )
    return check_database_url(str(text))


def _check_redis_url(text: object) -> object:
    return check_redis_url(str(text))


def _check_namespace(text: object) -> object:
    if not re.fullmatch(r"(?!unnamed$)[A-Za-z0-9_.-]{1,64}", str(text)):
        raise ValueError(
            'contains other characters than letters, digits, "_", "." and "-", is longer than 64 characters, '
            'or is the reserved word "unnamed"'
        )
    return text


def _check_api_url(text: object) -> object:
    if urlsplit(str(text)).scheme not in ("http", "https"):
        raise ValueError("does not start with https://; set the URL of Truto's API, or unset TRUTO_API_URL")
    return text


def _check_token(text: object) -> object:
    if not (str(text).isascii() and str(text).isprintable() and " " not in str(text)):
        raise ValueError("contains characters that no token has; copy the token from Truto again")
    return text


class Settings(BaseModel):
    """Valid settings, built once by `read_settings` and passed down."""

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
    database_schema: Annotated[str, AfterValidator(check_schema_name)] = Field(
        default="", alias="DATABASE_SCHEMA"
    )
    redis_url: Annotated[str, BeforeValidator(_check_redis_url)] = Field(
        default="", alias="REDIS_URL", repr=False
    )
    redis_tls_verify: bool = Field(default=True, alias="REDIS_TLS_VERIFY")
    redis_namespace: Annotated[str, BeforeValidator(_check_namespace)] = Field(
        default="", alias="REDIS_NAMESPACE"
    )
    routes_file: Path | None = Field(default=None, alias="ROUTES_FILE")
    port: int = Field(default=8000, ge=1, le=65535, alias="PORT")
    web_concurrency: int = Field(default=2, ge=1, le=64, alias="WEB_CONCURRENCY")
    worker_concurrency: int = Field(default=1, ge=1, le=64, alias="WORKER_CONCURRENCY")
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3, alias="MAX_BODY_BYTES")
    late_records: Literal["deliver", "keep"] = Field(default="deliver", alias="LATE_RECORDS")
    attribute_to_open_run: bool = Field(default=False, alias="ATTRIBUTE_TO_OPEN_RUN")
    stalled_after_minutes: float = Field(default=15, gt=0, alias="STALLED_AFTER_MINUTES")
    reactivate_webhook: bool = Field(default=False, alias="REACTIVATE_WEBHOOK")
    replay_window_s: int = Field(default=0, ge=0, alias="REPLAY_WINDOW_S")
    retention_days: int = Field(default=0, ge=0, le=36500, alias="RETENTION_DAYS")
    maintenance: str = Field(default="", alias="MAINTENANCE")

    @property
    def namespace(self) -> str:
        """The name of this receiver's keys in Redis: REDIS_NAMESPACE, or one made of DATABASE_URL.

        Not an id from the database: a web process that starts while the database is down has to spool.
        """
        return self.redis_namespace or derive_namespace(self.database_url, self.database_schema)

    @property
    def secret_values(self) -> tuple[str, ...]:
        """All webhook secrets, pinned to a webhook or not."""
        return tuple(secret.value for secret in self.webhook_secrets)

    def may_sign(self, secret: str, webhook_id: str) -> bool:
        """Whether a secret may sign for a webhook: it is pinned to it, or to none.

        webhook_id: "" if the body names no webhook; no such body may be lost.
        """
        return any(
            candidate.value == secret and (not webhook_id or candidate.webhook_id in (None, webhook_id))
            for candidate in self.webhook_secrets
        )


def list_setting_names() -> tuple[str, ...]:
    """Return the names of all settings, including reserved ones."""
    return (*(field.alias for field in Settings.model_fields.values() if field.alias), *_RESERVED)


def read_environment() -> dict[str, str]:
    """Return all non-empty variables of the environment and, below them, of a `.env` in this folder."""
    variables = {name: value or "" for name, value in dotenv_values(".env").items()} | dict(os.environ)
    # Platforms pass an unset variable as an empty one.
    return {name: value for name, value in variables.items() if value.strip()}


def build_child_environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child process. settings: replace all of ours; None keeps them."""
    if settings is None:
        return dict(os.environ)
    ours = set(list_setting_names())
    others = {name: value for name, value in os.environ.items() if name not in ours}
    # The child may run in another folder, from which `app` cannot be imported unless it is installed.
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), others.get("PYTHONPATH"))))
    return others | {"PYTHONPATH": path} | dict(settings)


def read_worker_token() -> str:
    """Return the random part of this worker's name, set by its supervisor; "" without a supervisor."""
    return os.environ.get(WORKER_VARIABLE, "")


def read_settings(variables: Mapping[str, str], *, required: Sequence[str] = ()) -> Settings:
    """Check all settings together.

    variables: see `read_environment`. required: names of settings that must be set.
    Raises ConfigError with every problem; no message contains a URL, a token or a secret.
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
            _describe_problem(detail, variables)
            for detail in error.errors(include_input=False, include_url=False)
        ]
    if problems:
        raise ConfigError(problems)
    return settings


def _describe_problem(detail: Any, variables: Mapping[str, str]) -> str:
    name = detail["loc"][0]
    value = "the value" if name in _SECRET_SETTINGS else quote_value(variables.get(name))
    default = next(field.default for field in Settings.model_fields.values() if field.alias == name)
    default = str(default).lower() if isinstance(default, bool) else default
    unset = f"unset {name}{f' for its default, {default}' if default != '' else ''}"
    hint = "" if name in _SECRET_SETTINGS else f" Correct it, or {unset}."
    return f"{name}: {describe_violation(detail, value)}.{hint}"


def _find_misspelt(variables: Mapping[str, str]) -> list[str]:
    setting_names = list_setting_names()
    problems = []
    for name in sorted(variables.keys() - set(setting_names)):
        unset = [
            candidate for candidate in setting_names if candidate not in variables and len(candidate) >= 8
        ]
        near = difflib.get_close_matches(name, unset, n=1, cutoff=0.87)
        if near:
            problems.append(f"{name}: unknown setting. Did you mean {near[0]}?")
        elif re.match(r"TRUTO_|RAPIDBRIDGE_", name):
            problems.append(f"{name}: unknown setting. Unset it, or use one of: {', '.join(setting_names)}.")
    return problems


def _find_missing(variables: Mapping[str, str], required: Sequence[str]) -> list[str]:
    return [
        f"{name}: not set. {_HOW_TO_SET[name]}"
        for name in required
        if not variables.get(name, "").strip(", ")
    ]


_HOW_TO_SET = {
    "TRUTO_WEBHOOK_SECRET": (
        "Set it to the secret that Truto showed when the webhook was created (several: separate with commas)."
    ),
    "TRUTO_API_TOKEN": "Set it to an API token of the Truto environment that the runs belong to.",
    "REDIS_URL": "Set it to the URL of a Redis or Valkey server, or let `rapidbridge up` start one.",
}


def _find_contradictions(variables: Mapping[str, str]) -> list[str]:
    problems = []
    # Every dyno has its own disk, which is lost daily: web and worker would have an inbox each, soon lost.
    if "DYNO" in variables and variables.get("DATABASE_URL", "sqlite:").startswith("sqlite:"):
        problems.append(
            "DATABASE_URL: this platform's processes cannot share a SQLite file. "
            "Attach a PostgreSQL database; on Heroku: heroku addons:create heroku-postgresql"
        )
    if variables.get("DATABASE_SCHEMA") and variables.get("DATABASE_URL", "sqlite:").startswith("sqlite:"):
        problems.append("DATABASE_SCHEMA: SQLite has no schemas. Unset it, or use a PostgreSQL database.")
    routes_file = variables.get("ROUTES_FILE")
    if routes_file and not Path(routes_file).is_file():
        problems.append(
            f"ROUTES_FILE: there is no file {routes_file}. Correct the path, or unset ROUTES_FILE."
        )
    return problems
