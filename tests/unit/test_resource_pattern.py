"""Patterns of resources: `*` stands for any characters, and no pattern takes long."""

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from app.store.delivery_filter import matches_pattern


def matches_by_definition(pattern: str, text: str) -> bool:
    @cache
    def match(i: int, j: int) -> bool:
        if i == len(pattern):
            return j == len(text)
        if pattern[i] == "*":
            return match(i + 1, j) or (j < len(text) and match(i, j + 1))
        return j < len(text) and pattern[i] == text[j] and match(i + 1, j + 1)

    return match(0, 0)


@given(st.text("ab*\n.", max_size=8), st.text("ab*\n.", max_size=10))
def test_a_pattern_matches_by_its_definition(pattern: str, text: str) -> None:
    assert matches_pattern(pattern, text) == matches_by_definition(pattern, text)


def test_many_stars_do_not_backtrack() -> None:
    name = "a" * 200

    assert not matches_pattern("*" * 60 + "x", name)
    assert not matches_pattern("*a" * 60 + "*x*", name)
    assert matches_pattern("*a" * 60 + "*", name)
