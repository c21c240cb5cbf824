"""Tools that read: accounts, runs, deliveries, failures, sinks, operations, routes and checks."""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from mcp.server.mcpserver.exceptions import ToolError

from app.checks.all_checks import build_checks
from app.checks.check_result import is_ok
from app.checks.run_checks import run_checks
from app.clock import utc_now
from app.config.current_config import CurrentConfig
from app.database.engine import Database
from app.mcp_server.arguments import (
    INVALID_CURSOR,
    Cursor,
    Limit,
    Pattern,
    Time,
    read_cursor,
    read_time,
    read_time_cursor,
    write_cursor,
)
from app.mcp_server.result_models import (
    AccountDetail,
    AccountList,
    AccountView,
    CheckList,
    DeliveryList,
    DeliveryView,
    FailureList,
    FailureView,
    ListedRunView,
    OperationList,
    OperationView,
    RouteView,
    RunList,
    RunView,
    SinkList,
    SyncView,
)
from app.runs.reconciliation import Verdict
from app.runs.route_match import match_route
from app.runs.run_overview import read_run_overview
from app.store.accounts import AccountFilter, Accounts, SyncState
from app.store.delivery_detail import read_delivery_detail
from app.store.delivery_filter import CAUSE_FIELDS, DeliveryFilter, FailureCause
from app.store.delivery_search import search_deliveries
from app.store.failure_groups import count_all_failures, count_failures
from app.store.models import DeliveryState
from app.store.operations import Operations
from app.store.run_list import RunFilter, list_runs
from app.store.sink_status import list_sink_statuses
from app.truto.events import RECORD_EVENT

_CHECKS_TIMEOUT_S = 15.0
_MAX_SYNCS = 200
FailureKind = Literal["deliveries", "records"]


