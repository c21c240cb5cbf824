"""Draws docs/performance.md's plots: `python -m benchmarks.plots FOLDER` (needs the extra `bench`).

FOLDER holds what the benchmarks wrote with --json: accept.json, end_to_end.json and growth.json. Each becomes
an SVG file beside it.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.results import load_results

_OURS, _OTHERS = "#1f6feb", "#b8bfc6"
_Rows = Sequence[Mapping[str, Any]]


def _accept(rows: _Rows) -> None:
    """Answers a second, as a share of the bare view's: a panel for each size of body."""
    sizes = sorted({row["records"] for row in rows})
    _, panels = plt.subplots(1, len(sizes), figsize=(4 * len(sizes), 3.2), sharey=True, layout="constrained")
    for panel, size in zip(panels, sizes, strict=True):
        most = max(row["connections"] for row in rows)
        shown = [row for row in rows if (row["records"], row["connections"]) == (size, most)]
        _bars(panel, {row["contender"]: row["of_bare"] * 100 for row in shown}, ours=("PostgreSQL", "SQLite"))
        panel.set_title(f"{size} records, {most} connections", fontsize=10)
        panel.set_xlabel("answers/s, % of bare Flask")


def _end_to_end(rows: _Rows) -> None:
    """Records a second into PostgreSQL."""
    _, panel = plt.subplots(figsize=(7, 3.2), layout="constrained")
    names = dict.fromkeys(row["contender"] for row in rows)
    rates = {name: median(row["records_per_s"] for row in rows if row["contender"] == name) for name in names}
    _bars(panel, rates, ours=("receiver", "its workers"))
    panel.set_xlabel("records/s")


def _growth(rows: _Rows) -> None:
    """What an operation costs the server, against how many deliveries the inbox holds."""
    situations = list(dict.fromkeys(row["situation"] for row in rows if "situation" in row))
    _, panels = plt.subplots(
        1, len(situations), figsize=(4.2 * len(situations), 3.6), sharey=True, layout="constrained"
    )
    for panel, situation in zip(panels, situations, strict=True):
        own = [row for row in rows if row.get("situation") == situation and row["operation"] != "count"]
        for operation in dict.fromkeys(row["operation"] for row in own):
            line = sorted((row["size"], row["elapsed_us"]) for row in own if row["operation"] == operation)
            panel.plot(*zip(*line, strict=True), marker=".", label=operation)
        panel.set(xscale="log", yscale="log", xlabel="deliveries in the inbox", title=situation)
    panels[0].set_ylabel("µs a delivery")
    panels[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _bars(panel: Axes, values: Mapping[str, float], *, ours: Sequence[str]) -> None:
    names = list(values)[::-1]
    colors = [_OURS if name in ours else _OTHERS for name in names]
    drawn = panel.barh(names, [values[name] for name in names], color=colors)
    panel.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=8)
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw what there is figures for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    # The same figures give the same file.
    # As many colours as there are lines.
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=plt.get_cmap("tab20").colors)
    plt.rcParams.update({"svg.hashsalt": "rapidbridge", "svg.fonttype": "none", "font.size": 9})
    for draw in (_accept, _end_to_end, _growth):
        name = draw.__name__.strip("_")
        source = folder / f"{name}.json"
        if source.exists():
            draw(load_results(source))
            plt.savefig(source.with_suffix(".svg"), metadata={"Date": None})
            plt.close("all")
            print(source.with_suffix(".svg"))


if __name__ == "__main__":
    main()
