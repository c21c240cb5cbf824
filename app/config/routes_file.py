"""Reads the routes file, and says everything that is wrong with it. Pure."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from app.config.notify import NotifyConfig
from app.config.routes import FilesSinkConfig, GateConfig, RefuseRule, Route, Routes, RunRule, SqlSinkConfig
from app.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def read_routes(text: str, *, source: str, variables: Mapping[str, str]) -> Routes:
    """Read a routes file.

    source: its name, for complaints. variables: what $NAME stands for in [sinks] and [[notify]].
    Raises ConfigError with every complaint: where it is, what is wrong, what to do. None holds a value.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source}: not TOML: {error}."]) from error
    problems: list[str] = []
    try:
        routes = Routes.model_validate(_fill_in(tables, variables, problems))
    except ValidationError as error:
        problems += [
            _describe_problem(detail) for detail in error.errors(include_input=False, include_url=False)
        ]
    else:
        for check in (
            _find_unknown_sinks,
            _find_table_collisions,
            _find_reserved_columns,
            _find_duplicate_names,
        ):
            problems += check(routes)
    if problems:
        raise ConfigError([f"{source}: {problem}" for problem in problems])
    return routes


# What a variable that is not set stands for, so that it is complained about once.
_UNSET_SINK_VALUES = {"url": "sqlite://"}
_UNSET_NOTIFY_VALUES = {"url": "https://unset", "secret": "whsec_" + "A" * 32}


def _fill_in(tables: Mapping[str, Any], variables: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """Put in what $NAME stands for, and the names of [[notify]] tables that have none."""
    filled = dict(tables)
    if isinstance(sinks := tables.get("sinks"), dict):
        filled["sinks"] = {
            name: _expand_table(spec, variables, _UNSET_SINK_VALUES, f"[sinks.{name}]", problems)
            for name, spec in sinks.items()
        }
    if isinstance(notify := tables.get("notify"), list):
        named = [
            {"name": f"notify-{number}", **spec} if isinstance(spec, dict) else spec
            for number, spec in enumerate(notify, start=1)
        ]
        filled["notify"] = [
            _expand_table(spec, variables, _UNSET_NOTIFY_VALUES, f"[[notify]] {number}", problems)
            for number, spec in enumerate(named, start=1)
        ]
    return filled


def _expand_table(
    spec: Any, variables: Mapping[str, str], unset: Mapping[str, str], where: str, problems: list[str]
) -> Any:
    """Put in what $NAME stands for in one table. unset: by key, what to take where it is not set."""
    if not isinstance(spec, dict):
        return spec

    def expand(key: str, text: str) -> str:
        def value_of(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in variables:
                problems.append(f"{where}: ${name} is not set in the environment.")
            return variables.get(name, unset.get(key, "unset"))

        return _VARIABLE.sub(value_of, text)

    return {key: expand(key, value) if isinstance(value, str) else value for key, value in spec.items()}


_TABLE_MODELS: Mapping[str, type[BaseModel]] = {
    "sql": SqlSinkConfig,
    "files": FilesSinkConfig,
    "routes": Route,
    "allow": RunRule,
    "refuse": RefuseRule,
    "notify": NotifyConfig,
    "gate": GateConfig,
}
_ARRAY_TABLES = ("routes", "allow", "refuse", "notify")
_ADVICE = {
    "union_tag_invalid": 'there is no such type of sink: use type = "sql" or type = "files".',
    "union_tag_not_found": 'a sink needs a type: type = "sql" or type = "files".',
}


def _describe_problem(detail: Any) -> str:
    place = [part for part in detail["loc"] if part not in ("sql", "files")]
    advice = _ADVICE.get(detail["type"]) or _advise(detail)
    if place[0] in _ARRAY_TABLES and len(place) > 1:
        where, rest = f"[[{place[0]}]] {place[1] + 1}", place[2:]
    elif place[0] == "gate":
        where, rest = "[gate]", place[1:]
    else:
        where, rest = f"[{'.'.join(map(str, place[:2]))}]", place[2:]
    return f"{where}{', ' if rest else ''}{'.'.join(map(str, rest))}: {advice}"


def _advise(detail: Any) -> str:
    name = str(detail["loc"][-1])
    if detail["loc"] == ("gate",):
        return "must be one table; write [gate], and its keys below it."
    if len(detail["loc"]) == 1 and name in _ARRAY_TABLES:
        return f"there may be several; write [[{name}]]."
    if detail["type"] == "extra_forbidden":
        kind = next(
            (_TABLE_MODELS[part] for part in reversed(detail["loc"][:-1]) if part in _TABLE_MODELS), Routes
        )
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        known = f"did you mean {near[0]}?" if near else f"known are {', '.join(kind.model_fields)}."
        return f"nothing reads this; {known}"
    if detail["loc"][0] == "sinks" and name == "url" and detail["type"] != "missing":
        return "not supported: a sql sink takes postgres://… or sqlite:///…, a files sink file:///… ."
    if name == "format":
        return 'not supported yet: files are written as format = "jsonl".'
    message: str = detail["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}{'' if message[-1] in '.?' else '.'}"


def _find_unknown_sinks(routes: Routes) -> Iterator[str]:
    for number, route in enumerate(routes.routes, start=1):
        for name in route.sinks:
            if name not in routes.sinks:
                near = difflib.get_close_matches(name, routes.sinks, n=1)
                hint = f"did you mean {near[0]}?" if near else f"define it as [sinks.{name}]."
                yield f"[[routes]] {number}, sinks: there is no sink {name}; {hint}"


def _find_table_collisions(routes: Routes) -> Iterator[str]:
    """Two resources in one table would overwrite each other's records of the same id."""
    owners: dict[tuple[str, str], str] = {}
    for number, route in enumerate(routes.routes, start=1):
        for sink in route.sinks if route.table else ():
            owner = owners.setdefault((sink, route.table), route.resource)
            if owner != route.resource or _is_pattern(route.resource):
                yield (
                    f"[[routes]] {number}, table: {route.table} in sink {sink} would hold several resources; "
                    "give each resource a route and a table of its own, or leave `table` out."
                )


def _find_reserved_columns(routes: Routes) -> Iterator[str]:
    for number, route in enumerate(routes.routes, start=1):
        if "data" in route.columns:
            yield f"[[routes]] {number}, columns: data is the sink's own name for the whole record."


def _find_duplicate_names(routes: Routes) -> Iterator[str]:
    names = [spec.name for spec in routes.notify]
    for number, name in enumerate(names, start=1):
        if name in names[: number - 1]:
            yield f"[[notify]] {number}, name: another is called {name}; give each a name of its own."


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")
