"""Checks of the routes file as a whole."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from app.checks.check_result import CheckResult, fail, ok, warn
from app.config.load import Config
from app.config.routes import Route, has_wildcard
from app.config.sinks import SqlSinkConfig
from app.errors import StoreUnavailable
from app.plural import format_count
from app.sinks.sql.tables import table_name
from app.store.column_misfits import ColumnMisfits
from app.store.store_database import open_store
from app.truto.events import has_records

_COMPONENT = "routes"
_PATTERNS = ("resource", "method", "integrated_account_id", "environment_id", "webhook_id")
_MAX_MISFITS = 20


def check_routes(config: Config) -> Iterator[CheckResult]:
    """Yield the problems of the routes; one result that all is well if there are none."""
    problems = [
        *_find_shadowed_routes(config),
        *_find_unused_sinks(config),
        *_find_table_collisions(config),
    ]
    yield from problems
    if not problems:
        numbers = (
            format_count(len(config.routes.routes), "route"),
            format_count(len(config.routes.sinks), "sink"),
        )
        file = config.routes_file or "no routes file: every record goes to DATABASE_URL"
        yield ok(_COMPONENT, "file", f"{file}: {', '.join(numbers)}")


def check_misfits(config: Config) -> Iterator[CheckResult]:
    """Yield a warning for each column whose values became NULL."""
    settings = config.settings
    try:
        database = open_store(settings)
        misfits = ColumnMisfits(database).list_newest(limit=_MAX_MISFITS + 1)
    except StoreUnavailable as error:
        advice = "Repair the database, then run: rapidbridge doctor"
        yield warn(_COMPONENT, "misfits", f"values that did not fit are not known: {error}", advice)
        return
    for misfit in misfits[:_MAX_MISFITS]:
        yield warn(
            _COMPONENT,
            "misfits",
            f"{misfit.resource}: {format_count(misfit.number, 'value')} did not fit column {misfit.column} "
            f"of sink {misfit.sink}, the last one at {misfit.last_at:%Y-%m-%d %H:%M} UTC",
            f"Compare the types with the data: rapidbridge routes suggest {misfit.resource}",
        )
    if len(misfits) > _MAX_MISFITS:
        message = f"more than {_MAX_MISFITS} columns have values that did not fit"
        yield warn(_COMPONENT, "misfits", message, "The page Sinks of the dashboard shows all of them.")


def _find_shadowed_routes(config: Config) -> Iterator[CheckResult]:
    routes = config.routes.routes
    for number, route in enumerate(routes, start=1):
        earlier = next((n for n, other in enumerate(routes[: number - 1], 1) if _covers(other, route)), None)
        if earlier:
            yield warn(
                _COMPONENT,
                "matching",
                f"[[routes]] {number} ({config.find_route_place(number)}) never matches, because [[routes]] "
                f"{earlier} takes all of its deliveries",
                f"Move route {number} before route {earlier}, or remove it.",
            )


def _covers(route: Route, other: Route) -> bool:
    """Whether a route matches every delivery that another one matches; False if that is hard to tell."""
    if route.event:
        covers_events = _includes(route.event, other.event or "*")
    else:
        covers_events = not other.event or has_records(other.event)
    return covers_events and all(_includes(getattr(route, name), getattr(other, name)) for name in _PATTERNS)


def _includes(pattern: str, other: str) -> bool:
    """Whether a pattern matches every text that another one matches; False if that is hard to tell."""
    if pattern == other:
        return True
    # Each "*" of the other pattern has to be matched by one of this pattern, and not by a "?".
    return fnmatchcase(other, pattern) and not (has_wildcard(other) and any(c in pattern for c in "?["))


def _find_unused_sinks(config: Config) -> Iterator[CheckResult]:
    used = {name for route in config.routes.routes for name in route.sinks}
    for name in config.routes.sinks:
        if name not in used:
            yield warn(
                _COMPONENT,
                "sinks",
                f"no route writes to sink {name}",
                f"Name {name} in `sinks` of a route, or remove [sinks.{name}].",
            )


def _find_table_collisions(config: Config) -> Iterator[CheckResult]:
    owners: dict[tuple[str, str], str] = {}
    for route in config.routes.routes:
        for sink in route.sinks if not has_wildcard(route.resource) else ():
            if not isinstance(config.routes.sinks[sink], SqlSinkConfig):
                continue
            table = table_name(route.resource, route)
            owner = owners.setdefault((sink, table), route.resource)
            if owner != route.resource:
                yield fail(
                    _COMPONENT,
                    "tables",
                    f"{owner} and {route.resource} have the same table {table} in sink {sink}; the one that "
                    "arrives second waits",
                    f"Set another `table` in the route for {route.resource}.",
                )
