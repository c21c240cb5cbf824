"""Models of the routes file: sinks, routes, rules for runs, and subscribers.

The first matching route applies to a delivery. All patterns are shell-style; "*" matches anything. Pure.
"""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from app.config.database_url import check_database_url, check_schema_name
from app.config.notify import NotifyConfig
from app.config.setting_values import MAX_DAYS


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SqlSinkConfig(_StrictModel):
    """A PostgreSQL or SQLite database with one table for each resource.

    database_schema: of the tables, in PostgreSQL; "" for the first one of the search_path.
    """

    type: Literal["sql"]
    url: Annotated[str, AfterValidator(check_database_url)] = Field(
        repr=False, pattern=r"^(postgres|postgresql|postgresql\+psycopg|sqlite)://"
    )
    # pydantic's models have a method `schema`.
    database_schema: Annotated[str, AfterValidator(check_schema_name)] = Field(default="", alias="schema")

    @field_validator("database_schema")
    @classmethod
    def _check_schema(cls, schema: str, info: ValidationInfo) -> str:
        if info.data.get("url", "").startswith("sqlite:///"):
            raise ValueError("SQLite has no schemas; remove it, or use a PostgreSQL database")
        return schema


class FilesSinkConfig(_StrictModel):
    """A folder with one file for each delivery."""

    type: Literal["files"]
    url: str = Field(pattern=r"^file:///")
    format: Literal["jsonl"] = "jsonl"


SinkConfig = Annotated[SqlSinkConfig | FilesSinkConfig, Field(discriminator="type")]


class ColumnConfig(_StrictModel):
    """A typed column for one value of a record. path: member names and list indexes, joined by dots."""

    type: Literal["text", "integer", "number", "boolean", "timestamp", "date", "json"]
    path: str = ""


def _expand_column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class StopLimits(_StrictModel):
    """Limits on a run's deliveries to one route; the run is stopped if it exceeds one. None: no limit.

    dead_share: share of dead records, from 100 records on. idle_minutes: time without an event of the run.
    """

    record_errors: int | None = Field(default=None, ge=1, strict=True)
    dead_share: float | None = Field(default=None, gt=0, le=1, strict=True)
    records: int | None = Field(default=None, ge=1, strict=True)
    idle_minutes: float | None = Field(
        default=None, gt=0, le=MAX_DAYS * 1440, allow_inf_nan=False, strict=True
    )


class Route(_StrictModel):
    """Patterns of deliveries, and the sinks that store their records.

    event: "" matches all events with records, and no others.
    key: a member name, or a path as in ColumnConfig; "" if nothing identifies a record.
    account: the path of the integrated account in a record, for batches that name none; "" writes such
    batches without an account, None keeps them unwritten.
    missing_key: a record without a usable key is rejected, or its hash becomes the key.
    non_object: a record that is not an object is rejected, or wrapped as {"value": …}.
    """

    event: str = ""
    resource: str = "*"
    method: str = "*"
    integrated_account_id: str = "*"
    sinks: tuple[str, ...]
    table: str = Field(default="", pattern=r"^([a-z_][a-z0-9_]{0,62})?$")
    key: str = "id"
    account: str | None = None
    missing_key: Literal["hash", "refuse"] = "hash"
    non_object: Literal["refuse", "wrap"] = "refuse"
    stop_at: StopLimits = StopLimits()
    columns: dict[ColumnName, Annotated[ColumnConfig, BeforeValidator(_expand_column)]] = Field(
        default_factory=dict
    )

    def matches(self, *, event: str, resource: str, method: str, account: str, has_records: bool) -> bool:
        """Whether a delivery matches all patterns of the route."""
        return (
            (fnmatchcase(event, self.event) if self.event else has_records)
            and fnmatchcase(resource, self.resource)
            and fnmatchcase(method, self.method)
            and fnmatchcase(account, self.integrated_account_id)
        )


