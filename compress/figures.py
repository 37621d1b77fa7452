"""Writes README.md's tables of compression from what is kept. Knows nothing of how it was measured.

`python -m compress.figures` reads, of compress/results, the methods' rows (bench.jsonl, as
`compress.bench` printed them), the training runs that are kept, what `compress.evaluate` said of
the ranker of films (movielens.json), and the records of the shipped ranker's stages (demo.json,
which its pipeline left beside it); the table of stored candidates is of what
`compress.benches.bench_items` kept.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from compress.benches.kept_runs import KeptRun, read_runs
from compress.benches.rows import Row
from compress.recipes.records import Record, read_records

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "compress" / "results"
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- compression: start -->\n).*(?=<!-- compression: end -->)", re.DOTALL)
STORED = ROOT / "models" / "results" / "stored_candidates.csv"
STORED_BLOCK = re.compile(r"(?<=<!-- stored: start -->\n).*(?=<!-- stored: end -->)", re.DOTALL)
STORED_MODELS = {
    "C": "demo ranker on O*NET `test`, {tokens:.0f} tokens a text",
    "A": "random 27 M model, {tokens:.0f} tokens a text",
}
MEANINGS = {
    "osscar_optimal_of_100": "OSSCAR, 12 groups to 6: problems of 100 solved as by exhaustion",
    "osscar_p95_ratio": "OSSCAR, the same: 95th percentile of error over the optimum's",
    "downdate_rel_error": "inverse after 100 downdates, beside a fresh one",
    "prune_block_s": "half of a 1,024 x 3,072 MLP block pruned, seconds",
    "quantease_vs_gptq": "QuantEase's 4-bit layer error over GPTQ's",
    "quantease_layer_s": "QuantEase on a 1,024 x 3,072 layer in 4 bits, seconds",
    "quantize_27m_s": "a model of 27 M in W8A8 (smoothing, QuantEase), seconds",
    "kd_peak_ratio": "chunked distillation at 151,936 words: peak memory over plain",
    "kd_time_ratio": "chunked distillation at 151,936 words: time over plain",
}
TRAINED = {
    "kd_minus_sft_auc": "distilled less supervised at equal steps",
    "recovered_share": "share of what pruning 37.5 % of the MLP lost that distillation recovers",
    "allocated_recovered_share": "share of the same loss that is recovered when as many neurons "
    "went where scores need them least",
    "gradual_minus_oneshot": "gradual less one-shot pruning at equal tokens",
}
FILMS_UAUC = 0.627  # the best line of the data's own README
Interval = Mapping[str, float]  # value, low, high


def table(
    rows: Sequence[Row],
    runs: Sequence[KeptRun],
    records: Sequence[Record],
    films: Interval | None = None,
) -> str:
    """Markdown; films: the UAUC of movielens_small's `test`."""
    found = [*_cells(rows, runs), *_film_cells(films)]
    cells = [f"| {what} | {value} | {target} |" for what, value, target in found]
    if cells:
        cells = ["| what | value | target |", "| --- | --- | --- |", *cells, ""]
    return "\n".join([*cells, *_walk(records)]) + "\n"


def _cells(rows: Sequence[Row], runs: Sequence[KeptRun]) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        if row.name in MEANINGS:
            missed = "" if row.met else ", missed"
            yield MEANINGS[row.name], f"{row.value:.3g}", f"{row.target:g}{missed}"
    for run in runs:
        missed = "" if run.met else ", missed"
        interval = f"{run.metric}, difference {run.low:+.4f} to {run.high:+.4f}"
        yield TRAINED[run.figure], f"{run.value:.4f} ({interval})", f"{run.target:g}{missed}"


def _film_cells(films: Interval | None) -> Iterator[tuple[str, str, str]]:
    if films:
        missed = "" if films["value"] > FILMS_UAUC else ", missed"
        value = f"{films['value']:.4f} ({films['low']:.4f} to {films['high']:.4f})"
        yield "UAUC on `test` of movielens_small", value, f"above {FILMS_UAUC}{missed}"


def _walk(records: Sequence[Record]) -> Iterator[str]:
    """The shipped ranker, stage by stage."""
    if not records:
        return
    yield "| stage of the shipped ranker | parameters | MB | gAUC | NDCG@10 | ECE | items/s |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for record in records:
        quality = " | ".join(f"{record.metrics[name]:.4f}" for name in ("gauc", "ndcg@10", "ece"))
        speed = f"{record.speed.items_per_s:,.0f}" if record.speed else ""
        size = f"{record.parameters:,} | {record.size / 1e6:.1f}"
        yield f"| {record.name} | {size} | {quality} | {speed} |"


def stored_table(path: Path = STORED) -> str:
    """Markdown: candidates as text beside the same ones as vectors, in int8."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dtype"] == "int8"]
    found = {(row["shape"], row["candidates"]): row for row in rows}
    lines = [
        "| int8, one core, context warm | text, items/s | stored, items/s "
        "| text, NDCG@10 and gAUC | stored, NDCG@10 and gAUC |",
        "| --- | --- | --- | --- | --- |",
    ]
    for shape, name in STORED_MODELS.items():
        pair = [found[shape, kind] for kind in ("text", "stored")]
        cells = [name.format(tokens=float(pair[0]["tokens"]))]
        cells += [f"{float(row['items_per_s']):,.0f}" for row in pair]
        lines.append(f"| {' | '.join([*cells, *map(_quality, pair)])} |")
    return "\n".join(lines) + "\n"


def _quality(row: Mapping[str, str]) -> str:
    if not row["ndcg_10"]:
        return "-"
    value, low, high, gauc = (
        float(row[name]) for name in ("ndcg_10", "ndcg_10_low", "ndcg_10_high", "gauc")
    )
    return f"{value:.3f} ({low:.3f} to {high:.3f}), {gauc:.3f}"


def kept_rows(path: Path = RESULTS / "bench.jsonl") -> list[Row]:
    """What the bench printed; nothing before it was kept."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def kept_records(path: Path = RESULTS / "demo.json") -> list[Record]:
    """Of the shipped ranker's stages."""
    return read_records(path) if path.exists() else []


def kept_films(path: Path = RESULTS / "movielens.json") -> Interval | None:
    """UAUC as `compress.evaluate` gave it."""
    if not path.exists():
        return None
    found: Interval = json.loads(path.read_text(encoding="utf-8"))["uauc"]
    return found


def main() -> None:
    """The command line."""
    text = table(kept_rows(), read_runs(), kept_records(), kept_films())
    readme = README.read_text(encoding="utf-8")
    readme = STORED_BLOCK.sub(lambda _: stored_table(), BLOCK.sub(lambda _: text, readme))
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
