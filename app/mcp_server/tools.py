"""Tools that read: runs, deliveries, failures, routes and checks."""

from collections.abc import Callable
from datetime import datetime
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from app.checks.all_checks import build_checks
from app.checks.check_result import is_ok
from app.checks.run_checks import run_checks
from app.clock import utc_now
from app.config.load import Config
from app.database.engine import Database
from app.mcp_server.result_models import (
    CheckList,
    DeliveryList,
    DeliveryView,
    FailureList,
    FailureView,
    RouteView,
    RunView,
)
from app.runs.reconcile import reconcile_stored_runs
from app.store.delivery_detail import read_delivery_detail
from app.store.delivery_filter import DeliveryFilter, find_deliveries
from app.store.failures import group_failures
from app.store.models import DeliveryState
from app.store.runs import Runs
from app.times import parse_time
from app.truto.events import RECORD_EVENT

_CHECKS_TIMEOUT_S = 15.0
_MAX_FAILURE_GROUPS = 100

Limit = Annotated[int, Field(ge=1, le=200, description="Number of results at most.")]
Cursor = Annotated[str, Field(description="`next_cursor` of the page before; empty for the first page.")]
Time = Annotated[str, Field(description="An age (90m, 12h, 7d), a day, or a moment in UTC.")]


class ReadTools:
    """Tools that change nothing. Every method is one tool, and its docstring the tool's description."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    @property
    def tools(self) -> list[Callable[..., Any]]:
        """All tools of this class."""
        return [
            self.show_run,
            self.list_deliveries,
            self.show_delivery,
            self.list_failures,
            self.explain_route,
            self.run_checks,
        ]

    def show_run(self, run: str) -> RunView:
        """Compare a run's records: fetched by Truto, arrived, written, and the cause of every gap."""
        stored = Runs(self._database).get(run)
        if stored is None:
            raise ToolError(f"There is no run {run} here. List the runs with list_runs.")
        [(stored, reconciliation)] = reconcile_stored_runs(self._database, [stored], now=utc_now())
        return RunView.build(stored, reconciliation)

    def list_deliveries(
        self,
        *,
        run: str = "",
        integrated_account: str = "",
        resource: Annotated[str, Field(description="A pattern; `*` matches any text.")] = "",
        event: Annotated[str, Field(description="A pattern; `*` matches any text.")] = "",
        state: DeliveryState | None = None,
        reason: str = "",
        since: Time = "",
        until: Time = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> DeliveryList:
        """List received deliveries, newest first. A delivery is one webhook POST with a page of records."""
        delivery_filter = DeliveryFilter(
            sync_job_run_id=run,
            integrated_account_id=integrated_account,
            resource=resource,
            event=event,
            states=(state,) if state else (),
            reason=reason,
            since=_parse_time(since),
            until=_parse_time(until),
        )
        after = _parse_cursor(cursor)
        # One more than the page, to know whether there is another one.
        matching = find_deliveries(
            self._database, delivery_filter, after=after, newest_first=True, page_size=limit + 1
        )
        page = list(islice(matching, limit + 1))
        deliveries = page[:limit]
        has_more = len(page) > limit
        next_cursor = f"{deliveries[-1].received_at.isoformat()} {deliveries[-1].id}" if has_more else None
        return DeliveryList(deliveries=deliveries, next_cursor=next_cursor)

    def show_delivery(self, delivery: UUID) -> DeliveryView:
        """Show a delivery's state and reason, the result of every sink, and the next step; never its body."""
        detail = read_delivery_detail(self._database, delivery)
        if detail is None:
            raise ToolError(f"There is no delivery {delivery} here. List them with list_deliveries.")
        return DeliveryView.build(detail)

    def list_failures(
        self, integrated_account: str = "", run: str = "", resource: str = "", since: Time = "24h"
    ) -> FailureList:
        """Group the deliveries and records that no sink has by cause, with the meaning and the next step."""
        delivery_filter = DeliveryFilter(
            integrated_account_id=integrated_account,
            sync_job_run_id=run,
            resource=resource,
            since=_parse_time(since),
        )
        groups = group_failures(self._database, delivery_filter)[:_MAX_FAILURE_GROUPS]
        return FailureList(groups=list(map(FailureView.build, groups)))

    def explain_route(
        self,
        resource: str,
        method: str = "list",
        event: str = RECORD_EVENT,
        integrated_account: str = "",
    ) -> RouteView:
        """Find the route of the routes file that a delivery takes, with its sinks and its table."""
        routes = self._config.routes
        route = routes.find_route(
            event=event,
            resource=resource,
            method=method,
            account=integrated_account,
            has_records=event == RECORD_EVENT,
        )
        if route is None:
            return RouteView(position=None, sinks=(), table="", explanation="No route matches: unrouted.")
        explanation = "Written to its sinks." if route.sinks else "Kept in the inbox, sent nowhere."
        position = routes.routes.index(route) + 1
        return RouteView(position=position, sinks=route.sinks, table=route.table, explanation=explanation)

    def run_checks(self) -> CheckList:
        """Check settings, database, Redis, workers and sinks, as `rapidbridge doctor` does."""
        checks = build_checks(self._config, receiver_url=None)
        results = run_checks(checks, timeout_s=_CHECKS_TIMEOUT_S)
        return CheckList(ok=is_ok(results), checks=results)


def _parse_time(text: str) -> datetime | None:
    try:
        return parse_time(text, now=utc_now()) if text else None
    except ValueError as error:
        raise ToolError(str(error)) from error


def _parse_cursor(cursor: str) -> tuple[datetime, UUID] | None:
    if not cursor:
        return None
    received_at, _, delivery_id = cursor.partition(" ")
    try:
        return datetime.fromisoformat(received_at), UUID(delivery_id)
    except ValueError as error:
        raise ToolError("The cursor is invalid: pass `next_cursor` of the page before, unchanged.") from error
