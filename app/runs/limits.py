"""Whether a run has gone beyond what a route allows. Pure."""

from collections import Counter
from collections.abc import Sequence

from app.config.routes import Route, Routes
from app.runs.reconciliation import Account, Line
from app.store.runs import KnownRun
from app.truto.events import BATCH

# A share of fewer records says little.
_ENOUGH_RECORDS = 100


def has_limits(routes: Routes) -> bool:
    """Whether any route has limits at all."""
    return any(route.stop_at.model_fields_set for route in routes.routes)


def exceeded(run: KnownRun, account: Account, routes: Routes, *, silent_s: float) -> str | None:
    """Return why a run is to be stopped, for a person to read; None where it is not.

    silent_s: for how long nothing has come of it. A run that waits for a rate limit makes no progress, and is
    right not to.
    """
    by_route: dict[int, list[Line]] = {}
    for line in account.lines:
        route = routes.match(
            event=BATCH,
            resource=line.resource,
            method=line.method,
            account=run.integrated_account_id,
            carries_records=True,
        )
        if route:
            by_route.setdefault(routes.routes.index(route), []).append(line)
    idle_s = 0.0 if run.status == "rate_limited" else silent_s
    causes = (_cause(routes.routes[place], lines, idle_s) for place, lines in sorted(by_route.items()))
    return next(filter(None, causes), None)


def _cause(route: Route, lines: Sequence[Line], silent_s: float) -> str | None:
    sums = Counter[str]()
    for line in lines:
        sums.update(arrived=line.arrived, dead=line.dead, errors=line.errors)
    limit, of = route.stop_at, f"of {route.resource} {route.method}"
    if limit.record_errors is not None and sums["errors"] > limit.record_errors:
        return f"{sums['errors']:,} record errors {of}, more than {limit.record_errors:,}"
    if limit.records is not None and sums["arrived"] > limit.records:
        return f"{sums['arrived']:,} records {of}, more than {limit.records:,}"
    share = sums["dead"] / max(1, sums["arrived"])
    if limit.dead_share is not None and sums["arrived"] >= _ENOUGH_RECORDS and share > limit.dead_share:
        return f"{share:.0%} of the records {of} are dead, more than {limit.dead_share:.0%}"
    if limit.idle_minutes is not None and silent_s > limit.idle_minutes * 60:
        return f"no progress for {silent_s / 60:.0f} minutes, more than {limit.idle_minutes:g}"
    return None
