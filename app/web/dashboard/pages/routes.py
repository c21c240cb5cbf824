"""The page of the routes, with a test of the route that a delivery takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from flask import Blueprint, render_template, request

from app.config.routes import Route, Routes
from app.truto.events import RECORD_EVENT, has_records
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.pages.sinks import describe_place

_FIELDS = ("event", "resource", "method", "account")


@dataclass(frozen=True, slots=True)
class _TestResult:
    """The route of the delivery in the form. position: from 1; None if no route matches."""

    position: int | None
    route: Route | None
    has_records: bool


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page to the blueprint."""
    routes = dashboard.config.routes
    places = {name: describe_place(config) for name, config in routes.sinks.items()}

    @pages.get("/routes")
    def routes_page() -> str:
        fields = {name: request.args.get(name, "").strip() for name in _FIELDS}
        fields["event"] = fields["event"] or RECORD_EVENT
        is_tested = any(request.args.get(name) for name in _FIELDS)
        return render_template(
            "dashboard/routes.html",
            routes=routes.routes,
            sinks=routes.sinks,
            places=places,
            fields=fields,
            result=_find_route(routes, fields) if is_tested else None,
        )


def _find_route(routes: Routes, fields: Mapping[str, str]) -> _TestResult:
    carries_records = has_records(fields["event"])
    route = routes.find_route(**fields, has_records=carries_records)
    positions = (number for number, known in enumerate(routes.routes, 1) if known is route)
    return _TestResult(next(positions, None), route, carries_records)
