"""All settings with their names, defaults and checks.

The only module that reads the environment.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from app.config.database_identity import derive_namespace
from app.config.database_url import check_schema_name, check_store_url
from app.config.machine import get_machine
from app.config.problems import (
    describe_violation,
    escape_all,
    escape_unprintable,
    find_unusable_character,
    name_value,
    quote_value,
)
from app.config.redis_url import check_redis_url
from app.config.setting_values import (
    MAX_DAYS,
    check_api_url,
    check_metrics_token,
    check_namespace,
    check_password,
    check_public_url,
    check_token,
    clean_values,
    parse_encryption_keys,
    parse_maintenance,
)
from app.config.unknown_settings import find_unknown_settings
from app.encryption import Keyring
from app.errors import ConfigError

# Set by a supervisor for each worker process that it starts; not a setting.
WORKER_VARIABLE = "SUPERVISED_WORKER"
# The path of a copy of the routes file, set by `rapidbridge worker` for its processes; not a setting.
ROUTES_SNAPSHOT_VARIABLE = "ROUTES_SNAPSHOT"
# No message quotes these: a URL may contain a password. One exception: `_quote_setting`.
_SECRET_SETTINGS = (
    *("TRUTO_WEBHOOK_SECRET", "TRUTO_API_TOKEN", "TRUTO_API_URL"),
    *("DATABASE_URL", "MIGRATION_DATABASE_URL", "REDIS_URL"),
    *("DASHBOARD_PASSWORD", "DASHBOARD_READ_PASSWORD", "METRICS_TOKEN", "ENCRYPTION_KEYS"),
)
_MAX_URL_CHARS = 80


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
    # A comma at the end is harmless; an entry that is empty between two others is a lost secret.
    parts = text.rstrip(", ").split(",") if text.strip(", ") else []
    return tuple(_parse_secret(part.strip(), number) for number, part in enumerate(parts, start=1))


def _parse_secret(text: str, number: int) -> WebhookSecret:
    if not text:
        raise ValueError(f"entry {number} is empty; write the missing secret, or remove the extra comma")
    if not text.isascii() or "'" in text or '"' in text:
        raise ValueError(
            f"entry {number} contains a character that no secret has, such as a quotation mark; "
            "separate secrets with commas, and copy them from Truto again"
        )
    webhook_id, equals, value = text.rpartition("=")
    if equals and not (webhook_id.strip() and value.strip()):
        raise ValueError("one side of a `=` is empty; write secret or webhook_id=secret")
    return WebhookSecret(value.strip(), webhook_id.strip() or None)


class Settings(BaseModel):
    """Valid settings, built once by `read_settings` and passed down."""

    model_config = ConfigDict(
        frozen=True, hide_input_in_errors=True, extra="ignore", arbitrary_types_allowed=True
    )

    webhook_secrets: Annotated[tuple[WebhookSecret, ...], BeforeValidator(_parse_secrets)] = Field(
        default=(), alias="TRUTO_WEBHOOK_SECRET"
    )
    truto_api_token: Annotated[str, AfterValidator(check_token)] = Field(
        default="", alias="TRUTO_API_TOKEN", repr=False
    )
    truto_api_url: Annotated[str, AfterValidator(check_api_url)] = Field(
        default="https://api.truto.one", alias="TRUTO_API_URL"
    )
    database_url: Annotated[str, AfterValidator(check_store_url)] = Field(
        default="sqlite:///var/rapidbridge.db", alias="DATABASE_URL", repr=False
    )
    database_schema: Annotated[str, AfterValidator(check_schema_name)] = Field(
        default="", alias="DATABASE_SCHEMA"
    )
    migration_database_url: Annotated[str, AfterValidator(check_store_url)] = Field(
        default="", alias="MIGRATION_DATABASE_URL", repr=False
    )
    redis_url: Annotated[str, AfterValidator(check_redis_url)] = Field(
        default="", alias="REDIS_URL", repr=False
    )
    redis_tls_verify: bool = Field(default=True, alias="REDIS_TLS_VERIFY")
    redis_namespace: Annotated[str, AfterValidator(check_namespace)] = Field(
        default="", alias="REDIS_NAMESPACE"
    )
    routes_file: Path | None = Field(default=None, alias="ROUTES_FILE")
    port: int = Field(default=8000, ge=1, le=65535, alias="PORT")
    web_concurrency: int = Field(
        default_factory=lambda: get_machine().compute_web_concurrency(), ge=1, le=64, alias="WEB_CONCURRENCY"
    )
    worker_concurrency: int = Field(
        default_factory=lambda: get_machine().compute_worker_concurrency(),
        ge=1,
        le=64,
        alias="WORKER_CONCURRENCY",
    )
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, le=1024**3, alias="MAX_BODY_BYTES")
    late_records: Annotated[Literal["deliver", "keep"], BeforeValidator(str.lower)] = Field(
        default="deliver", alias="LATE_RECORDS"
    )
    attribute_to_open_run: bool = Field(default=False, alias="ATTRIBUTE_TO_OPEN_RUN")
    stalled_after_minutes: float = Field(
        default=15, gt=0, le=MAX_DAYS * 1440, allow_inf_nan=False, alias="STALLED_AFTER_MINUTES"
    )
    reactivate_webhook: bool = Field(default=False, alias="REACTIVATE_WEBHOOK")
    replay_window_s: int = Field(default=0, ge=0, le=MAX_DAYS * 86400, alias="REPLAY_WINDOW_S")
    retention_days: int = Field(default=0, ge=0, le=MAX_DAYS, alias="RETENTION_DAYS")
    encryption_keys: Annotated[Keyring, BeforeValidator(parse_encryption_keys)] = Field(
        default=Keyring(), alias="ENCRYPTION_KEYS", repr=False
    )
    maintenance: Annotated[str, AfterValidator(parse_maintenance)] = Field(default="", alias="MAINTENANCE")
    dashboard_password: Annotated[str, AfterValidator(check_password)] = Field(
        default="", alias="DASHBOARD_PASSWORD", repr=False
    )
    dashboard_read_password: Annotated[str, AfterValidator(check_password)] = Field(
        default="", alias="DASHBOARD_READ_PASSWORD", repr=False
    )
    metrics_token: Annotated[str, AfterValidator(check_metrics_token)] = Field(
        default="", alias="METRICS_TOKEN", repr=False
    )
    public_url: Annotated[str, AfterValidator(check_public_url)] = Field(default="", alias="PUBLIC_URL")
    log_format: Annotated[Literal["auto", "json", "text"], BeforeValidator(str.lower)] = Field(
        default="auto", alias="LOG_FORMAT"
    )

    @field_validator("reactivate_webhook")
    @classmethod
    def _check_reactivation(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("truto_api_token") == "":
            raise ValueError("needs TRUTO_API_TOKEN, which is not set; set it, or unset REACTIVATE_WEBHOOK")
        return value

    @field_validator("dashboard_read_password")
    @classmethod
    def _check_read_password(cls, value: str, info: ValidationInfo) -> str:
        if value and value == info.data.get("dashboard_password"):
            raise ValueError("equals DASHBOARD_PASSWORD; choose another one, or unset one of them")
        return value

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
    """Return the names of all settings."""
    return tuple(field.alias for field in Settings.model_fields.values() if field.alias)


def is_secret(name: str) -> bool:
    """Whether a setting may contain a secret."""
    return name in _SECRET_SETTINGS


def read_environment() -> dict[str, str]:
    """Return all non-empty variables of the environment and, below them, of a `.env` in this folder.

    See `clean_values`. Raises ConfigError if `.env` cannot be read.
    """
    try:
        # Editors on Windows begin a file with a byte order mark.
        from_file = dotenv_values(".env", encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        problem = f".env: cannot be read ({reason}). Save it as UTF-8, readable by this user, or remove it."
        raise ConfigError([problem]) from error
    variables = {name: value or "" for name, value in from_file.items()} | dict(os.environ)
    return clean_values(variables, list_setting_names())


def is_color_refused() -> bool:
    """Whether the terminal must not get colors: NO_COLOR is set (https://no-color.org), or TERM is dumb."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


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


def forget_routes_snapshot() -> None:
    """Remove the copy of the routes file that this process was started with, after it was read."""
    if path := os.environ.pop(ROUTES_SNAPSHOT_VARIABLE, ""):
        Path(path).unlink(missing_ok=True)


def set_metrics_folder(folder: Path) -> None:
    """Set the folder in which prometheus_client keeps the metrics of several processes."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


def read_otel_variables() -> dict[str, str]:
    """Return the variables of OpenTelemetry. Only the environment counts: its SDK does not read `.env`."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


def read_driver_variables() -> dict[str, str]:
    """Return the variables of libpq and of object stores. Their libraries do not read `.env` either."""
    return {name: value for name, value in os.environ.items() if name.startswith(("PG", "AWS_"))}


def read_settings(variables: Mapping[str, str], *, required: Sequence[str] = ()) -> Settings:
    """Check all settings together.

    variables: from the environment; see `clean_values`. required: names of settings that must be set.
    Raises ConfigError with every problem; no message contains a URL, a token or a secret.
    """
    variables = clean_values(variables, list_setting_names())
    unusable = _find_unusable(variables)
    problems = [
        *unusable.values(),
        *_find_missing(variables, required),
        *find_unknown_settings(variables, list_setting_names()),
        *_find_contradictions(variables),
    ]
    try:
        settings = Settings.model_validate(variables)
    except ValidationError as error:
        problems += [
            _describe_problem(detail, variables)
            for detail in error.errors(include_input=False, include_url=False)
            if detail["loc"][0] not in unusable
        ]
    if problems:
        raise ConfigError(escape_all(problems))
    return settings


def _find_unusable(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the problems of settings with unprintable characters, by name."""
    problems = {}
    for name in list_setting_names():
        # A reason may contain the spaces of its language.
        allowed = "\xa0\u202f\u200d" if name == "MAINTENANCE" else ""
        if clause := find_unusable_character(variables.get(name, ""), allowed=allowed):
            value = _quote_setting(name, variables[name])
            problems[name] = f"{name}: {value} {clause}. Remove it."
    return problems


def _quote_setting(name: str, text: str) -> str:
    """Return a value in quotation marks, shortened; "the value" for one that may contain a secret."""
    if name == "TRUTO_API_URL" and not any(mark in text for mark in "@?#"):
        return f'"{escape_unprintable(text[:_MAX_URL_CHARS])}"'
    return "the value" if name in _SECRET_SETTINGS else quote_value(text)


def _describe_problem(detail: Any, variables: Mapping[str, str]) -> str:
    name = detail["loc"][0]
    value = _quote_setting(name, variables[name])
    field = next(field for field in Settings.model_fields.values() if field.alias == name)
    default = field.get_default(call_default_factory=True)
    default = str(default).lower() if isinstance(default, bool) else default
    unset = f"unset {name}{f' for its default, {default}' if default != '' else ''}"
    has_advice = name in _SECRET_SETTINGS or ";" in detail["msg"]
    hint = "" if has_advice else f" Correct it, or {unset}."
    text = describe_violation(detail, value)
    return f"{name}: {text}.{name_value(text, value)}{hint}"


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
    "ENCRYPTION_KEYS": "Set it to a key; `rapidbridge keys generate` makes one.",
    "REDIS_URL": "Set it to the URL of a Redis or Valkey server, or let `rapidbridge up` start one.",
}


def _find_unshared_inbox(variables: Mapping[str, str]) -> list[str]:
    """Return the problem of an inbox on a disk that is lost at each deploy, or that no other process has."""
    url = variables.get("DATABASE_URL", "")
    if url and not url.startswith("sqlite:"):
        return []
    reason = (
        "DATABASE_URL: on this platform, each process has a disk of its own, which is lost at each deploy"
    )
    if "DYNO" in variables:
        command = "heroku addons:create heroku-postgresql:essential-0"
        return [f"{reason}. Attach a PostgreSQL database: {command}"]
    # An absolute path may be on a disk that is attached to the only service, which runs `rapidbridge up`.
    if "RENDER" in variables and not url.startswith("sqlite:////"):
        return [f"{reason}. Set it to the internal URL of a PostgreSQL database, as in render.yaml."]
    return []


def _find_contradictions(variables: Mapping[str, str]) -> list[str]:
    problems = []
    problems += _find_unshared_inbox(variables)
    schema = variables.get("DATABASE_SCHEMA")
    if schema and variables.get("DATABASE_URL", "sqlite:").startswith("sqlite:"):
        text = "DATABASE_SCHEMA: SQLite has no schemas. Unset it, or use a PostgreSQL database."
        problems.append(text + name_value(text, quote_value(schema)))
    urls = (variables.get("DATABASE_URL", "sqlite:"), variables.get("MIGRATION_DATABASE_URL", ""))
    if all(urls) and any(url.startswith("sqlite:") for url in urls):
        problems.append(
            "MIGRATION_DATABASE_URL: SQLite has no roles. Unset it, or set both URLs to the same PostgreSQL "
            "database."
        )
    routes_file = variables.get("ROUTES_FILE")
    is_read = ROUTES_SNAPSHOT_VARIABLE not in variables
    if is_read and routes_file and routes_file.isprintable() and not os.path.lexists(routes_file):
        problems.append(
            f"ROUTES_FILE: there is no file {quote_value(routes_file)}. "
            "Correct the path, or unset ROUTES_FILE."
        )
    return problems
