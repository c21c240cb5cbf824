"""The page of the routes, and the search for the route of a delivery."""

from flask import Blueprint, render_template, request

from app.runs.route_match import match_route
from app.truto.events import RECORD_EVENT
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.pages.sinks import describe_place

_FIELDS = ("event", "resource", "method", "account")


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page to the blueprint."""

    @pages.get("/routes")
    def routes_page() -> str:
        routes = dashboard.config.routes
        places = {name: describe_place(config) for name, config in routes.sinks.items()}
        fields = {name: request.args.get(name, "").strip() for name in _FIELDS}
        fields["event"] = fields["event"] or RECORD_EVENT
        is_tested = any(request.args.get(name) for name in _FIELDS)
        return render_template(
            "dashboard/routes.html",
            routes=routes.routes,
            sinks=routes.sinks,
            places=places,
            fields=fields,
            result=match_route(routes, **fields) if is_tested else None,
        )
