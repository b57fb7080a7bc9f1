"""Draw bar charts: read JSON from stdin, write SVG and PNG files to the folder in argv[1]."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
# Make the output reproducible.
mpl.rcParams["svg.hashsalt"] = "headrace"
mpl.rcParams["font.size"] = 10

from matplotlib.figure import Figure  # noqa: E402 - the backend must be chosen first

OURS, THEIRS = "#0b6e99", "#b8c4cc"


def draw(chart: dict[str, Any], folder: Path) -> None:
    """Write one chart."""
    bars = chart["bars"]
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.barh(
        [textwrap.fill(bar["label"], 36) for bar in bars],
        [bar["value"] for bar in bars],
        color=[OURS if bar["ours"] else THEIRS for bar in bars],
    )
    axes.bar_label(drawn, [label(bar["value"]) for bar in bars], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_title(chart["title"], loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.savefig(folder / f"{chart['name']}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{chart['name']}.png", dpi=110, metadata={"Software": None})


def label(value: float) -> str:
    """Return the figure as the text beside its bar."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    for one in json.load(sys.stdin):
        draw(one, Path(sys.argv[1]))
