"""Tables for a terminal: as wide as what stands in them, numbers to the right."""

from collections.abc import Iterator, Sequence

import click

Cell = str | int | None


def format_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, indent: int = 0) -> Iterator[str]:
    """Yield a table, line by line. None is shown as "?"."""
    texts = [[_format_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    to_right = [any(isinstance(row[place], int) for row in rows) for place in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        placed = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, to_right, strict=True)
        ]
        return " " * indent + "  ".join(placed).rstrip()

    yield click.style(line(headers), dim=True)
    yield from map(line, texts)


def _format_cell(cell: Cell) -> str:
    if cell is None:
        return "?"
    return f"{cell:,}" if isinstance(cell, int) else cell
