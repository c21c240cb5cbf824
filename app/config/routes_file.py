"""Parser of the routes file, which reports all problems with their places."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from app.config.database_url import is_in_memory
from app.config.notify import NotifyConfig
from app.config.problems import (
    describe_violation,
    escape_all,
    find_unusable_character,
    name_value,
    quote_value,
)
from app.config.routes import (
    ColumnConfig,
    GateConfig,
    RefuseRule,
    Route,
    Routes,
    RunRule,
    StopLimits,
    WebhookConfig,
    has_wildcard,
)
from app.config.sinks import FilesSinkConfig, SqlSinkConfig
from app.errors import ConfigError

_KEY = re.compile(r"\s*([\w.-]{1,60})\s*=")
_DUPLICATE = "Remove one of the two definitions."
_UNREADABLE = "Write texts in quotes, and close every quotation mark and bracket."
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# Valid placeholders for unset variables, so that one is reported once: as unset, and not as invalid too.
_UNSET_SECRETS = {"pagerduty": "A" * 32}
_UNSET_SECRET = "whsec_" + "A" * 32  # a placeholder


def read_routes(text: str, *, source: str, variables: Mapping[str, str]) -> Routes:
    """Parse the text of a routes file.

    source: the file's name, for messages. variables: the values of $NAME in [sinks] and [[notify]].
    Raises ConfigError with every problem: its place, the invalid value, and the next step. No message
    contains a URL, a secret or the value of a variable.
    """
    tables = _parse_toml(text, source)
    problems: list[str] = []
    try:
        routes = Routes.model_validate(_expand_variables(tables, variables, problems))
    except ValidationError as error:
        problems += [
            _describe_problem(detail, tables)
            for detail in error.errors(include_input=False, include_url=False)
        ]
    else:
        for check in (
            _find_unknown_sinks,
            _find_databases_in_memory,
            _find_table_collisions,
            _find_reserved_columns,
            _find_unusable_keys,
            _find_duplicate_names,
            _find_duplicate_webhooks,
        ):
            problems += check(routes)
    if problems:
        raise ConfigError(escape_all(f"{source}: {problem}" for problem in problems))
    return routes


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).removesuffix(")").rpartition(" (at ")
        if line := re.match(r"line (\d+)", place):
            # Not more of the line: it may contain a password.
            key = _KEY.match(text.split("\n")[int(line[1]) - 1])
            place += f", {key[1]}" if key else ""
        advice = _DUPLICATE if re.search("overwrite|twice|mutate", message) else _UNREADABLE
        raise ConfigError(escape_all([f"{source}: invalid TOML at {place}: {message}. {advice}"])) from error
    except (ValueError, RecursionError) as error:
        # Not translated by the parser.
        reason = (
            "it is nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        )
        raise ConfigError([f"{source}: invalid TOML: {reason}. Correct it."]) from error


def _expand_variables(
    tables: Mapping[str, Any], variables: Mapping[str, str], problems: list[str]
) -> dict[str, Any]:
    """Replace $NAME in sinks and [[notify]] tables, and name the [[notify]] tables without a name."""
    expanded = dict(tables)
    if isinstance(sinks := tables.get("sinks"), dict):
        expanded["sinks"] = {
            name: _expand_table(table, variables, _get_unset_values(table), f"[sinks.{name}]", problems)
            for name, table in sinks.items()
        }
    if isinstance(notify := tables.get("notify"), list):
        named_tables = [
            {"name": f"notify-{number}", **table} if isinstance(table, dict) else table
            for number, table in enumerate(notify, start=1)
        ]
        expanded["notify"] = [
            _expand_table(table, variables, _get_unset_notify_values(table), f"[[notify]] {number}", problems)
            for number, table in enumerate(named_tables, start=1)
        ]
    return expanded


def _get_unset_values(sink: Any) -> Mapping[str, str]:
    is_files = isinstance(sink, dict) and sink.get("type") == "files"
    return {"url": "file:///unset" if is_files else "sqlite:///unset"}


def _get_unset_notify_values(table: Any) -> Mapping[str, str]:
    form = table.get("form") if isinstance(table, dict) else None
    return {"url": "https://unset", "secret": _UNSET_SECRETS.get(str(form), _UNSET_SECRET)}


def _expand_table(
    table: Any, variables: Mapping[str, str], unset_values: Mapping[str, str], place: str, problems: list[str]
) -> Any:
    if not isinstance(table, dict):
        return table

    def expand(key: str, text: str) -> str:
        names = [match[1] or match[2] for match in _VARIABLE.finditer(text)]
        variable_problems = [
            problem for name in names if (problem := _find_variable_problem(name, variables))
        ]
        problems.extend(f"{place}: {problem}" for problem in variable_problems)
        if variable_problems:
            return unset_values.get(key, "unset")
        return _VARIABLE.sub(lambda match: variables[match[1] or match[2]], text)

    return {key: expand(key, value) if isinstance(value, str) else value for key, value in table.items()}


def _find_variable_problem(name: str, variables: Mapping[str, str]) -> str | None:
    if name not in variables:
        return f"${name} is not set in the environment; set {name}."
    clause = find_unusable_character(variables[name])
    return f"the value of ${name} {clause}; correct {name}." if clause else None


_TABLE_MODELS: Mapping[str, type[BaseModel]] = {
    "sql": SqlSinkConfig,
    "files": FilesSinkConfig,
    "routes": Route,
    "webhooks": WebhookConfig,
    "allow": RunRule,
    "refuse": RefuseRule,
    "notify": NotifyConfig,
    "gate": GateConfig,
    "stop_at": StopLimits,
    "columns": ColumnConfig,
}
_SINK_TYPES = ("sql", "files")
_ARRAY_TABLES = ("routes", "webhooks", "allow", "refuse", "notify")
_SECRET_KEYS = ("url", "secret")
# Source: https://www.postgresql.org/docs/current/ddl-system-columns.html
_SYSTEM_COLUMNS = {"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}
_NAME_RULES = {
    "table": "use lower-case letters, digits and _, starting with a letter or _",
    "[key]": "a column's name has lower-case letters, digits and _, and starts with a letter",
    "name": 'use letters, digits, ".", "_" and "-", starting with a letter or digit',
}


def _describe_problem(detail: Any, tables: Mapping[str, Any]) -> str:
    path = [part for part in detail["loc"] if part not in _SINK_TYPES]
    place, keys = _format_place(path)
    key_path = ".".join(str(key) for key in keys if key != "[key]")
    # The error of a sink's type is one of the sink.
    value = _quote_written_value(tables, [*path, "type"] if detail["type"] == "union_tag_invalid" else path)
    return f"{place}{', ' if key_path else ''}{key_path}: {_describe_violation(detail, path, value)}"


def _format_place(path: list[Any]) -> tuple[str, list[Any]]:
    """Return the heading of a table, and the keys below it."""
    if path[0] in _ARRAY_TABLES and len(path) > 1:
        return f"[[{path[0]}]] {path[1] + 1}", path[2:]
    if path[0] == "gate":
        return "[gate]", path[1:]
    return f"[{'.'.join(map(str, path[:2]))}]", path[2:]


def _quote_written_value(tables: Any, path: Iterable[Any]) -> str:
    """Quote the value at a path as the file has it: a $NAME, and not the value of the variable."""
    value, key = tables, ""
    for key in path:
        if isinstance(value, str):
            # The short form of a column, which is its type.
            break
        try:
            value = value[key]
        except (LookupError, TypeError):
            return "the value"
    return "the value" if key in _SECRET_KEYS else quote_value(value)


def _describe_violation(detail: Any, path: list[Any], value: str) -> str:
    match detail["type"], path:
        case "union_tag_invalid", _:
            text = 'unknown type of sink; use type = "sql" or type = "files"'
        case "union_tag_not_found", _:
            text = 'the type is missing; add type = "sql" or type = "files"'
        case _, ["gate"]:
            text = "this must be a single table; write [gate], and its keys below it"
        case _, ["routes" | "webhooks" | "allow" | "refuse" | "notify" as name]:
            text = f"this must be an array of tables; write [[{name}]]"
        case "extra_forbidden", _:
            # Not the value: a misspelled key may hold a secret.
            text, value = _describe_unknown_key(detail), "the value"
        case "missing", ["sinks"]:
            text = "missing; add a sink, such as [sinks.main]"
        case "missing", _:
            text = f"missing; add {path[-1]}"
        case "value_error", ["sinks", _, "url" | "schema"]:
            text = describe_violation(detail, value)
        case _, ["sinks", _, "url"]:
            text = (
                "unsupported URL; use postgres://…, mysql://… or sqlite:///… for a sql sink, file:///… for a "
                "files sink"
            )
        case _, [*_, "format"]:
            text = f'{value} is not supported; use format = "jsonl"'
        case "string_pattern_mismatch", [*_, "table" | "name" | "[key]" as key]:
            text = f"invalid name; {_NAME_RULES[key]}, 63 characters at most"
        case _:
            text = describe_violation(detail, value)
    end = "" if text.endswith("?") else "."
    return f"{text}{end}{name_value(text, value)}"


def _describe_unknown_key(detail: Any) -> str:
    *outer, key = detail["loc"]
    model = next((_TABLE_MODELS[part] for part in reversed(outer) if part in _TABLE_MODELS), Routes)
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"unknown {'key' if outer else 'table'}; {hint}"


def _find_unknown_sinks(routes: Routes) -> Iterator[str]:
    for number, route in enumerate(routes.routes, start=1):
        for name in route.sinks:
            if name not in routes.sinks:
                near = difflib.get_close_matches(name, routes.sinks, n=1)
                hint = f"did you mean {near[0]}?" if near else f"define it as [sinks.{name}]."
                yield f"[[routes]] {number}, sinks: no sink named {name}; {hint}"


def _find_databases_in_memory(routes: Routes) -> Iterator[str]:
    for name, sink in routes.sinks.items():
        if isinstance(sink, SqlSinkConfig) and is_in_memory(sink.url):
            yield f"[sinks.{name}], url: names no file, so every record would be lost; write sqlite:///FILE."


def _find_table_collisions(routes: Routes) -> Iterator[str]:
    # Two resources in one table would overwrite each other's records with the same id.
    owners: dict[tuple[str, str], str] = {}
    for number, route in enumerate(routes.routes, start=1):
        for sink in route.sinks if route.table else ():
            owner = owners.setdefault((sink, route.table), route.resource)
            if owner != route.resource or has_wildcard(route.resource):
                yield (
                    f"[[routes]] {number}, table: {route.table} in sink {sink} would mix several resources; "
                    "give each resource its own route and table, or remove `table`."
                )


def _find_reserved_columns(routes: Routes) -> Iterator[str]:
    for number, route in enumerate(routes.routes, start=1):
        if "data" in route.columns:
            yield f"[[routes]] {number}, columns: data is reserved for the whole record; use another name."
        sinks = [routes.sinks[name] for name in route.sinks if name in routes.sinks]
        if any(isinstance(sink, SqlSinkConfig) and sink.url.startswith("postgres") for sink in sinks):
            for column in sorted(_SYSTEM_COLUMNS & set(route.columns)):
                config = route.columns[column]
                renamed = f'{column}_ = {{ type = "{config.type}", path = "{config.path or column}" }}'
                yield (
                    f"[[routes]] {number}, columns: {column} is a system column in PostgreSQL; "
                    f"use another name: {renamed}"
                )


def _find_unusable_keys(routes: Routes) -> Iterator[str]:
    for number, route in enumerate(routes.routes, start=1):
        if not route.key and route.on_missing_key == "reject":
            yield (
                f'[[routes]] {number}, key: "" with on_missing_key = "reject" would reject every record; '
                "name the member that identifies a record, or remove `on_missing_key`."
            )


def _find_duplicate_names(routes: Routes) -> Iterator[str]:
    names = [subscriber.name for subscriber in routes.notify]
    for number, name in enumerate(names, start=1):
        if name in names[: number - 1]:
            yield f"[[notify]] {number}, name: {name} is used twice; give each table its own name."


def _find_duplicate_webhooks(routes: Routes) -> Iterator[str]:
    ids = [webhook.id for webhook in routes.webhooks]
    for number, id_ in enumerate(ids, start=1):
        if id_ in ids[: number - 1]:
            yield f"[[webhooks]] {number}, id: {id_} is used twice; a webhook serves one account, or none."