class ReadTools:
    """Tools that change nothing. Every method is one tool, and its docstring the tool's description."""

    def __init__(self, config: CurrentConfig, database: Database) -> None:
        self._config = config
        self._database = database

    @property
    def tools(self) -> Sequence[Callable[..., Any]]:
        """All tools of this class."""
        return (
            self.list_accounts,
            self.show_account,
            self.list_runs,
            self.show_run,
            self.list_deliveries,
            self.show_delivery,
            self.list_failures,
            self.list_sinks,
            self.list_operations,
            self.explain_route,
            self.run_checks,
        )

    def list_accounts(
        self,
        *,
        state: SyncState | None = None,
        id_part: str = "",
        environment: str = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> AccountList:
        """List the customers' accounts with the state of their syncs and its reason; the worst come first."""
        accounts, now = Accounts(self._database), utc_now()
        account_filter = AccountFilter(id_part=id_part, environment_id=environment)
        read = accounts.list_accounts(
            account_filter, state=state, after=_read_account_position(cursor), now=now, limit=limit + 1
        )
        page, numbers = read[:limit], accounts.count_by_state(account_filter, now=now)
        return AccountList(
            accounts=[AccountView.build(account, now=now) for account in page],
            numbers={str(name): number for name, number in numbers.items()},
            next_cursor=write_cursor(*page[-1].position) if len(read) > limit else None,
        )

    def show_account(self, integrated_account: str) -> AccountDetail:
        """Show the syncs of an account: state, reason, last run, and the time of the next one."""
        now = utc_now()
        syncs = Accounts(self._database).list_syncs(integrated_account, now=now, limit=_MAX_SYNCS + 1)
        if not syncs:
            raise ToolError(f"There is no account {integrated_account} here. List them with list_accounts.")
        return AccountDetail(
            integrated_account=integrated_account,
            syncs=[SyncView.build(sync, now=now) for sync in syncs[:_MAX_SYNCS]],
            is_partial=len(syncs) > _MAX_SYNCS,
        )

    def list_runs(
        self,
        *,
        integrated_account: str = "",
        sync_job: str = "",
        environment: str = "",
        status: str = "",
        verdict: Verdict | None = None,
        since: Time = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> RunList:
        """List sync job runs with their sums and gaps, newest first."""
        run_filter = RunFilter(
            integrated_account_id=integrated_account,
            sync_job_id=sync_job,
            environment_id=environment,
            status=status or None,
            verdict=verdict or "",
            since=read_time(since),
        )
        page = list_runs(self._database, run_filter, after=read_time_cursor(cursor), limit=limit)
        return RunList(
            runs=list(map(ListedRunView.build, page.runs)),
            next_cursor=write_cursor(*page.next_position) if page.next_position else None,
            is_partial=page.is_partial,
        )

    def show_run(self, run: str) -> RunView:
        """Compare a run's records: fetched by Truto, arrived, written, and the cause of every gap."""
        overview = read_run_overview(self._database, run, now=utc_now())
        if overview is None:
            raise ToolError(f"There is no run {run} here. List the runs with list_runs.")
        return RunView.build(overview)

    def list_deliveries(
        self,
        *,
        run: str = "",
        integrated_account: str = "",
        resource: Pattern = "",
        event: Pattern = "",
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
            since=read_time(since),
            until=read_time(until),
        )
        position = read_time_cursor(cursor)
        after = (position[0], _read_uuid(position[1])) if position else None
        page = search_deliveries(self._database, delivery_filter, after=after, page_size=limit)
        return DeliveryList(
            deliveries=page.deliveries,
            next_cursor=write_cursor(*page.next) if page.next else None,
            is_partial=page.is_cut,
        )

    def show_delivery(self, delivery: UUID) -> DeliveryView:
        """Show a delivery's state and reason, its attempts, and the result of every sink; never its body."""
        detail = read_delivery_detail(self._database, delivery)
        if detail is None:
            raise ToolError(f"There is no delivery {delivery} here. List them with list_deliveries.")
        return DeliveryView.build(detail)

    def list_failures(
        self,
        *,
        kind: FailureKind = "deliveries",
        integrated_account: str = "",
        run: str = "",
        resource: Pattern = "",
        reason: str = "",
        since: Time = "",
        limit: Limit = 50,
        cursor: Cursor = "",
    ) -> FailureList:
        """Group failed deliveries, or dead records of other deliveries, by cause, with the next step."""
        delivery_filter = DeliveryFilter(
            integrated_account_id=integrated_account,
            sync_job_run_id=run,
            resource=resource,
            reason=reason,
            since=read_time(since),
        )
        parts = read_cursor(cursor, len(CAUSE_FIELDS))
        counts = count_failures(
            self._database,
            delivery_filter,
            of_records=kind == "records",
            after=FailureCause(*parts) if parts else None,
            limit=limit,
        )
        totals = count_all_failures(self._database, since=delivery_filter.since)
        after = counts.after
        return FailureList(
            groups=list(map(FailureView.build, counts.groups)),
            total=totals.records if kind == "records" else totals.deliveries,
            next_cursor=write_cursor(*astuple(after)) if after else None,
        )

    def list_sinks(self) -> SinkList:
        """List the sinks: paused, failing or ok, with held deliveries, lag and the last write."""
        return SinkList(sinks=list_sink_statuses(self._database, self._config.get().routes.sinks))

    def list_operations(self, *, limit: Limit = 50, cursor: Cursor = "") -> OperationList:
        """List replays and discards, newest first, with their progress."""
        position = read_time_cursor(cursor)
        after = (position[0], _read_uuid(position[1])) if position else None
        read = Operations(self._database).list_newest(after=after, limit=limit + 1)
        page = read[:limit]
        return OperationList(
            operations=list(map(OperationView.build, page)),
            next_cursor=write_cursor(page[-1].requested_at, page[-1].id) if len(read) > limit else None,
        )

    def explain_route(
        self, resource: str, method: str = "list", event: str = RECORD_EVENT, integrated_account: str = ""
    ) -> RouteView:
        """Find the route of the routes file that a delivery takes, with its sinks and its table."""
        routes = self._config.get().routes
        match = match_route(routes, event=event, resource=resource, method=method, account=integrated_account)
        route = match.route
        if route is None:
            explanation = (
                "No route matches: unrouted."
                if match.has_records
                else "No route matches. The event carries no records, so nothing is missing."
            )
            return RouteView(position=None, sinks=(), table="", explanation=explanation)
        explanation = "Written to its sinks." if route.sinks else "Kept in the inbox, sent nowhere."
        return RouteView(
            position=match.position, sinks=route.sinks, table=route.table, explanation=explanation
        )

    def run_checks(self) -> CheckList:
        """Check settings, database, Redis, workers and sinks, as `rapidbridge doctor` does."""
        checks = build_checks(self._config.get(), receiver_url=None)
        results = run_checks(checks, timeout_s=_CHECKS_TIMEOUT_S)
        return CheckList(ok=is_ok(results), checks=results)


def _read_account_position(cursor: str) -> tuple[SyncState, datetime, str] | None:
    parts = read_cursor(cursor, 3)
    if parts is None:
        return None
    state, time, account = parts
    try:
        return SyncState(state), datetime.fromisoformat(time), account
    except ValueError as error:
        raise INVALID_CURSOR from error


def _read_uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise INVALID_CURSOR from error
