"""One HTML page that tells how a model came about, stage by stage, with plots. Measures nothing.

A model directory that a pipeline made holds it all: its card has quality and lineage, and the
hidden file beside it what was measured on the machine that made it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from compress.recipes.plots import Axis, bars, lines, points
from compress.recipes.records import MEASURED_NAME, Record, read_records
from compress.stages.whole_files import write_text
from models.card import ModelCard, read_card

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em;
  color: #1f2937 }
h1, h2 { font-weight: 600 } h2 { margin-top: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 3px 10px; border-bottom: 1px solid #e5e7eb; text-align: right }
th:first-child, td:first-child { text-align: left }
pre { background: #f9fafb; padding: 1em; overflow-x: auto; font-size: 12px }
.plots { display: flex; flex-wrap: wrap; gap: 1em }
code { font-size: 13px }
"""
BEGINNING = "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
QUALITY = ("gauc", "ndcg@10", "mrr", "auc", "ece", "logloss")
TENANT = ("gauc", "ndcg@10", "ece", "logloss")
LOSS_POINTS = 200  # of a curve


def write_report(directory: Path, out: Path) -> None:
    """Raises ModelDirectoryError for a directory that is damaged or holds no card."""
    card = read_card(directory)
    measured = directory / MEASURED_NAME
    records = read_records(measured) if measured.exists() else []
    write_text(out, render(card, records))


def is_page(path: Path) -> bool:
    """Whether a page of ours lies there, as far as its beginning tells."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING.encode()


def render(card: ModelCard, records: Sequence[Record]) -> str:
    """The whole page; what is not known is left out."""
    parts = [
        f"<h1>{escape(card.name)} {escape(card.version)}</h1>",
        f"<p>Model <code>{card.digest}</code>.</p>",
        *_stages(records),
        *_test(card),
        *_calibration(card, records),
        *_layers(card),
        *_tenants(card),
        *_losses(records),
        *_lineage(card),
    ]
    head = f"<title>{escape(card.name)}</title><style>{STYLE}</style>"
    return f"{BEGINNING}{head}</head><body>{''.join(parts)}</body></html>"


def _stages(records: Sequence[Record]) -> Iterable[str]:
    if not records:
        return
    yield "<h2>Quality, size and speed of every stage</h2>"
    yield (
        "<p>Quality on the selecting half of <code>valid</code>; speed on the machine that ran the "
        "stages: slates of fresh contexts and candidates, one at a time.</p>"
    )
    head = ("stage", "parameters", "MB", *QUALITY, "items/s", "ms a slate", "made in s")
    yield _table(head, [_row(record) for record in records])
    yield from _trade_offs([record for record in records if record.speed])


def _trade_offs(rankers: Sequence[Record]) -> Iterable[str]:
    """Quality against size, and against the time of a slate."""
    if not rankers:
        return
    named = [(ranker.name, ranker.metrics["ndcg@10"]) for ranker in rankers]
    quality = Axis.around("NDCG@10", [value for _, value in named])
    yield "<div class='plots'>"
    for label, costs in (
        ("size, MB", [ranker.size / 1e6 for ranker in rankers]),
        ("one slate, ms", [ranker.speed.slate_ms for ranker in rankers if ranker.speed]),
    ):
        dots = [(name, (cost, value)) for (name, value), cost in zip(named, costs, strict=True)]
        yield points(Axis.around(label, costs, log=True), quality, dots)
    yield "</div>"


def _row(record: Record) -> list[str]:
    return [
        record.name,
        f"{record.parameters:,}",
        f"{record.size / 1e6:.1f}",
        *(_number(record.metrics.get(name)) for name in QUALITY),
        f"{record.speed.items_per_s:,.0f}" if record.speed else "",
        f"{record.speed.slate_ms:.1f}" if record.speed else "",
        f"{record.seconds:,.0f}",
    ]


def _test(card: ModelCard) -> Iterable[str]:
    report = card.metrics.get("test", {})
    rows = [
        [name, *(_number(report[name][bound]) for bound in ("value", "low", "high"))]
        for name in report
        if isinstance(report[name], dict) and "low" in report[name]
    ]
    if rows:
        counts = f"{report['requests']:,} requests, {report['pairs']:,} pairs"
        yield "<h2>Shipped model on <code>test</code></h2>"
        yield f"<p>{counts}; 95 % intervals by group.</p>"
        yield _table(("metric", "value", "low", "high"), rows)


def _calibration(card: ModelCard, records: Sequence[Record]) -> Iterable[str]:
    curve = card.metrics.get("test", {}).get("calibration_curve")
    curve = curve or (records[-1].curve if records else None)
    if not curve:
        return
    found = [(float(score), float(share)) for score, share, _ in curve]
    x, y = Axis("mean score of a bin", 0, 1), Axis("share of positives", 0, 1)
    yield "<h2>Calibration</h2><p>Fifteen bins of equal size.</p>"
    yield lines(x, y, [("perfect", [(0.0, 0.0), (1.0, 1.0)]), ("shipped", found)])


def _layers(card: ModelCard) -> Iterable[str]:
    for stage, said in card.metrics.items():
        layers = said.get("layers") or said.get("errors") if isinstance(said, Mapping) else None
        if isinstance(layers, Mapping) and layers:
            yield f"<h2>Error that <code>{escape(stage)}</code> left in every layer</h2>"
            yield bars("relative output error", [(name, float(e)) for name, e in layers.items()])


def _tenants(card: ModelCard) -> Iterable[str]:
    for dimension, slices in card.metrics.get("test", {}).get("slices", {}).items():
        yield f"<h2>By {escape(dimension.replace('_', ' '))}, on <code>test</code></h2>"
        rows = [
            [name, f"{part['requests']:,}", *(_number(part.get(metric)) for metric in TENANT)]
            for name, part in slices.items()
        ]
        yield _table((dimension.replace("_", " "), "requests", *TENANT), rows)


def _losses(records: Sequence[Record]) -> Iterable[str]:
    trained = [record for record in records if len(record.losses) > 1]
    if not trained:
        return
    yield "<h2>Training losses</h2><div class='plots'>"
    for record in trained:
        path = _smoothed(record.losses)
        x = Axis("step", 0, len(record.losses))
        yield lines(x, Axis.around("loss", [loss for _, loss in path]), [(record.name, path)])
    yield "</div>"


def _smoothed(losses: Sequence[float]) -> list[tuple[float, float]]:
    """Means of as many runs of steps as the plot has room for."""
    size = -(-len(losses) // LOSS_POINTS)
    parts = [(start, losses[start : start + size]) for start in range(0, len(losses), size)]
    return [(start + len(part) / 2, sum(part) / len(part)) for start, part in parts]


def _lineage(card: ModelCard) -> Iterable[str]:
    yield "<h2>Lineage</h2>"
    for entry in card.lineage.get("stages", []):
        text = escape(json.dumps(entry, indent=1))
        name = escape(str(entry.get("stage", "?")))
        yield f"<details><summary>{name}</summary><pre>{text}</pre></details>"
    files = escape(json.dumps(dict(card.files), indent=1))
    yield f"<details><summary>files</summary><pre>{files}</pre></details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4f}"
