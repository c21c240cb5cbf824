"""The pages of runs: the list, one run, and the action to stop it."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest, Conflict, NotFound
from werkzeug.wrappers import Response as BaseResponse

from app.clock import utc_now
from app.database.engine import Database
from app.runs.delete_checks import advise_on_check, explain_check, is_approvable
from app.runs.gap_reasons import (
    GapAdvice,
    advise_on_gap,
    explain_gap,
    explain_verdict,
    list_remarks,
)
from app.runs.reconciliation import GapReason, ResourceCounts, Verdict
from app.runs.run_overview import MAX_COUNTED_DELIVERIES, RunOverview, read_run_overview
from app.runs.stop_request import STOP_ACTION, request_stop
from app.runs.sync_reasons import explain_early_end, explain_run
from app.runs.unsent_events import explain_unsent_events
from app.store.delete_checks import DeleteChecks, DeleteCheckState
from app.store.id_prefixes import MIN_PREFIX_DIGITS, find_run_ids, read_id_digits
from app.store.reasons import RECORD, explain
from app.store.run_list import RunFilter, list_runs
from app.store.runs import Runs, StoredRun
from app.times import parse_time
from app.truto.runs import RUN_STATUSES
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.paging import PAGE_SIZE, build_next_url, read_time_cursor, split_page

# The status of a run without a lifecycle event.
_UNKNOWN = "unknown"
_MAX_DELETES = 100
_MISSING_SETTING = "Set TRUTO_API_TOKEN for the web process and the workers, and restart both."


@dataclass(frozen=True, slots=True)
class _Gap:
    """A gap with its next step. command: to paste into a terminal; "" if none helps."""

    subject: str
    text: str
    code: str
    advice: GapAdvice
    command: str


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the pages to the blueprint."""
    database = dashboard.database
    has_token = bool(dashboard.config.settings.truto_api_token)

    @pages.get("/runs")
    def runs() -> str:
        ids, has_more_ids = _read_ids(database)
        page = list_runs(database, _read_filter(ids), after=read_time_cursor(), limit=PAGE_SIZE)
        return render_template(
            "dashboard/runs.html",
            page=page,
            next_url=build_next_url(*page.next_position) if page.next_position else "",
            statuses=(*RUN_STATUSES, _UNKNOWN),
            verdicts=get_args(Verdict),
            explain_run=explain_run,
            has_more_ids=has_more_ids,
        )

    @pages.get("/runs/<id:run_id>")
    def run(run_id: str) -> str:
        counts_all = request.args.get("count") == "all"
        overview = read_run_overview(database, run_id, now=utc_now(), counts_all=counts_all)
        if overview is None:
            raise NotFound(f"No event of run {run_id} was received.")
        deletes = DeleteChecks(database).list_of_run(run_id, limit=_MAX_DELETES)
        may_change = overview.may_change or any(check.state == DeleteCheckState.DUE for check in deletes)
        return render_template(
            "dashboard/run.html",
            overview=overview,
            # Counting a large run takes seconds: once, not at every update.
            is_live=may_change and not counts_all,
            run=overview.run,
            summary=overview.summary,
            meaning=explain_verdict(overview.summary.verdict),
            early_end=explain_early_end("The run", overview.run.status, overview.summary),
            resources=overview.reconciliation.resources if overview.reconciliation else (),
            gaps=list(_list_gaps(overview)),
            remarks=list(_list_resource_remarks(overview)),
            unsent=_explain_unsent(overview),
            explain_record=lambda reason: explain(RECORD, reason),
            deletes=deletes,
            advise_on_check=advise_on_check,
            explain_check=explain_check,
            is_approvable=is_approvable,
            missing_setting="" if has_token else _MISSING_SETTING,
            show_command=f"rapidbridge runs show {shlex.quote(run_id)}",
            stop_command=f"rapidbridge runs stop {shlex.quote(run_id)}",
            max_counted=MAX_COUNTED_DELIVERIES,
        )

    @pages.post("/runs/<id:run_id>/stop")
    def stop_run(run_id: str) -> BaseResponse:
        stored = Runs(database).get(run_id)
        if stored is None:
            raise NotFound(f"No event of run {run_id} was received.")
        if not has_token:
            raise Conflict(f"Runs cannot be stopped. {_MISSING_SETTING}")
        # A form that is sent again changes nothing, and is no second action.
        if not stored.stop_reason and not stored.has_ended:
            dashboard.audit(STOP_ACTION, run_id)
            request_stop(Runs(database), run_id)
        return redirect(url_for("dashboard.run", run_id=run_id), 303)


def _read_filter(ids: Sequence[str] | None) -> RunFilter:
    """Return the filter in the URL of this request; raises BadRequest."""
    arguments = {name: value.strip() for name, value in request.args.items()}
    status = arguments.get("status")
    return RunFilter(
        ids=ids,
        integrated_account_id=arguments.get("account", ""),
        sync_job_id=arguments.get("job", ""),
        environment_id=arguments.get("environment", ""),
        webhook_id=arguments.get("webhook", ""),
        status="" if status == _UNKNOWN else status or None,
        verdict=arguments.get("verdict", ""),
        since=_read_since(arguments.get("since", "")),
    )


def _read_ids(database: Database) -> tuple[Sequence[str] | None, bool]:
    """Return the newest runs with the id, or its start, in the URL; and whether more begin so.

    None if the URL has none.
    """
    typed = request.args.get("run", "").strip()
    digits = read_id_digits(typed)
    if len(digits) < MIN_PREFIX_DIGITS:
        return [typed] if typed else None, False
    return split_page(find_run_ids(database, digits, typed=typed, limit=PAGE_SIZE + 1, newest_first=True))


def _read_since(text: str) -> datetime | None:
    try:
        return parse_time(text, now=utc_now()) if text else None
    except ValueError as error:
        raise BadRequest(f"Since: {error}.") from error


def _list_gaps(overview: RunOverview) -> Iterator[_Gap]:
    if overview.reconciliation is None:
        for code, records in overview.summary.gap_reasons:
            yield _build_gap(overview.run, "", GapReason(code, records))
        return
    for counts in overview.reconciliation.resources:
        for gap in counts.gap_reasons:
            yield _build_gap(overview.run, _name_resource(counts), gap)


def _build_gap(run: StoredRun, subject: str, gap: GapReason) -> _Gap:
    advice = advise_on_gap(gap.code)
    # Quoted, because the id is part of a command that is pasted into a shell.
    command = f"rapidbridge runs reconcile {shlex.quote(run.sync_job_run_id)} --refetch"
    return _Gap(subject, explain_gap(gap), gap.code, advice, command if advice.needs_refetch else "")


def _list_resource_remarks(overview: RunOverview) -> Iterator[str]:
    for counts in overview.reconciliation.resources if overview.reconciliation else ():
        yield from (f"{_name_resource(counts)}: {remark}" for remark in list_remarks(counts))


def _name_resource(counts: ResourceCounts) -> str:
    return f"{counts.resource or '(none)'} {counts.method}".strip()


def _explain_unsent(overview: RunOverview) -> str:
    if overview.reconciliation is None:
        return ""
    return explain_unsent_events(overview.run, overview.reconciliation.unsent_events)
