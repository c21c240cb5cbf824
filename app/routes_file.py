"""Reads the routes file, and says everything that is wrong with it. Pure."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from app.errors import ConfigError
from app.routes import FilesSink, GateRules, Refusal, Route, Routes, RunRule, SqlSink

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def read_routes(text: str, *, source: str, variables: Mapping[str, str]) -> Routes:
    """Read a routes file.

    source: its name, for complaints. variables: what $NAME stands for in a sink's settings.
    Raises ConfigError with every complaint: where it is, what is wrong, what to do. None holds a value.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source}: not TOML: {error}."]) from error
    complaints: list[str] = []
    sinks = found.get("sinks")
    if isinstance(sinks, dict):
        found = {
            **found,
            "sinks": {name: _expand(spec, variables, name, complaints) for name, spec in sinks.items()},
        }
    try:
        routes = Routes.model_validate(found)
    except ValidationError as error:
        complaints += [_complaint(detail) for detail in error.errors(include_input=False, include_url=False)]
    else:
        complaints += [*_unknown_sinks(routes), *_collisions(routes), *_taken_columns(routes)]
    if complaints:
        raise ConfigError([f"{source}: {complaint}" for complaint in complaints])
    return routes


def _expand(spec: Any, variables: Mapping[str, str], sink: str, complaints: list[str]) -> Any:
    if not isinstance(spec, dict):
        return spec

    def value_of(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in variables:
            complaints.append(f"[sinks.{sink}]: ${name} is not set in the environment.")
        return variables.get(name, "sqlite://")

    return {
        key: _VARIABLE.sub(value_of, value) if isinstance(value, str) else value
        for key, value in spec.items()
    }


_KINDS: Mapping[str, type[BaseModel]] = {
    "sql": SqlSink,
    "files": FilesSink,
    "routes": Route,
    "allow": RunRule,
    "refuse": Refusal,
    "gate": GateRules,
}
_LISTS = ("routes", "allow", "refuse")
_ADVICE = {
    "union_tag_invalid": 'there is no such type of sink: use type = "sql" or type = "files".',
    "union_tag_not_found": 'a sink needs a type: type = "sql" or type = "files".',
}


def _complaint(detail: Any) -> str:
    place = [part for part in detail["loc"] if part not in ("sql", "files")]
    advice = _ADVICE.get(detail["type"]) or _advice(detail)
    if place[0] in _LISTS and len(place) > 1:
        where, rest = f"[[{place[0]}]] {place[1] + 1}", place[2:]
    elif place[0] == "gate":
        where, rest = "[gate]", place[1:]
    else:
        where, rest = f"[{'.'.join(map(str, place[:2]))}]", place[2:]
    return f"{where}{', ' if rest else ''}{'.'.join(map(str, rest))}: {advice}"


def _advice(detail: Any) -> str:
    name = str(detail["loc"][-1])
    if detail["loc"] == ("gate",):
        return "must be one table; write [gate], and its keys below it."
    if len(detail["loc"]) == 1 and name in _LISTS:
        return f"there may be several; write [[{name}]]."
    if detail["type"] == "extra_forbidden":
        kind = next((_KINDS[part] for part in reversed(detail["loc"][:-1]) if part in _KINDS), Routes)
        near = difflib.get_close_matches(name, kind.model_fields, n=1)
        known = f"did you mean {near[0]}?" if near else f"known are {', '.join(kind.model_fields)}."
        return f"nothing reads this; {known}"
    if name == "url" and detail["type"] != "missing":
        return "not supported: a sql sink takes postgres://… or sqlite:///…, a files sink file:///… ."
    if name == "format":
        return 'not supported yet: files are written as format = "jsonl".'
    message: str = detail["msg"]
    return f"{message[0].lower()}{message[1:]}."


def _unknown_sinks(routes: Routes) -> Iterator[str]:
    for number, route in enumerate(routes.routes, start=1):
        for name in route.sinks:
            if name not in routes.sinks:
                near = difflib.get_close_matches(name, routes.sinks, n=1)
                hint = f"did you mean {near[0]}?" if near else f"define it as [sinks.{name}]."
                yield f"[[routes]] {number}, sinks: there is no sink {name}; {hint}"


def _collisions(routes: Routes) -> Iterator[str]:
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


def _taken_columns(routes: Routes) -> Iterator[str]:
    for number, route in enumerate(routes.routes, start=1):
        if "data" in route.columns:
            yield f"[[routes]] {number}, columns: data is the sink's own name for the whole record."


def _is_pattern(text: str) -> bool:
    return any(mark in text for mark in "*?[")
