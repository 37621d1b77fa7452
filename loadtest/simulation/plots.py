"""Draws a suite's PNG files: throughput against Jain's index, and service over time per tenant.

Knows no simulation; needs matplotlib, which only developers have.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.simulation.scenario import Outcome

DPI = 80
MOST_LINES = 8  # tenants drawn
MARKERS = "osD^vP*X"


def draw(suite: str, outcomes: Sequence[Outcome], directory: Path) -> list[Path]:
    """Writes `SUITE_*.png` into a directory and returns the paths."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {"throughput_jain": tradeoffs(outcomes), "service": services(outcomes)}
    paths = []
    for name, figure in figures.items():
        paths.append(directory / f"{suite}_{name}.png")
        figure.savefig(paths[-1], dpi=DPI, metadata={"Software": None})
    return paths


def tradeoffs(outcomes: Sequence[Outcome]) -> Figure:
    """One panel for each workload and number of workers: up is faster, right is fairer."""
    panels = [(key, list(group)) for key, group in groupby(outcomes, key=_panel)]
    figure, axes = _grid(len(panels))
    for axis, (key, group) in zip(axes, panels, strict=False):
        axis.set_title(key)
        for marker, outcome in zip(MARKERS * len(group), group, strict=False):
            row = outcome.row
            axis.plot(row["jain"], row["throughput"], marker, label=_label(outcome))
        axis.set(xlabel="Jain's index (client side)", ylabel="tokens/s", xlim=(0.2, 1.03))
        axis.set_ylim(0, 1.2 * max(outcome.row["throughput"] for outcome in group))
        axis.legend(fontsize="x-small")
    return figure


def services(outcomes: Sequence[Outcome]) -> Figure:
    """Each tenant's service over time, for the largest number of workers of each workload."""
    most = max(outcome.row["workers"] for outcome in outcomes)
    drawn = [outcome for outcome in outcomes if outcome.row["workers"] == most]
    figure, axes = _grid(len(drawn))
    for axis, outcome in zip(axes, drawn, strict=False):
        axis.set_title(f"{_panel(outcome)} {_label(outcome)}")
        seconds = [sample.at / 1e3 for sample in outcome.samples]
        for index in _largest(outcome):
            tokens = [sample.delivered[index] / 1e6 for sample in outcome.samples]
            axis.plot(seconds, tokens, label=outcome.names[index])
        axis.set(xlabel="s", ylabel="million tokens")
        axis.legend(fontsize="x-small")
    return figure


def _panel(outcome: Outcome) -> str:
    workers = outcome.row["workers"]
    return f"{outcome.row['workload']}" + (f", {workers} workers" if workers > 1 else "")


def _label(outcome: Outcome) -> str:
    quantum = outcome.row["quantum"]
    return f"{outcome.row['policy']}" + (f" Q={quantum}" if quantum else "")


def _largest(outcome: Outcome) -> list[int]:
    last = outcome.samples[-1].delivered
    return sorted(sorted(range(len(last)), key=lambda index: -last[index])[:MOST_LINES])


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    columns = min(4, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes: list[Axes] = list(grid.flat)
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure, axes
