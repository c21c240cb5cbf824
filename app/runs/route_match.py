"""The route that a described delivery takes."""

from dataclasses import dataclass

from app.config.routes import Route, RoutedEvent, Routes
from app.truto.events import has_records


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The route of a delivery. position: from 1; None if no route matches."""

    position: int | None
    route: Route | None
    has_records: bool


def match_route(
    routes: Routes,
    *,
    event: str,
    resource: str,
    method: str,
    account: str = "",
    environment: str = "",
    webhook: str = "",
) -> RouteMatch:
    """Find the route that a delivery takes; pure. account, environment, webhook: ids, "" if unknown."""
    carries_records = has_records(event)
    route = routes.find_route(
        RoutedEvent(event, resource, method, account, environment, webhook, has_records=carries_records)
    )
    positions = (number for number, known in enumerate(routes.routes, 1) if known is route)
    return RouteMatch(next(positions, None), route, carries_records)
