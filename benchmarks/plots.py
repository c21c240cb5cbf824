"""Plots of docs/performance.md: `python -m benchmarks.plots FOLDER` (needs the extra `bench`).

FOLDER holds files that the benchmarks wrote with --json: accept.json, end_to_end.json and growth.json. An SVG
file is written beside each.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.results import load_results

_OWN_COLOR, _OTHER_COLOR = "#1f6feb", "#b8bfc6"
_Rows = Sequence[Mapping[str, Any]]


def _draw_accept(rows: _Rows) -> None:
    """Draw answers a second as a share of the bare view's, one panel for each body size."""
    sizes = sorted({row["records"] for row in rows})
    _, panels = plt.subplots(1, len(sizes), figsize=(4 * len(sizes), 3.2), sharey=True, layout="constrained")
    for panel, size in zip(panels, sizes, strict=True):
        connections = max(row["connections"] for row in rows)
        shown = [row for row in rows if (row["records"], row["connections"]) == (size, connections)]
        _draw_bars(
            panel, {row["contender"]: row["of_bare"] * 100 for row in shown}, own=("PostgreSQL", "SQLite")
        )
        panel.set_title(f"{size} records, {connections} connections", fontsize=10)
        panel.set_xlabel("answers/s, % of bare Flask")


def _draw_end_to_end(rows: _Rows) -> None:
    """Draw records a second into PostgreSQL."""
    _, panel = plt.subplots(figsize=(7, 3.2), layout="constrained")
    names = dict.fromkeys(row["contender"] for row in rows)
    rates = {name: median(row["records_per_s"] for row in rows if row["contender"] == name) for name in names}
    _draw_bars(panel, rates, own=("receiver", "its workers"))
    panel.set_xlabel("records/s")


def _draw_growth(rows: _Rows) -> None:
    """Draw the cost of each operation against the number of deliveries in the inbox."""
    situations = list(dict.fromkeys(row["situation"] for row in rows if "situation" in row))
    _, panels = plt.subplots(
        1, len(situations), figsize=(4.2 * len(situations), 3.6), sharey=True, layout="constrained"
    )
    for panel, situation in zip(panels, situations, strict=True):
        shown = [row for row in rows if row.get("situation") == situation and row["operation"] != "count"]
        for operation in dict.fromkeys(row["operation"] for row in shown):
            line = sorted((row["size"], row["elapsed_us"]) for row in shown if row["operation"] == operation)
            panel.plot(*zip(*line, strict=True), marker=".", label=operation)
        panel.set(xscale="log", yscale="log", xlabel="deliveries in the inbox", title=situation)
    panels[0].set_ylabel("µs a delivery")
    panels[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_bars(panel: Axes, values: Mapping[str, float], *, own: Sequence[str]) -> None:
    names = list(values)[::-1]
    colors = [_OWN_COLOR if name in own else _OTHER_COLOR for name in names]
    drawn = panel.barh(names, [values[name] for name in names], color=colors)
    panel.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=8)
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the plots of all result files in the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the result files")
    folder = parser.parse_args().folder
    # Enough colours for every line.
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=plt.get_cmap("tab20").colors)
    # A fixed salt: the same results give the same file.
    plt.rcParams.update({"svg.hashsalt": "rapidbridge", "svg.fonttype": "none", "font.size": 9})
    for name, draw in (("accept", _draw_accept), ("end_to_end", _draw_end_to_end), ("growth", _draw_growth)):
        source = folder / f"{name}.json"
        if source.exists():
            draw(load_results(source))
            plt.savefig(source.with_suffix(".svg"), metadata={"Date": None})
            plt.close("all")
            print(source.with_suffix(".svg"))


if __name__ == "__main__":
    main()
