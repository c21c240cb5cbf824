"""Problems of a routes file whose tables are valid one by one; pure."""

import difflib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from app.config.database_url import is_in_memory
from app.config.routes import Routes, has_wildcard
from app.config.sinks import SqlSinkConfig
from app.config.toml_lines import TomlPath

_RECORD_EVENT = "sync_job_run:record"
# Source: https://www.postgresql.org/docs/current/ddl-system-columns.html
_SYSTEM_COLUMNS = {"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}


class RoutesProblem(NamedTuple):
    """A problem at a path of the file, with its correction."""

    path: TomlPath
    text: str


def find_problems(routes: Routes) -> Iterator[RoutesProblem]:
    """Yield every problem between tables, or of a table as a whole."""
    for check in (
        _find_unknown_sinks,
        _find_databases_in_memory,
        _find_table_collisions,
        _find_reserved_columns,
        _find_unusable_keys,
        _find_untrackable_routes,
        _find_duplicate_names,
        _find_duplicate_webhooks,
    ):
        yield from check(routes)


def _find_unknown_sinks(routes: Routes) -> Iterator[RoutesProblem]:
    for number, route in enumerate(routes.routes):
        for name in route.sinks:
            if name not in routes.sinks:
                near = difflib.get_close_matches(name, routes.sinks, n=1)
                hint = f"did you mean {near[0]}?" if near else f"define it as [sinks.{name}]."
                yield RoutesProblem(("routes", number, "sinks"), f"no sink named {name}; {hint}")


def _find_databases_in_memory(routes: Routes) -> Iterator[RoutesProblem]:
    for name, sink in routes.sinks.items():
        if isinstance(sink, SqlSinkConfig) and is_in_memory(sink.url):
            text = "names no file, so every record would be lost; write sqlite:///FILE."
            yield RoutesProblem(("sinks", name, "url"), text)


def _find_table_collisions(routes: Routes) -> Iterator[RoutesProblem]:
    # Two resources in one table would overwrite each other's records with the same id.
    owners: dict[tuple[str, str], str] = {}
    for number, route in enumerate(routes.routes):
        for sink in route.sinks if route.table else ():
            owner = owners.setdefault((sink, route.table), route.resource)
            if owner != route.resource or has_wildcard(route.resource):
                text = (
                    f"{route.table} in sink {sink} would mix several resources; "
                    "give each resource its own route and table, or remove `table`."
                )
                yield RoutesProblem(("routes", number, "table"), text)


def _find_reserved_columns(routes: Routes) -> Iterator[RoutesProblem]:
    for number, route in enumerate(routes.routes):
        if "data" in route.columns:
            text = "data is reserved for the whole record; use another name."
            yield RoutesProblem(("routes", number, "columns"), text)
        sinks = [routes.sinks[name] for name in route.sinks if name in routes.sinks]
        if any(isinstance(sink, SqlSinkConfig) and sink.url.startswith("postgres") for sink in sinks):
            for column in sorted(_SYSTEM_COLUMNS & set(route.columns)):
                config = route.columns[column]
                renamed = f'{column}_ = {{ type = "{config.type}", path = "{config.path or column}" }}'
                text = f"{column} is a system column in PostgreSQL; use another name: {renamed}"
                yield RoutesProblem(("routes", number, "columns"), text)


def _find_unusable_keys(routes: Routes) -> Iterator[RoutesProblem]:
    for number, route in enumerate(routes.routes):
        if not route.key and route.on_missing_key == "reject":
            text = (
                '"" with on_missing_key = "reject" would reject every record; '
                "name the member that identifies a record, or remove `on_missing_key`."
            )
            yield RoutesProblem(("routes", number, "key"), text)


def _find_untrackable_routes(routes: Routes) -> Iterator[RoutesProblem]:
    for number, route in enumerate(routes.routes):
        if not route.track_deletes:
            continue
        sinks = [routes.sinks[name] for name in route.sinks if name in routes.sinks]
        if not any(isinstance(sink, SqlSinkConfig) for sink in sinks):
            text = "only SQL sinks track deletes; add one to `sinks`, or remove `track_deletes`."
            yield RoutesProblem(("routes", number, "track_deletes"), text)
        if route.account:
            text = (
                "a run tracks the rows of its own account, and `account` reads accounts from the records; "
                "remove one of the two."
            )
            yield RoutesProblem(("routes", number, "track_deletes"), text)
        if route.event and not fnmatchcase(_RECORD_EVENT, route.event):
            text = f"runs send {_RECORD_EVENT}, which `event` does not match; remove one of the two."
            yield RoutesProblem(("routes", number, "track_deletes"), text)


def _find_duplicate_names(routes: Routes) -> Iterator[RoutesProblem]:
    names = [subscriber.name for subscriber in routes.notify]
    for number, name in enumerate(names):
        if name in names[:number]:
            text = f"{name} is used twice; give each table its own name."
            yield RoutesProblem(("notify", number, "name"), text)


def _find_duplicate_webhooks(routes: Routes) -> Iterator[RoutesProblem]:
    ids = [webhook.id for webhook in routes.webhooks]
    for number, id_ in enumerate(ids):
        if id_ in ids[:number]:
            text = f"{id_} is used twice; a webhook serves one account, or none."
            yield RoutesProblem(("webhooks", number, "id"), text)
