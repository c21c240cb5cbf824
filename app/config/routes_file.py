"""Parser of the routes file, which reports all problems with their places."""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

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
)
from app.config.routes_problems import RoutesProblem, find_problems
from app.config.sinks import (
    FilesSinkConfig,
    HttpSinkConfig,
    KafkaSinkConfig,
    PythonSinkConfig,
    SqlSinkConfig,
    WarehouseSinkConfig,
)
from app.config.toml_lines import TomlPath, find_line, find_lines
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
    Raises ConfigError with every problem: its line, its place, the invalid value, and the next step. No
    message contains a URL, a secret or the value of a variable.
    """
    tables = _parse_toml(text, source)
    problems: list[RoutesProblem] = []
    try:
        routes = Routes.model_validate(_expand_variables(tables, variables, problems))
    except ValidationError as error:
        problems += [
            _describe_problem(detail, tables)
            for detail in error.errors(include_input=False, include_url=False)
        ]
    else:
        problems += find_problems(routes)
    if problems:
        lines = find_lines(text)
        raise ConfigError(escape_all(_format_problem(problem, source, lines) for problem in problems))
    return routes


def _format_problem(problem: RoutesProblem, source: str, lines: Mapping[TomlPath, int]) -> str:
    place, keys = _format_place(problem.path)
    key_path = ".".join(str(key) for key in keys if key != "[key]")
    line = find_line(lines, problem.path)
    return (
        f"{source}{f':{line}' if line else ''}: {place}{f', {key_path}' if key_path else ''}: {problem.text}"
    )


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
    tables: Mapping[str, Any], variables: Mapping[str, str], problems: list[RoutesProblem]
) -> dict[str, Any]:
    """Replace $NAME in sinks and [[notify]] tables, and name the [[notify]] tables without a name."""
    expanded = dict(tables)
    if isinstance(sinks := tables.get("sinks"), dict):
        expanded["sinks"] = {
            name: _expand_table(table, variables, _get_unset_values(table), ("sinks", name), problems)
            for name, table in sinks.items()
        }
    if isinstance(notify := tables.get("notify"), list):
        named_tables = [
            {"name": f"notify-{number}", **table} if isinstance(table, dict) else table
            for number, table in enumerate(notify, start=1)
        ]
        expanded["notify"] = [
            _expand_table(table, variables, _get_unset_notify_values(table), ("notify", number), problems)
            for number, table in enumerate(named_tables)
        ]
    return expanded


def _get_unset_values(sink: Any) -> Mapping[str, str]:
    type_ = sink.get("type") if isinstance(sink, dict) else None
    urls = {"files": "file:///unset", "http": "https://unset"}
    path = "unset:unset"
    is_duckdb = isinstance(sink, dict) and sink.get("destination") == "duckdb"
    return {
        "url": urls.get(str(type_), "sqlite:///unset"),
        "secret": _UNSET_SECRET,
        "brokers": "unset:9092",
        "credentials": "/unset" if is_duckdb else "{}",
        "target": path,
        "erase": path,
    }


def _get_unset_notify_values(table: Any) -> Mapping[str, str]:
    form = table.get("form") if isinstance(table, dict) else None
    return {"url": "https://unset", "secret": _UNSET_SECRETS.get(str(form), _UNSET_SECRET)}


def _expand_table(
    table: Any,
    variables: Mapping[str, str],
    unset_values: Mapping[str, str],
    place: TomlPath,
    problems: list[RoutesProblem],
) -> Any:
    if not isinstance(table, dict):
        return table

    def expand(path: TomlPath, text: str) -> str:
        names = [match[1] or match[2] for match in _VARIABLE.finditer(text)]
        variable_problems = [
            problem for name in names if (problem := _find_variable_problem(name, variables))
        ]
        problems.extend(RoutesProblem((*place, *path), problem) for problem in variable_problems)
        if variable_problems:
            return unset_values.get(str(path[-1]), "unset")
        return _VARIABLE.sub(lambda match: variables[match[1] or match[2]], text)

    def expand_value(path: TomlPath, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: expand_value((*path, name), item) for name, item in value.items()}
        return expand(path, value) if isinstance(value, str) else value

    return expand_value((), table)


def _find_variable_problem(name: str, variables: Mapping[str, str]) -> str | None:
    if name not in variables:
        return f"${name} is not set in the environment; set {name}."
    clause = find_unusable_character(variables[name])
    return f"the value of ${name} {clause}; correct {name}." if clause else None


_TABLE_MODELS: Mapping[str, type[BaseModel]] = {
    "sql": SqlSinkConfig,
    "files": FilesSinkConfig,
    "http": HttpSinkConfig,
    "python": PythonSinkConfig,
    "kafka": KafkaSinkConfig,
    "warehouse": WarehouseSinkConfig,
    "routes": Route,
    "webhooks": WebhookConfig,
    "allow": RunRule,
    "refuse": RefuseRule,
    "notify": NotifyConfig,
    "gate": GateConfig,
    "stop_at": StopLimits,
    "columns": ColumnConfig,
}
_SINK_TYPES = ("sql", "files", "http", "python", "kafka", "warehouse")
_KNOWN_TYPES = " or ".join(f'type = "{name}"' for name in _SINK_TYPES)
_ARRAY_TABLES = ("routes", "webhooks", "allow", "refuse", "notify")
_SECRET_KEYS = ("url", "secret", "headers", "brokers", "username", "password", "credentials")
_NAME_RULES = {
    "table": "use lower-case letters, digits and _, starting with a letter or _",
    "[key]": "a column's name has lower-case letters, digits and _, and starts with a letter",
    "name": 'use letters, digits, ".", "_" and "-", starting with a letter or digit',
}


def _describe_problem(detail: Any, tables: Mapping[str, Any]) -> RoutesProblem:
    path = list(detail["loc"])
    if path[0] == "sinks" and path[2:3] and path[2] in _SINK_TYPES:
        # The model's own position: the type of the sink.
        del path[2]
    # The error of a sink's type is one of the sink.
    value = _quote_written_value(tables, [*path, "type"] if detail["type"] == "union_tag_invalid" else path)
    return RoutesProblem(tuple(path), _describe_violation(detail, path, value))


def _format_place(path: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """Return the heading of a table, and the keys below it."""
    if path[0] in _ARRAY_TABLES and len(path) > 1:
        return f"[[{path[0]}]] {path[1] + 1}", path[2:]
    if path[0] == "gate":
        return "[gate]", path[1:]
    return f"[{'.'.join(map(str, path[:2]))}]", path[2:]


def _quote_written_value(tables: Any, path: Sequence[Any]) -> str:
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
    is_secret = key in _SECRET_KEYS or "headers" in path
    return "the value" if is_secret else quote_value(value)


def _describe_violation(detail: Any, path: list[Any], value: str) -> str:
    match detail["type"], path:
        case "union_tag_invalid", _:
            text = f"unknown type of sink; use {_KNOWN_TYPES}"
        case "union_tag_not_found", _:
            text = f"the type is missing; add {_KNOWN_TYPES}"
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
        case "value_error", ["sinks", *_]:
            text = describe_violation(detail, value)
        case _, ["sinks", _, "url"]:
            text = (
                "unsupported URL; use postgres://…, mysql://… or sqlite:///… for a sql sink, "
                "file:///…, s3://…, gs://… or az://… for a files sink, https://… for an http sink"
            )
        case "literal_error", [*_, "format" | "compression" as key]:
            supported = detail["ctx"]["expected"].replace("'", '"')
            text = f"{value} is not supported; use {key} = {supported}"
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
