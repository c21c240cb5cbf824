"""Hypothesis strategies for the inputs of the targets: sound ones, and damaged ones."""

import base64
import gzip
import json
import string
import zlib
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from app.store.compression import compress
from tests.fuzz.targets import TARGETS

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\0", "\ud800", "x" * 250, "2026-11-24T10:00:00Z", 2**64, 10**400])
)
json_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
_names = st.sampled_from(["sync_job_run:record", "sync_job_run:started", "record:created", "test", ""])
_ids = st.sampled_from(["a", "r", "", None]) | json_values
_payloads = st.fixed_dictionaries(
    {},
    optional={
        "records": st.lists(json_values, max_size=8) | json_values,
        "record": json_values,
        "errors": st.lists(json_values, max_size=8) | json_values,
        "resource": st.sampled_from(["crm/contacts", "tickets"]) | json_values,
        "method": _ids,
        "id": _ids,
        "sync_job_run_id": _ids,
        "integrated_account_id": _ids,
        "meta": json_values,
        "sync_job_run": json_values,
        "args": st.dictionaries(st.sampled_from(["integrated_account_id", "x_integrated_account_id"]), _ids),
    },
)
_events = st.fixed_dictionaries(
    {"event": _names | json_values, "payload": _payloads | json_values},
    optional={"id": _ids, "created_at": json_values, "webhook_id": _ids, "eventType": _names},
)


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass")


def _damage(sound: st.SearchStrategy[bytes], tokens: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Return inputs that are sound, or have a part replaced."""

    def replace(content: bytes, place: float, removed: int, inserted: bytes) -> bytes:
        start = int(place * len(content))
        return content[:start] + inserted + content[start + removed :]

    parts = st.binary(max_size=8) | st.sampled_from(tokens)
    damaged = st.builds(replace, sound, st.floats(0, 1), st.integers(0, 10), parts)
    return sound | damaged | st.binary(max_size=200)


def _join(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda *values: b"\n".join(values), *parts)


_bodies = st.builds(_dump, _events)
_documents = st.builds(_dump, json_values)
_macs = st.binary(min_size=32, max_size=32)
_headers = st.builds(
    lambda mac, prefix, is_hex: (prefix + (mac.hex() if is_hex else base64.b64encode(mac).decode())).encode(),
    _macs,
    st.sampled_from(["v=", "format=sha256,v=", "format=sha1,v=", "t=1, v=", ""]),
    st.booleans(),
)
_export_lines = st.builds(
    lambda body, members: _dump({"format": "rapidbridge.delivery/1", "body": body, **members}),
    st.text(max_size=20) | json_values,
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.uuids().map(str) | json_values,
            "received_at": st.datetimes().map(str) | json_values,
            "body_base64": json_values,
            "format": json_values,
        },
    ),
)
_exports = st.lists(_export_lines | _documents, max_size=5).map(b"\n".join)
_spool_headers = st.builds(
    _dump,
    st.fixed_dictionaries(
        {"digest": st.just("DIGEST") | json_values},
        optional={"received_at": json_values, "state": st.sampled_from(["refused", "pending"]) | json_values},
    ),
)
_toml_values = st.sampled_from(
    ['"main"', '["main"]', "1", "true", '"$TOKEN"', "{ a = 1 }", "nan", "[]", '"*"']
)
_toml_lines = st.builds(
    lambda key, value: f"{key} = {value}",
    st.sampled_from(
        ["type", "url", "sinks", "resource", "table", "columns", "key", "filter", "id", "secret"]
    ),
    _toml_values,
) | st.sampled_from(["[sinks.main]", "[[routes]]", "[gate]", "[[notify]]", "[[allow]]", "[routes.columns]"])
_expressions = st.lists(
    st.sampled_from(
        ["a", "[*]", "[?a > `1`]", ".", "|", "@", "sum(", ")", "{b: a}", "[::-1]", "&", "'x'", ","]
    ),
    max_size=8,
).map(lambda parts: "".join(parts).encode())

STRATEGIES: Mapping[str, st.SearchStrategy[bytes]] = {
    name: _damage(sound, TARGETS[name].tokens)
    for name, sound in {
        "signature_header": _headers,
        "envelope": _bodies,
        "json_scanner": _documents | _bodies,
        "records": _bodies,
        "record_errors": _bodies,
        "record_routing": st.lists(_documents, max_size=5).map(b",".join),
        "routes_file": st.lists(_toml_lines, max_size=12).map(lambda lines: "\n".join(lines).encode()),
        "spool": _join(st.just(b"signed"), _spool_headers, _bodies)
        | _join(_spool_headers, st.just(b""), _bodies.map(zlib.compress)),
        "delivery_export": _exports | _exports.map(gzip.compress),
        "compression": st.binary().map(zlib.compress) | st.binary().map(lambda body: compress([body])[0]),
        "expressions": _join(_expressions, _documents),
        "names": st.text(string.printable + "é\0😀", max_size=300).map(str.encode),
    }.items()
}
