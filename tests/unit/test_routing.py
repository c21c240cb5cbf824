"""Records as routes send them: keys, versions, filters and fields."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.config.routes import Route
from app.expressions import ExpressionError, compile_expression, is_selected, transform
from app.routing.fields import drop_fields, keep_fields
from app.sinks.base import Record
from app.truto.records import decode_json, to_json
from tests.support.sent_records import NOW, send

RECORD = {
    "id": "1",
    "remote_data": {"secret": "x"},
    "emails": [{"email": "a@example.com", "remote_data": 1}, {"email": "b@example.com"}, "text"],
    "owner": {"id": 7, "remote_data": {}},
    "a.b": {"c": 1, "d": 2},
}


def make_route(**keys: Any) -> Route:
    return Route(sinks=("main",), **keys)


def route_one(record: Any, *, is_deletion: bool = False, **keys: Any) -> Record:
    routed = send([record], is_deletion=is_deletion).route(make_route(**keys))
    assert (len(routed.records), routed.rejected, routed.filtered) == (1, [], 0)
    return routed.records[0]


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("remote_data", ["remote_data"]),
        ("owner.remote_data", ["owner", "remote_data"]),
        ("emails.*.remote_data", ["emails", 0, "remote_data"]),
        ("a.b", ["a.b"]),
        ("a.b.c", ["a.b", "c"]),
    ],
)
def test_a_dropped_field_is_gone_and_the_rest_is_unchanged(path: str, gone: list[Any]) -> None:
    before = to_json(RECORD)
    expected: Any = json.loads(before)
    parent = expected
    for step in gone[:-1]:
        parent = parent[step]
    del parent[gone[-1]]

    assert drop_fields(RECORD, [path]) == expected
    assert to_json(RECORD) == before


@pytest.mark.parametrize("path", ["none", "id.x", "emails.0", "emails.email", "owner.none.x", "*.none"])
def test_a_path_that_leads_nowhere_drops_nothing(path: str) -> None:
    assert drop_fields(RECORD, [path]) == RECORD


def test_every_item_or_member_can_be_dropped() -> None:
    assert drop_fields({"a": [1, 2], "b": {"c": 1}, "d": 3}, ["a.*", "b.*"]) == {"a": [], "b": {}, "d": 3}
    assert drop_fields({"a": {"x": 1, "y": 2}, "b": {"x": 3}}, ["*.x"]) == {"a": {"y": 2}, "b": {}}


@pytest.mark.parametrize(
    ("paths", "kept"),
    [
        (["id"], {"id": "1"}),
        (["owner.id", "none"], {"owner": {"id": 7}}),
        (["owner", "owner.id"], {"owner": RECORD["owner"]}),
        (["a.b.c"], {"a.b": {"c": 1}}),
        (["emails.*.email"], {"emails": [{"email": "a@example.com"}, {"email": "b@example.com"}, "text"]}),
        (["*"], RECORD),
        (["none"], {}),
    ],
)
def test_only_the_named_fields_are_kept(paths: list[str], kept: Any) -> None:
    assert keep_fields(RECORD, paths) == kept


@pytest.mark.parametrize(
    ("expression", "is_written"),
    [
        ("status == 'open'", True),
        ("status != 'open'", False),
        ("amount > `12.4`", True),
        ("amount == `12.50`", True),
        ("amount < `12.5`", False),
        ("contains(tags, 'vip')", True),
        ("tags[?@ == 'none']", False),
        ("none", False),
        ("zero", True),
        ("empty", False),
        ("type(amount) == 'number'", True),
        ("to_number(text) == `1.5`", True),
        ("to_number(grouped)", False),
        ("to_number(arabic)", False),
        ("status == 'open' && !(amount > `100`)", True),
    ],
)
def test_a_filter_selects_records(expression: str, is_written: bool) -> None:  # a table
    record = decode_json(
        '{"status": "open", "amount": 12.50, "tags": ["vip"], "zero": 0, "empty": {}, "text": "1.5", '
        '"grouped": "1_000", "arabic": "\\u0663"}'
    )

    assert is_selected(record, expression) is is_written


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("{n: n, m: list[1]}", '{"n":0.1234567890123456789,"m":1.10}'),
        ("list", "[12,1.10]"),
        ("to_string(n)", '"0.1234567890123456789"'),
        ("to_number(text)", "12345678901234567890.10"),
        ("sum(list)", "13.1"),
        ("none", "null"),
        ("@", '{"n":0.1234567890123456789,"list":[12,1.10],"text":"12345678901234567890.10"}'),
    ],
)
def test_a_transformation_keeps_all_digits(expression: str, result: str) -> None:
    record = decode_json(
        '{"n": 0.1234567890123456789, "list": [12, 1.10], "text": "12345678901234567890.10"}'
    )

    assert to_json(transform(record, expression)) == result


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a b", "not a JMESPath expression at column 3"),
        ("a ==", "not a JMESPath expression"),
        ("[?a", "not a JMESPath expression"),
        ("sqrt(a)", "JMESPath has no function sqrt"),
        ("a || {b: [sqrt(a)]}", "JMESPath has no function sqrt"),
    ],
)
def test_an_invalid_expression_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        compile_expression(expression)


def test_a_record_for_which_an_expression_fails_is_rejected_without_its_data() -> None:
    secret = {"id": "1", "name": "secret"}
    routed = send([secret, {"id": "2", "name": [1]}]).route(make_route(transform="{sum: sum(name)}"))
    filtered = send([secret]).route(make_route(filter="sum(name) > `1`"))
    infinite = send([decode_json('{"id": "1", "n": [1e308, 1e308]}')]).route(
        make_route(transform="{n: sum(n)}")
    )

    assert [record.key for record in routed.records] == ["2"]
    assert [r.reason for r in routed.rejected] == ["transform_failed"]
    assert [r.reason for r in filtered.rejected] == ["filter_failed"]
    assert [r.reason for r in infinite.rejected] == ["transform_failed"]
    assert "secret" not in str((routed.rejected, filtered.rejected))


def test_a_transformation_that_results_in_no_object_is_rejected_or_wrapped() -> None:
    rejected = send([RECORD]).route(make_route(transform="id")).rejected

    assert [r.reason for r in rejected] == ["not_object"]
    assert route_one(RECORD, transform="id", on_non_object="wrap").value == {"value": "1"}


def test_keys_and_versions_are_read_before_fields_are_removed() -> None:
    record = {"uid": "7", "at": "2026-01-02T03:04:05+01:00", "name": "n"}
    routed = route_one(record, key="uid", version_field="at", only=("name",), filter="uid == '7'")

    assert (routed.key, routed.value, routed.json) == ("7", {"name": "n"}, '{"name":"n"}')
    assert routed.version == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)


def test_fields_are_kept_dropped_and_transformed_in_this_order() -> None:
    routed = route_one(
        RECORD, only=("id", "owner"), drop=("owner.id",), transform="{id: id, owner: owner, emails: emails}"
    )

    assert routed.value == {"id": "1", "owner": {"remote_data": {}}, "emails": None}


def test_a_filter_leaves_records_out_but_no_deletions() -> None:
    records = [{"id": "1", "n": 1}, {"id": "2", "n": 2}, {"id": "3"}]
    routed = send(records).route(make_route(filter="n > `1`"))
    deleted = send(records, is_deletion=True).route(make_route(filter="n > `1`"))

    assert ([r.key for r in routed.records], routed.filtered, routed.has_key) == (["2"], 2, True)
    assert ([r.key for r in deleted.records], deleted.filtered) == (["1", "2", "3"], 0)


@pytest.mark.parametrize(
    ("value", "version"),
    [
        ("2026-11-24T12:00:00Z", datetime(2026, 11, 24, 12, tzinfo=UTC)),
        ("2026-11-24 12:00:00.5", datetime(2026, 11, 24, 12, microsecond=500_000, tzinfo=UTC)),
        ("2026-11-24", datetime(2026, 11, 24, tzinfo=UTC)),
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_123, datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
    ],
)
def test_a_version_may_be_a_time_of_the_record(value: Any, version: datetime) -> None:
    record = {"id": "1", "at": value}

    assert route_one(record, version_field="at").version == version
    # The payload of a deletion repeats the time of the last change.
    assert route_one(record, version_field="at", is_deletion=True).version == NOW


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "soon",
        "2026-13-01",
        True,
        1.5,
        [],
        {},
        10**30,
        "\u0662\u0660\u0662\u0666-01-01",
        "2026-1_1-01",
    ],
)
def test_a_record_without_a_usable_time_has_the_version_of_its_event(value: Any) -> None:
    routed = route_one({"id": "1", "at": value}, version_field="at")

    assert (routed.version, routed.misfits) == (NOW, {"_version": "not_a_time"})
