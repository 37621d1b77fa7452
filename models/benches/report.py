"""Draws the kept CSV as a table of Markdown and as plots. Knows no engine and measures nothing.

`python -m models.benches.report` rewrites README.md and the plots in models/results/ from its CSV.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.benches.goals import HEADS, goal_lines
from models.benches.rows import read_csv

RESULTS = Path("models/results")
TITLES = {
    "A": "27 M parameters, 205 tokens of context, 64 candidates of 24",
    "B": "Qwen3-0.6B's size, 205 tokens of context, 64 candidates of 24",
    "C": "the demo ranker of the commit named, on the slates of its test data",
    "D": "376 M parameters, 50 tokens of context, 50 candidates of 150",
    "L": "Qwen3-0.6B's size, 12,000 tokens of context, 50 candidates of 150",
}
INTRODUCTION = """# The scorer on a CPU, measured

Written by `python -m models.benches.report` from `cpu.csv` and `cpu_checks.csv`, which hold every
figure and its conditions. Providers take turns on the same fresh candidates; medians, in brackets
the 20th and 80th percentile. *Of the limit*: the linear-layer operations that a slate cannot do
without, over the rate of one 4096^3 product of that type in the same rounds. *Memory*: the most
above what was resident after loading. `fairslate` is the native decoder, `fairslate-torch` the same
model operation by operation and `fairslate-compiled` that under `torch.compile`. Rankings of the
demo's test data are compared with transformers in fp32: every eighth slate by all providers, and
all of them by `fairslate` and transformers.
"""
AIMS = """Context warm, ratios of medians in one run. *Limit*: the items a second at which a slate's
linear layers alone would run at the rate of one square product of our type; an aim beyond it asks
for more than the machine multiplies.
"""
RATE_HEADS = ("provider", "type", "warm, items/s", "cold, items/s", "of the limit", "memory, MB")
LIKE_HEADS = ("largest dp", "Kendall tau", "NDCG@10", "NDCG@1")
LIKE_FIELDS = ("max_abs_dp", "kendall_tau", "ndcg_10", "ndcg_1")
ALL_FIELDS = ("kendall_tau_all", "ndcg_10_all", "ndcg_1_all")
CHECK_HEADS = ("shape", "provider", "type", "check", "value", "bound", "kept")
Line = dict[str, str]


def main() -> None:
    """See the module's first lines."""
    rows, found = read_csv(RESULTS / "cpu.csv"), read_csv(RESULTS / "cpu_checks.csv")
    (RESULTS / "README.md").write_text(report(rows, found), encoding="utf-8")
    for shape in _shapes(rows):
        plot(rows, shape, RESULTS / f"cpu_{shape}.png")


def report(rows: Sequence[Line], found: Sequence[Line]) -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for shape in _shapes(rows):
        own = [row for row in rows if row["shape"] == shape]
        parts.append(f"## {shape}: {TITLES.get(shape, 'random weights')}\n")
        parts.append(f"{_conditions(own[0])}\n")
        parts.append(table(own))
        if whole := [row for row in own if row["ndcg_10_all"] and row["cache"] == "warm"]:
            parts.append("Over all slates of the test data:\n")
            lines = [[row[k] for k in ("provider", "dtype", *ALL_FIELDS)] for row in whole]
            parts.append(_markdown((*RATE_HEADS[:2], *LIKE_HEADS[1:]), lines))
        parts.append(f"![items per second](cpu_{shape}.png)\n")
    if aims := list(goal_lines(rows)):
        parts += [f"## Beside what was aimed at\n\n{AIMS}", _markdown(HEADS, aims)]
    if found:
        lines = [
            [row[k] for k in ("shape", "provider", "dtype", "check", "value", "bound")]
            for row in found
        ]
        kept = ["yes" if row["ok"] == "True" else "no" for row in found]
        parts.append("## What the engine promises\n")
        parts.append(_markdown(CHECK_HEADS, [[*a, b] for a, b in zip(lines, kept, strict=True)]))
    return "\n".join(parts)


def table(rows: Sequence[Line]) -> str:
    """One line a provider and type, the fastest first; who could not run comes last."""
    warm = {(row["provider"], row["dtype"]): row for row in rows if row["cache"] == "warm"}
    cold = {(row["provider"], row["dtype"]): row for row in rows if row["cache"] == "cold"}
    graded = any(row["ndcg_10"] for row in rows)
    ranked = sorted(warm.values(), key=lambda row: -float(row["items_per_s"] or 0))
    lines = []
    for row in ranked:
        other = cold.get((row["provider"], row["dtype"]))
        cells = [
            row["provider"],
            row["dtype"],
            _rate(row),
            _rate(other) if other else "not measured",
        ]
        cells += [row["gemm_fraction"], _memory(row, other or row)]
        lines.append(cells + [row[name] for name in LIKE_FIELDS] * graded)
    return _markdown((*RATE_HEADS, *LIKE_HEADS * graded), lines)


def plot(rows: Sequence[Line], shape: str, path: Path) -> None:
    """Bars of warm and cold items a second, whiskers from the 20th to the 80th percentile."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    own = [row for row in rows if row["shape"] == shape and row["items_per_s"]]
    names = list(dict.fromkeys(f"{row['provider']} {row['dtype']}" for row in own))
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(names) + 1.2), layout="constrained")
    for offset, cache, colour in ((-0.2, "warm", "#c05020"), (0.2, "cold", "#4070a0")):
        lines = {f"{row['provider']} {row['dtype']}": row for row in own if row["cache"] == cache}
        for place, name in enumerate(names):
            if name in lines:
                low, middle, high = (
                    float(lines[name][key]) for key in ("items_p20", "items_per_s", "items_p80")
                )
                label = cache if place == 0 else None
                whiskers = [[max(0, middle - low)], [max(0, high - middle)]]
                axes.barh(place + offset, middle, 0.38, xerr=whiskers, color=colour, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("candidates a second")
    axes.set_title(f"{shape}: {TITLES.get(shape, 'random weights')}", fontsize=9)
    axes.legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _shapes(rows: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(row["shape"] for row in rows))


def _conditions(row: Line) -> str:
    return (
        f"{row['cores']} cores of {row['cpu']}, torch {row['torch']}, commit {row['commit']}, "
        f"{row['date']}."
    )


def _rate(row: Line) -> str:
    if not row["items_per_s"]:
        return row["note"] or "not measured"
    return f"{_short(row['items_per_s'])} ({_short(row['items_p20'])}-{_short(row['items_p80'])})"


def _short(number: str) -> str:
    value = float(number)
    return f"{value:,.0f}" if value >= 20 else f"{value:.2g}"


def _memory(*rows: Line) -> str:
    peaks = [float(row["peak_mb"]) for row in rows if row["peak_mb"]]
    return f"{max(peaks):,.0f}" if peaks else ""


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    return row(heads) + row(["---"] * len(heads)) + "".join(map(row, lines))


if __name__ == "__main__":
    main()