def has_wildcard(pattern: str) -> bool:
    """Whether a pattern of a route may match several names."""
    return any(mark in pattern for mark in "*?[")


class WebhookConfig(_StrictModel):
    """A webhook whose events all belong to one integrated account."""

    id: str = Field(min_length=1)
    account: str = Field(min_length=1, max_length=200)


class RunRule(_StrictModel):
    """Patterns of the runs that a rule applies to."""

    sync_job_id: str = "*"
    integrated_account_id: str = "*"
    environment_id: str = "*"

    def matches(self, *, sync_job_id: str, integrated_account_id: str, environment_id: str) -> bool:
        """Whether the rule applies to a run."""
        return (
            fnmatchcase(sync_job_id, self.sync_job_id)
            and fnmatchcase(integrated_account_id, self.integrated_account_id)
            and fnmatchcase(environment_id, self.environment_id)
        )


class RefuseRule(RunRule):
    """A rule for runs to refuse: their `started` event is answered 400, so that Truto stops them."""

    reason: str = Field(min_length=1)


class GateConfig(_StrictModel):
    """Further conditions that refuse a run at its start.

    unrouted: no route matches one of its resources and methods. overlapping: another run of its job and
    account is active. oldest_pending_s: the oldest pending delivery is older than this.
    """

    unrouted: bool = Field(default=False, strict=True)
    overlapping: bool = Field(default=False, strict=True)
    oldest_pending_s: int | None = Field(default=None, ge=1, le=MAX_DAYS * 86400, strict=True)


class Routes(_StrictModel):
    """A valid routes file. allow: if there are such rules, a run must match one of them."""

    sinks: dict[str, SinkConfig]
    routes: tuple[Route, ...] = ()
    webhooks: tuple[WebhookConfig, ...] = ()
    allow: tuple[RunRule, ...] = ()
    refuse: tuple[RefuseRule, ...] = ()
    notify: tuple[NotifyConfig, ...] = ()
    gate: GateConfig = GateConfig()

    def find_route(
        self, *, event: str, resource: str, method: str, account: str, has_records: bool
    ) -> Route | None:
        """Return the first route that a delivery matches, or None."""
        return next(
            (
                route
                for route in self.routes
                if route.matches(
                    event=event,
                    resource=resource,
                    method=method,
                    account=account,
                    has_records=has_records,
                )
            ),
            None,
        )

    def find_webhook_account(self, webhook_id: str) -> str:
        """Return the account that a webhook serves alone, or ""."""
        return next((webhook.account for webhook in self.webhooks if webhook.id == webhook_id), "")

    def find_refusal_reason(
        self, *, sync_job_id: str, integrated_account_id: str, environment_id: str
    ) -> str | None:
        """Return the reason why the rules refuse a run; None if they allow it."""
        run = {
            "sync_job_id": sync_job_id,
            "integrated_account_id": integrated_account_id,
            "environment_id": environment_id,
        }
        for rule in self.refuse:
            if rule.matches(**run):
                return rule.reason
        if self.allow and not any(rule.matches(**run) for rule in self.allow):
            return "no [[allow]] of the routes file matches this run"
        return None


def build_default_routes(database_url: str, schema: str = "") -> Routes:
    """Return routes that send every record to one SQL sink, "main". schema: "" for the default one."""
    sink = {"type": "sql", "url": database_url} | ({"schema": schema} if schema else {})
    return Routes(sinks={"main": SqlSinkConfig.model_validate(sink)}, routes=(Route(sinks=("main",)),))


def fill_in_schema(routes: Routes, database_url: str, schema: str) -> Routes:
    """Return routes whose SQL sinks in the store's database use its schema, unless they name another one."""
    sinks = {
        name: sink.model_copy(update={"database_schema": schema})
        if isinstance(sink, SqlSinkConfig) and sink.url == database_url and not sink.database_schema
        else sink
        for name, sink in routes.sinks.items()
    }
    return routes.model_copy(update={"sinks": sinks})
