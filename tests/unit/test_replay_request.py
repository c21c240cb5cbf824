"""A replay request keeps its key and its meaning, whenever it is resumed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.replay.request import ReplayRequest, select_dead_records, select_failed
from app.store.delivery_filter import DeliveryFilter
from app.times import parse_time

NOW = datetime(2026, 11, 25, 10, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def make_request(now: datetime) -> ReplayRequest:
    delivery_filter = DeliveryFilter(states=("unrouted", "dead"), since=now - 7 * DAY)
    return ReplayRequest(delivery_filter, {"since": "7d"}, "lake", 10)


def test_the_same_request_has_the_same_key_at_any_time() -> None:
    request = make_request(NOW)

    assert request.key == make_request(NOW + DAY).key
    assert request.key == '{"into": "lake", "limit": 10, "since": "7d", "states": ["dead", "unrouted"]}'
    assert request.key != replace(request, sink="").key
    assert request.key != replace(request, typed_times={}).key


def test_a_resumed_request_matches_the_deliveries_it_matched_at_its_start() -> None:
    resolved = make_request(NOW + DAY).resolve(NOW)

    assert (resolved.since, resolved.until) == (NOW - 7 * DAY, NOW)


def test_absolute_times_need_no_typed_text() -> None:
    delivery_filter = DeliveryFilter(since=NOW - DAY, until=NOW - DAY / 2)

    assert ReplayRequest(delivery_filter).resolve(NOW) == delivery_filter


def test_refused_deliveries_are_replayed_only_by_name() -> None:
    everything = ReplayRequest(DeliveryFilter())
    refused = ReplayRequest(DeliveryFilter(states=("refused",)))

    assert "refused" not in everything.resolve_replayable(NOW).states
    assert refused.resolve_replayable(NOW).states == ("refused",)


def test_failed_deliveries_and_dead_records_are_different_filters() -> None:
    delivery_filter = DeliveryFilter(reason="not_object")

    assert set(select_failed(delivery_filter).states) == {"dead", "quarantined", "unrouted", "late"}
    assert select_failed(DeliveryFilter(states=("dead",))).states == ("dead",)
    assert select_dead_records(delivery_filter) == DeliveryFilter(
        states=("settled",), has_dead_records=True, record_reason="not_object"
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("90m", NOW - timedelta(minutes=90)),
        ("7 d", NOW - 7 * DAY),
        ("999999w", datetime.min.replace(tzinfo=UTC)),
        ("Yesterday", datetime(2026, 11, 24, tzinfo=UTC)),
        ("2026-11-25", datetime(2026, 11, 25, tzinfo=UTC)),
        ("2026-11-25T08:00+02:00", datetime(2026, 11, 25, 6, tzinfo=UTC)),
    ],
)
def test_a_time_is_an_age_a_day_or_iso_8601(text: str, time: datetime) -> None:
    assert parse_time(text, now=NOW) == time


def test_other_text_is_not_a_time() -> None:
    with pytest.raises(ValueError, match="'soon' is not a time; write 90m"):
        parse_time("soon", now=NOW)
