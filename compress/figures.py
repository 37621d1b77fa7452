"""Writes README.md's table of compression from what is kept: python -m compress.figures

Reads the methods' rows (compress/results/bench.jsonl, as `compress.bench` printed them), the kept
training runs and the card of the shipped ranker. Measures nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.bench import Row
from compress.kept_runs import KeptRun, read_runs
from models.card import ModelCard, read_card

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "compress" / "results"
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- compression: start -->\n).*(?=<!-- compression: end -->)", re.DOTALL)
MEANINGS = {
    "osscar_optimal_of_100": "OSSCAR, 12 groups to 6: problems of 100 solved as by exhaustion",
    "osscar_p95_ratio": "OSSCAR, the same: 95th percentile of error over the optimum's",
    "downdate_rel_error": "inverse after 100 downdates, beside a fresh one",
    "prune_block_s": "half of a 1,024 x 3,072 MLP block pruned, seconds",
    "quantease_vs_gptq": "QuantEase's 4-bit layer error over GPTQ's",
    "quantease_layer_s": "QuantEase on a 1,024 x 3,072 layer in 4 bits, seconds",
    "kd_peak_ratio": "chunked distillation at 151,936 words: peak memory over plain",
    "kd_time_ratio": "chunked distillation at 151,936 words: time over plain",
}
TRAINED = {
    "kd_minus_sft_auc": "distilled less supervised at equal steps",
    "recovered_share": "share of what pruning 37.5 % of the MLP lost that distillation recovers",
    "gradual_minus_oneshot": "gradual less one-shot pruning at equal tokens",
}


def table(rows: list[Row], runs: list[KeptRun], card: ModelCard) -> str:
    """Markdown."""
    lines = ["| what | value | target |", "| --- | --- | --- |"]
    lines += [f"| {what} | {value} | {target} |" for what, value, target in _cells(rows, runs)]
    return "\n".join([*lines, "", *_walk(card)]) + "\n"


def _cells(rows: list[Row], runs: list[KeptRun]) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        if row.name in MEANINGS:
            missed = "" if row.met else ", missed"
            yield MEANINGS[row.name], f"{row.value:.3g}", f"{row.target:g}{missed}"
    for run in runs:
        missed = "" if run.met else ", missed"
        interval = f"{run.metric}, difference {run.low:+.4f} to {run.high:+.4f}"
        yield TRAINED[run.figure], f"{run.value:.4f} ({interval})", f"{run.target:g}{missed}"


def _walk(card: ModelCard) -> Iterator[str]:
    """The shipped ranker, stage by stage, where its card tells."""
    stages = {
        name: said
        for name, said in card.metrics.items()
        if isinstance(said, Mapping) and "valid" in said
    }
    if not stages:
        return
    yield "| stage of the shipped ranker | parameters | gAUC, valid | NDCG@10, valid |"
    yield "| --- | --- | --- | --- |"
    for name, said in stages.items():
        valid: Mapping[str, Any] = said["valid"]
        numbers = f"{valid['gauc']:.4f} | {valid['ndcg@10']:.4f}"
        yield f"| {name} | {said['parameters']:,} | {numbers} |"


def kept_rows(path: Path = RESULTS / "bench.jsonl") -> list[Row]:
    """What the bench printed; nothing before it was kept."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """The command line."""
    text = table(kept_rows(), read_runs(), read_card(ROOT / "models" / "demo", verify=False))
    readme = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda _: text, readme), encoding="utf-8")


if __name__ == "__main__":
    main()
