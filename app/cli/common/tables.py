"""Tables for a terminal: columns as wide as their content, numbers aligned right."""

from collections.abc import Iterator, Sequence

import click

Cell = str | int | None


def format_table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, indent: int = 0, gap: int = 2
) -> Iterator[str]:
    """Yield the lines of a table, the headers first. None is shown as "?"."""
    texts = [[_format_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    is_numeric = [any(isinstance(row[index], int) for row in rows) for index in range(len(headers))]

    def format_line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(cells, widths, is_numeric, strict=True)
        ]
        return " " * indent + (" " * gap).join(padded).rstrip()

    yield click.style(format_line(headers), dim=True)
    yield from map(format_line, texts)


def _format_cell(cell: Cell) -> str:
    if cell is None:
        return "?"
    return f"{cell:,}" if isinstance(cell, int) else cell
