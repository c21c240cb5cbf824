"""The geometry of charts, for any values."""

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from app.web.dashboard.charts import HEIGHT, WIDTH, Chart, draw_bars, draw_lines, format_short

VALUES = st.lists(st.one_of(st.none(), st.floats(), st.integers(-(10**30), 10**30)), max_size=200)


def list_numbers(chart: Chart) -> list[float]:
    """Return all coordinates of a chart."""
    paths = "".join(line.path for line in chart.lines)
    bars = [number for bar in chart.bars for number in (bar.x, bar.y, bar.width, bar.height)]
    ticks = [tick.position for tick in (*chart.x_ticks, *chart.y_ticks)]
    return [*map(float, re.findall(r"-?[\d.]+(?:e-?\d+)?|nan|inf", paths)), *bars, *ticks]


@given(VALUES)
def test_all_values_are_drawn_inside_the_chart(values: list[float | None]) -> None:
    labels = [f"{index:02}:00" for index in range(len(values))]
    for chart in (
        draw_bars("Arrivals", labels, values, unit="requests"),
        draw_lines("Times", labels, {"p50": values, "p99": values[::-1]}, unit="ms"),
    ):
        numbers = list_numbers(chart)
        assert all(math.isfinite(number) and 0 <= number <= max(WIDTH, HEIGHT) for number in numbers)
        assert all(bar.y + bar.height <= HEIGHT and bar.x + bar.width <= WIDTH for bar in chart.bars)
        assert "nan" not in chart.description
        assert "inf" not in chart.description


def test_a_bar_is_as_high_as_its_value() -> None:
    chart = draw_bars("Arrivals", ["10:00", "10:01", "10:02"], [5, 0, 10], unit="requests")

    small, large = chart.bars
    assert large.height == 2 * small.height
    assert [tick.label for tick in chart.y_ticks] == ["0", "5", "10"]
    assert [tick.label for tick in chart.x_ticks] == ["10:00", "10:01", "10:02"]
    assert chart.description == "at most 10 requests, at 10:02; last 10 requests."


def test_without_values_a_chart_is_empty() -> None:
    for values in ([], [None], [math.nan, math.inf, -1.0], [0.0]):
        labels = ["10:00"] * len(values)
        assert draw_bars("Arrivals", labels, values, unit="requests").is_empty
    empty = draw_lines("Times", [], {"p50": []}, unit="ms")
    assert (empty.is_empty, empty.description, empty.x_ticks) == (True, "p50: none.", [])


def test_one_value_is_a_dot_and_a_missing_one_is_a_gap() -> None:
    [line] = draw_lines("Times", ["10:00"], {"p50": [3]}, unit="ms").lines
    assert re.fullmatch(r"M[\d.]+ [\d.]+h0", line.path)

    [line] = draw_lines("Times", list("abcd"), {"p50": [3, None, 4, 5]}, unit="ms").lines
    assert re.sub(r"[\d. ]+", "", line.path) == "MhMhL"


def test_huge_and_small_numbers_are_short() -> None:
    numbers = (0, 0.25, 12, 1000, 2500, 12_500_000, 10**18)
    assert [format_short(number) for number in numbers] == ["0", "0.25", "12", "1k", "2.5k", "12.5M", "1e+18"]
