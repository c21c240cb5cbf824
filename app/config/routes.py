"""Which deliveries go to which sinks, which runs may start, and who is told. Pure."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.config.notify import NotifyConfig


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SqlSinkConfig(_StrictModel):
    """A PostgreSQL or SQLite database, one table a resource."""

    type: Literal["sql"]
    url: str = Field(repr=False, pattern=r"^(postgres|postgresql|postgresql\+psycopg|sqlite)://")


class FilesSinkConfig(_StrictModel):
    """A folder, one file a delivery."""

    type: Literal["files"]
    url: str = Field(pattern=r"^file:///")
    format: Literal["jsonl"] = "jsonl"


SinkConfig = Annotated[SqlSinkConfig | FilesSinkConfig, Field(discriminator="type")]


class ColumnConfig(_StrictModel):
    """A column of its own for one value of a record. path: names and list places, joined by dots."""

    type: Literal["text", "integer", "number", "boolean", "timestamp", "date", "json"]
    path: str = ""


def _expand_column(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


ColumnName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class StopLimits(_StrictModel):
    """What makes us stop a run: numbers of what it brings to one route; None for no limit.

    dead_share: of its records, once there are a hundred. idle_minutes: without anything of the run.
    """

    record_errors: int | None = Field(default=None, ge=1)
    dead_share: float | None = Field(default=None, gt=0, le=1)
    records: int | None = Field(default=None, ge=1)
    idle_minutes: float | None = Field(default=None, gt=0)


class Route(_StrictModel):
    """Where deliveries that match its patterns go; shell-style patterns, "*" matches anything.

    event: "" matches every event that brings records, and no other.
    missing_key: a record without a usable key is keyed by its hash, or refused.
    non_object: a record that is no object is refused, or wrapped as {"value": …}.
    """

    event: str = ""
    resource: str = "*"
    method: str = "*"
    integrated_account_id: str = "*"
    sinks: tuple[str, ...]
    table: str = Field(default="", pattern=r"^([a-z_][a-z0-9_]{0,62})?$")
    key: str = Field(default="id", min_length=1)
    missing_key: Literal["hash", "refuse"] = "hash"
    non_object: Literal["refuse", "wrap"] = "refuse"
    stop_at: StopLimits = StopLimits()
    columns: dict[ColumnName, Annotated[ColumnConfig, BeforeValidator(_expand_column)]] = Field(
        default_factory=dict
    )

    def matches(self, *, event: str, resource: str, method: str, account: str, has_records: bool) -> bool:
        """Whether a delivery takes this route."""
        return (
            (fnmatchcase(event, self.event) if self.event else has_records)
            and fnmatchcase(resource, self.resource)
            and fnmatchcase(method, self.method)
            and fnmatchcase(account, self.integrated_account_id)
        )


class RunRule(_StrictModel):
    """Which runs something holds for; shell-style patterns, "*" matches anything."""

    sync_job_id: str = "*"
    integrated_account_id: str = "*"
    environment_id: str = "*"

    def matches(self, *, sync_job_id: str, integrated_account_id: str, environment_id: str) -> bool:
        """Whether it holds for a run."""
        return (
            fnmatchcase(sync_job_id, self.sync_job_id)
            and fnmatchcase(integrated_account_id, self.integrated_account_id)
            and fnmatchcase(environment_id, self.environment_id)
        )


class RefuseRule(RunRule):
    """Runs that are answered 400 when they start, so that Truto stops them."""

    reason: str = Field(min_length=1)


class GateConfig(_StrictModel):
    """What else a run is refused for when it starts.

    unrouted: a resource and method of it that no route matches. overlapping: another run of its job and
    account that is open. oldest_pending_s: a delivery that has waited for longer than this to be settled.
    """

    unrouted: bool = Field(default=False, strict=True)
    overlapping: bool = Field(default=False, strict=True)
    oldest_pending_s: int | None = Field(default=None, ge=1, strict=True)


class Routes(_StrictModel):
    """A checked routes file. allow: where there are any, a run must match one."""

    sinks: dict[str, SinkConfig]
    routes: tuple[Route, ...] = ()
    allow: tuple[RunRule, ...] = ()
    refuse: tuple[RefuseRule, ...] = ()
    notify: tuple[NotifyConfig, ...] = ()
    gate: GateConfig = GateConfig()

    def find_route(
        self, *, event: str, resource: str, method: str, account: str, has_records: bool
    ) -> Route | None:
        """Return the first route that a delivery matches."""
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

    def find_refusal_reason(
        self, *, sync_job_id: str, integrated_account_id: str, environment_id: str
    ) -> str | None:
        """Return why a run is refused, whatever it is about to fetch; None where it may go on."""
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


def build_default_routes(database_url: str) -> Routes:
    """Every record to one SQL sink, "main", a table a resource."""
    return Routes(
        sinks={"main": SqlSinkConfig(type="sql", url=database_url)}, routes=(Route(sinks=("main",)),)
    )
