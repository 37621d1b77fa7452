"""Draws what a device measured, a PNG or two beside each CSV. Knows no kernel.

`python -m kernels.readme.plots` needs matplotlib, which only developers have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kernels.kept.figures import Group, Groups, Row, copy_share, grouped, speeds
from kernels.kept.records import read_csv

RESULTS = Path(__file__).parents[1] / "results"
DPI = 80
COLOURS = {"torch.compile": "tab:blue", "liger": "tab:orange"}
LIMITS = {"copy": "tab:green", "gemm": "tab:purple"}
Points = dict[str, list[tuple[float, str]]]  # by operation: a number and its colour


def shares(groups: Groups) -> Points:
    """Our share of a copy of as many bytes, or of a bf16 product, whichever limits the row."""
    found: Points = {}
    for (op, mode, _, _), group in groups.items():
        limit = group.get("ours", {}).get("share_of", "")
        share = _share(group, limit)
        if share is not None and not mode.startswith("against"):
            found.setdefault(f"{op}, {mode}", []).append((share, LIMITS[limit]))
    return found


def _share(group: Group, limit: str) -> float | None:
    if limit == "copy":
        return copy_share(group)
    text = group.get("ours", {}).get("share")
    return float(text) if text else None


def gains(groups: Groups) -> Points:
    """How many times as fast as torch.compile and Liger we are."""
    found: Points = {}
    for (op, mode, _, _), group in groups.items():
        for rival, speed in speeds(group).items():
            if rival in COLOURS:
                found.setdefault(f"{op}, {mode}", []).append((speed, COLOURS[rival]))
    return found


def strips(points: Points, label: str, colours: Mapping[str, str], mark: float) -> Figure:
    """A line of points for each operation, one for each length and model."""
    figure = Figure(figsize=(9, 0.6 + 0.26 * max(len(points), 4)), layout="constrained")
    axis: Axes = figure.subplots()
    for height, found in enumerate(points.values()):
        values, drawn = zip(*found, strict=True)
        axis.scatter(values, [-height] * len(values), s=18, c=drawn, alpha=0.7, linewidths=0)
    axis.axvline(mark, color="gray", linewidth=1)
    axis.set_yticks([-height for height in range(len(points))], list(points), fontsize=8)
    axis.set_xlabel(label)
    axis.grid(axis="x", linewidth=0.3)
    for name, colour in colours.items():
        axis.scatter([], [], s=18, c=colour, label=name)
    axis.legend(fontsize=8)
    return figure


def share_figure(rows: Sequence[Row]) -> Figure:
    """How near each operation comes to what the device can do."""
    figure = strips(shares(grouped(rows)), "share of the best possible", LIMITS, 1.0)
    figure.axes[0].set_xlim(left=0)
    return figure


def gain_figure(rows: Sequence[Row]) -> Figure:
    """How much faster each operation is than its rivals."""
    figure = strips(gains(grouped(rows)), "times as fast", COLOURS, 1.0)
    figure.axes[0].set_xscale("log", base=2)
    figure.axes[0].xaxis.set_major_formatter("{x:g}")
    return figure


FIGURES: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "share.png": share_figure,
    "speed.png": gain_figure,
}


def draw(folder: Path) -> list[Path]:
    """Writes the figures of `folder`/bench.csv beside it and returns their paths."""
    rows = read_csv(folder / "bench.csv")
    paths = []
    for name, figure_of in FIGURES.items():
        paths.append(folder / name)
        figure_of(rows).savefig(paths[-1], dpi=DPI, metadata={"Software": None})
    return paths


if __name__ == "__main__":
    for file in sorted(RESULTS.glob("*/bench.csv")):
        draw(file.parent)
