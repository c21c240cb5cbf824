"""Models of the routes file: routes, columns, and rules for runs.

The first matching route applies to a delivery. All patterns are shell-style; "*" matches anything. Pure.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from app.config.notify import NotifyConfig
from app.config.setting_values import MAX_DAYS
from app.config.sinks import SinkConfig, SqlSinkConfig
from app.config.strict_model import StrictModel
from app.expressions import ExpressionError, compile_expression


class ColumnConfig(StrictModel):
    """A typed column for one value of a record. path: member names and list indexes, joined by dots."""

    type: Literal["text", "integer", "number", "decimal", "boolean", "timestamp", "date", "json"]
    path: str = ""


def _expand_column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


def _check_expression(expression: str) -> str:
    if expression:
        try:
            compile_expression(expression)
        except ExpressionError as error:
            raise ValueError(str(error)) from error
    return expression


Expression = Annotated[str, AfterValidator(_check_expression)]
FieldPath = Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$")]
# The names of earlier releases.
_FORMER_KEYS = {"missing_key": "on_missing_key", "non_object": "on_non_object"}


@dataclass(frozen=True, slots=True)
class RoutedEvent:
    """The fields of a delivery that routes match. account, environment, webhook: ids, "" if unknown.

    has_records: whether the event is a kind that carries records.
    """

    event: str
    resource: str
    method: str
    account: str = ""
    environment: str = ""
    webhook: str = ""
    has_records: bool = True


class StopLimits(StrictModel):
    """Limits on a run's deliveries to one route; the run is stopped if it exceeds one. None: no limit.

    dead_share: share of dead records, from 100 records on. idle_minutes: time without an event of the run.
    """

    record_errors: int | None = Field(default=None, ge=1, strict=True)
    dead_share: float | None = Field(default=None, gt=0, le=1, strict=True)
    records: int | None = Field(default=None, ge=1, strict=True)
    idle_minutes: float | None = Field(
        default=None, gt=0, le=MAX_DAYS * 1440, allow_inf_nan=False, strict=True
    )


class Route(StrictModel):
    """Patterns of deliveries, and the sinks that store their records.

    event: "" matches all events with records, and no others.
    key: a member name, or a path as in ColumnConfig; "" if nothing identifies a record.
    account: the path of the integrated account in a record, for batches that name none; "" writes such
    batches without an account, None keeps them unwritten.
    on_missing_key: a record without a usable key is rejected, or its hash becomes the key.
    on_non_object: a record that is not an object is rejected, or wrapped as {"value": …}.
    version_field: the path of the time that orders a record's versions; "" for the time of the event.
    filter, transform: JMESPath expressions; "" for none. only, drop: paths of the fields to keep or remove.
    track_deletes: rows that a full sync no longer has are marked deleted in SQL sinks; max_deleted_share: of
    the rows of its job, unless a person approves it.
    index_written_at: whether tables in SQL sinks have an index on the time of the last write.
    """

    event: str = ""
    resource: str = "*"
    method: str = "*"
    integrated_account_id: str = "*"
    environment_id: str = "*"
    webhook_id: str = "*"
    sinks: tuple[str, ...]
    table: str = Field(default="", pattern=r"^([a-z_][a-z0-9_]{0,62})?$")
    key: str = "id"
    account: str | None = None
    on_missing_key: Literal["hash", "reject"] = "hash"
    on_non_object: Literal["reject", "wrap"] = "reject"
    version_field: str = ""
    filter: Expression = ""
    only: tuple[FieldPath, ...] = ()
    drop: tuple[FieldPath, ...] = ()
    transform: Expression = ""
    track_deletes: bool = Field(default=False, strict=True)
    max_deleted_share: float = Field(default=0.2, ge=0, le=1, strict=True)
    index_written_at: bool = Field(default=True, strict=True)
    stop_at: StopLimits = StopLimits()
    columns: dict[ColumnName, Annotated[ColumnConfig, BeforeValidator(_expand_column)]] = Field(
        default_factory=dict
    )

    @model_validator(mode="before")
    @classmethod
    def _rename_former_keys(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        renamed = {
            _FORMER_KEYS[key]: "reject" if value == "refuse" else value
            for key, value in table.items()
            if key in _FORMER_KEYS
        }
        return renamed | {key: value for key, value in table.items() if key not in _FORMER_KEYS}

    def matches(self, event: RoutedEvent) -> bool:
        """Whether a delivery matches all patterns of the route."""
        return (
            (fnmatchcase(event.event, self.event) if self.event else event.has_records)
            and fnmatchcase(event.resource, self.resource)
            and fnmatchcase(event.method, self.method)
            and fnmatchcase(event.account, self.integrated_account_id)
            and fnmatchcase(event.environment, self.environment_id)
            and fnmatchcase(event.webhook, self.webhook_id)
        )


def has_wildcard(pattern: str) -> bool:
    """Whether a pattern of a route may match several names."""
    return any(mark in pattern for mark in "*?[")


class WebhookConfig(StrictModel):
    """A webhook whose events all belong to one integrated account."""

    id: str = Field(min_length=1)
    account: str = Field(min_length=1, max_length=200)


class RunRule(StrictModel):
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


class GateConfig(StrictModel):
    """Further conditions that refuse a run at its start.

    unrouted: no route matches one of its resources and methods. overlapping: another run of its job and
    account is active. oldest_pending_s: the oldest pending delivery is older than this.
    """

    unrouted: bool = Field(default=False, strict=True)
    overlapping: bool = Field(default=False, strict=True)
    oldest_pending_s: int | None = Field(default=None, ge=1, le=MAX_DAYS * 86400, strict=True)


class Routes(StrictModel):
    """A valid routes file. allow: if there are such rules, a run must match one of them."""

    sinks: dict[str, SinkConfig]
    routes: tuple[Route, ...] = ()
    webhooks: tuple[WebhookConfig, ...] = ()
    allow: tuple[RunRule, ...] = ()
    refuse: tuple[RefuseRule, ...] = ()
    notify: tuple[NotifyConfig, ...] = ()
    gate: GateConfig = GateConfig()

    def find_route(self, event: RoutedEvent) -> Route | None:
        """Return the first route that a delivery matches, or None."""
        return next((route for route in self.routes if route.matches(event)), None)

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
