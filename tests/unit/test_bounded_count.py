"""Counts with a limit, as every surface shows them."""

import pytest

from app.store.bounded_count import BoundedCount


@pytest.mark.parametrize(
    ("counted", "limit", "text", "as_number"),
    [
        (0, 10_000, "0 deliveries", 0),
        (1, 10_000, "1 delivery", 1),
        (10_000, 10_000, "10,000 deliveries", 10_000),
        (10_001, 10_000, "10,000+ deliveries", 10_001),
        (2, 1, "1+ deliveries", 2),
    ],
)
def test_a_count_shows_that_there_are_more(counted: int, limit: int, text: str, as_number: int) -> None:
    count = BoundedCount.build(counted, limit)

    assert count.format("delivery") == text
    assert str(count) == text.split(" ", maxsplit=1)[0]
    assert count.as_number == as_number
    assert bool(count) is (counted > 0)


def test_a_sum_is_exact_only_if_both_counts_are() -> None:
    exact, cut = BoundedCount(3), BoundedCount(10_000, is_exact=False)

    assert str(exact + exact) == "6"
    assert str(exact + cut) == str(cut + exact) == "10,003+"


def test_a_count_cannot_be_printed_as_a_plain_number() -> None:
    with pytest.raises(TypeError):
        format(BoundedCount(3), ",")
