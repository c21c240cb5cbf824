"""The fuzz targets: one function for each kind of foreign bytes, which raises if a property is broken."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.fuzz.targets import (
    compression,
    delivery_export,
    envelope,
    expressions,
    json_scanner,
    names,
    record_errors,
    record_routing,
    records,
    routes_file,
    signature_header,
    spool,
)

_JSON = (
    *("{", "}", "[", "]", ",", ":", '"', "\\", "null", "true", "false", "NaN", "Infinity", "-0", "1e400"),
    *("0.1", "1E-9", "9" * 400, "\\u0000", "\\ud800", "\\ud83d\\ude00", "\\u0041", "\0", "\ufeff", "\u2028"),
    *("{}", "[]", '""', '{"a":1,"a":2}', "[" * 40, "]" * 40, '{"":' * 20),
)
_EVENT = (
    *('"id"', '"event"', '"event_type"', '"eventType"', '"created_at"', '"webhook_id"', '"payload"'),
    *('"resource"', '"method"', '"meta"', '"sync_job_run"', '"sync_job"', '"integrated_account"', '"args"'),
    *('"sync_job_run_id"', '"integrated_account_id"', '"records"', '"record"', '"errors"', '"status"'),
    *('"resource_stats"', '"sync_job_run:record"', '"sync_job_run:started"', '"record:updated"'),
    *('"sync_job_run:record_error"', '"remote_error"', '"message"', '"2026-11-24T10:00:00.000Z"'),
    *('"crm_integrated_account_id"', '"crm/contacts"', '"9999-12-31T23:59:59-23:59"'),
)
_ROUTES = (
    *("[sinks.main]", "[[routes]]", "[gate]", "[[webhooks]]", "[[allow]]", "[[refuse]]", "[[notify]]", "\n"),
    *('type = "sql"', 'type = "files"', 'url = "$DATABASE_URL"', 'url = "${TOKEN}"', 'sinks = ["main"]'),
    *('resource = "crm/*"', "columns = { a = ", '"decimal"', 'key = "id"', 'filter = "a > `1`"', "= ", "'''"),
    *('format = "parquet"', "[routes.stop_at]", "records = 1", "nan", "-inf", "1979-05-27T07:32:00Z", "0x1F"),
)
_EXPRESSIONS = (
    *("[*]", "[?", "`1`", "`[]`", "||", "&&", "!", "==", "@", "&", ".", "*", "[::2]", "[-1]", "'a'", "|"),
    *("sort_by(", "max_by(", "map(", "to_number(", "to_string(", "join(", "keys(", "merge(", "sum(", ")"),
    *("{a: b}", "avg(", "reverse(", "contains(", "not_null(", "ceil(", "abs(", "\n", '"SECRET"'),
)


def _encode(*tokens: str) -> tuple[bytes, ...]:
    return tuple(token.encode(errors="surrogatepass") for token in tokens)


@dataclass(frozen=True, slots=True)
class Target:
    """A property of one parser. check: raises if it is broken; its docstring says how.

    tokens: texts that a mutation inserts. is_json: whether inputs are mutated as JSON too.
    """

    check: Callable[[bytes], None]
    tokens: tuple[bytes, ...] = ()
    is_json: bool = False


TARGETS: Mapping[str, Target] = {
    "signature_header": Target(
        signature_header.check,
        _encode("format=", "sha256", "v=", ",", " ", "=", "-", "_", "+", "/", "t=1", "0" * 64),
    ),
    "envelope": Target(envelope.check, _encode(*_JSON, *_EVENT), is_json=True),
    "json_scanner": Target(json_scanner.check, _encode(*_JSON), is_json=True),
    "records": Target(records.check, _encode(*_JSON, *_EVENT), is_json=True),
    "record_errors": Target(record_errors.check, _encode(*_JSON, *_EVENT), is_json=True),
    "record_routing": Target(
        record_routing.check,
        _encode(
            *_JSON, '"id":', '"owner":', '"amount":', '"updated_at":', '"tags":', '"decimal":', '"date":'
        ),
    ),
    "routes_file": Target(routes_file.check, _encode(*_ROUTES)),
    "spool": Target(
        spool.check,
        _encode(*_JSON, "signed\n", "DIGEST", '"digest":', '"received_at":', '"state":"refused"', "\n"),
    ),
    "delivery_export": Target(
        delivery_export.check,
        _encode(*_JSON, "\n", "rapidbridge.delivery/1", '"format":', '"body":', '"body_base64":', '"id":'),
    ),
    "compression": Target(
        compression.check, (b"\x78\x9c", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\0" * 8, b"\xff" * 8)
    ),
    "expressions": Target(expressions.check, _encode(*_EXPRESSIONS, *_JSON)),
    "names": Target(
        names.check, _encode("/", "..", ".", "%", "%2F", "\0", "'", '"', "\\", "é", "~", "pg_", "x" * 70)
    ),
}
