"""Geometry of small charts, drawn as SVG on the server. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 22
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
_STEPS = (1, 2, 2.5, 5, 10)
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_LABELS = 4

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of an axis. position: in the drawing, along the axis."""

    position: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of the drawing."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line with gaps. path: the `d` of an SVG path; "" without values."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of WIDTH by HEIGHT. description: its content in words, for readers who do not see it."""

    title: str
    description: str
    y_ticks: Sequence[Tick]
    x_ticks: Sequence[Tick]
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is drawn."""
        return not self.bars and not any(line.path for line in self.lines)


def draw_bars(title: str, labels: Sequence[str], values: Values, *, unit: str) -> Chart:
    """Draw one bar for each value; a value that is no finite positive number gets none.

    labels: of the values, for the axis. unit: a plural, such as "requests".
    """
    numbers = [_clean(value) for value in values]
    top = _round_up(max((number for number in numbers if number), default=0.0))
    step = _PLOT_WIDTH / max(1, len(numbers))
    bars = [
        Bar(
            round(_LEFT + index * step, 1),
            round(_place_y(number, top), 1),
            round(max(0.5, step * 0.85), 1),
            round(_TOP + _PLOT_HEIGHT - _place_y(number, top), 1),
        )
        for index, number in enumerate(numbers)
        if number
    ]
    description = _describe(labels, {"": numbers}, unit)
    return Chart(title, description, _list_y_ticks(top), _list_x_ticks(labels), bars=bars)


def draw_lines(title: str, labels: Sequence[str], series: Mapping[str, Values], *, unit: str) -> Chart:
    """Draw one line for each series, with gaps for values that are no finite number of at least 0.

    labels: of the values, for the axis. unit: such as "ms".
    """
    numbers = {name: [_clean(value) for value in values] for name, values in series.items()}
    top = _round_up(
        max((number for values in numbers.values() for number in values if number is not None), default=0.0)
    )
    lines = [Line(name, _build_path(values, top)) for name, values in numbers.items()]
    description = _describe(labels, numbers, unit)
    return Chart(title, description, _list_y_ticks(top), _list_x_ticks(labels), lines=lines)


def format_short(number: float) -> str:
    """Return a number of at most four digits and a unit, such as "2.5k"."""
    if number >= 1e15:
        return f"{number:.0e}"
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.3g}"


def _clean(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def _round_up(largest: float) -> float:
    """Return the end of an axis: the next round number; 1 for an empty one."""
    if largest <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(largest))
    top = next((step * magnitude for step in _STEPS if step * magnitude >= largest), largest)
    return top if 0 < top < math.inf else largest


def _place_y(number: float, top: float) -> float:
    return _TOP + _PLOT_HEIGHT * (1 - number / top)


def _place_x(index: int, count: int) -> float:
    """Return the middle of a value's column."""
    return _LEFT + _PLOT_WIDTH * (index + 0.5) / count


def _build_path(values: Values, top: float) -> str:
    parts = []
    is_open = False
    for index, number in enumerate(values):
        if number is None:
            is_open = False
            continue
        x, y = round(_place_x(index, len(values)), 1), round(_place_y(number, top), 1)
        # A value without neighbours is a dot: a line without a length, with round ends.
        parts.append(f"L{x} {y}" if is_open else f"M{x} {y}h0")
        is_open = True
    return "".join(parts)


def _list_y_ticks(top: float) -> list[Tick]:
    return [Tick(round(_place_y(number, top), 1), format_short(number)) for number in (0.0, top / 2, top)]


def _list_x_ticks(labels: Sequence[str]) -> list[Tick]:
    if not labels:
        return []
    last = len(labels) - 1
    indexes = sorted({round(last * part / _LABELS) for part in range(_LABELS + 1)})
    return [Tick(round(_place_x(index, len(labels)), 1), labels[index]) for index in indexes]


def _describe(labels: Sequence[str], series: Mapping[str, Values], unit: str) -> str:
    parts = []
    for name, values in series.items():
        known = [(number, index) for index, number in enumerate(values) if number is not None]
        prefix = f"{name}: " if name else ""
        if not any(number for number, _ in known):
            parts.append(f"{prefix}none.")
            continue
        largest, place = max(known, key=lambda pair: pair[0])
        newest, _ = known[-1]
        parts.append(
            f"{prefix}at most {format_short(largest)} {unit}, at {labels[place]}; "
            f"last {format_short(newest)} {unit}."
        )
    return " ".join(parts)
