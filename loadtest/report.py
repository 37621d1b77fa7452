"""Writes the README's table of figures from the JSON files that hold them. Measures nothing itself.

    python -m loadtest.report            rewrites README.md between its two markers
    python -m loadtest.report --check    exits with 1 when the table is not what the files say

Sources: `loadtest/results/` (fresh.json of `loadtest.fresh`, locust.json of `locust --kept`,
fairness.json of `loadtest.fairness`, lone_tenant.json of `service.bench`, reasons.json of
`service.reason_bench`, gate.json of
`service.gate.bench`, gate_day.json of `tests.service.gate.day`, gate_failover.json of
`tests.service.gate.failover`, gate_outage.json of `loadtest.outage`, simulate_*.json of
`loadtest.simulate`), `models/results/cpu.csv` of `models.bench`,
`kernels/results/h200/scorer.jsonl` of `models.gpu_bench`, and the metrics in
`models/demo/model_card.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from loadtest.gated import day_rows, failover_rows, gate_rows, lone_rows, outage_rows
from loadtest.percentiles import percentile
from loadtest.scored import cpu_scorer_rows
from loadtest.simulated import (
    attribution_rows,
    deadline_rows,
    fig1_rows,
    fig7_rows,
    fig10_rows,
    overload_rows,
)

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "loadtest" / "results"
SCORER = ROOT / "kernels" / "results" / "h200" / "scorer.jsonl"
CARD = ROOT / "models" / "demo" / "model_card.json"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
Row = tuple[str, str, str]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    stands = README.read_text(encoding="utf-8")
    wanted = with_table(stands, table(rows()))
    if options.check:
        print("README.md is up to date" if stands == wanted else "run: python -m loadtest.report")
        return int(stands != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


def with_table(text: str, figures: str) -> str:
    """`text` with what stands between the markers replaced. Raises ValueError without them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{figures}{END}{after}"


def table(figures: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| what | figure | conditions |", "| --- | --- | --- |"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in figures]) + "\n"


def rows() -> list[Row]:
    """All figures, in the order of the README."""
    return [
        *quality_rows(read(CARD)),
        *fresh_rows(),
        *load_rows(rows_of(read(RESULTS / "locust.json"))),
        *fairness_rows(read(RESULTS / "fairness.json")),
        *lone_rows(read(RESULTS / "lone_tenant.json")),
        *reason_rows(read(RESULTS / "reasons.json")),
        *gate_rows(read(RESULTS / "gate.json")),
        *day_rows(rows_of(read(RESULTS / "gate_day.json"))),
        *failover_rows(rows_of(read(RESULTS / "gate_failover.json"))),
        *outage_rows(rows_of(read(RESULTS / "gate_outage.json"))),
        *cpu_scorer_rows(),
        *scorer_rows(read_lines(SCORER)),
        *fig1_rows(read(RESULTS / "simulate_fig1.json")),
        *fig7_rows(read(RESULTS / "simulate_fig7.json")),
        *fig10_rows(read(RESULTS / "simulate_fig10.json")),
        *attribution_rows(read(RESULTS / "simulate_attribution.json")),
        *overload_rows(read(RESULTS / "simulate_overload.json")),
        *deadline_rows(read(RESULTS / "simulate_ranking.json")),
    ]


def read(path: Path) -> Any:
    """Parsed JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    """Parsed JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_of(kept: Any) -> list[dict[str, Any]]:
    """The rows of a file that states its commit, or is a list of an earlier day."""
    rows: list[dict[str, Any]] = kept if isinstance(kept, list) else kept["rows"]
    return rows


def quality_rows(card: dict[str, Any]) -> list[Row]:
    """The shipped ranker on `test`, with intervals over occupations."""
    test = card["metrics"]["test"]
    where = f"O*NET `test`: {test['requests']} requests, {test['groups']} occupations, in fp32"
    names = {"gauc": "gAUC", "auc": "AUC", "ndcg@10": "NDCG@10", "ece": "ECE"}
    return [(f"demo ranker, {names[name]}", interval(test[name]), where) for name in names]


def interval(metric: dict[str, float]) -> str:
    """Value and 95 % bootstrap interval."""
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def fresh_rows() -> list[Row]:
    """What a newcomer waits for."""
    fresh = read(RESULTS / "fresh.json")
    where = f"{fresh['cores']} cores, clone of {fresh['commit']}, new HOME, empty pip cache"
    return [
        ("first `make serve` to its first answer", f"{fresh['first_serve_s']:.0f} s", where),
        ("second `make serve` to its first answer", f"{fresh['second_serve_s']:.1f} s", where),
        ("`make test`", f"{fresh['test_s']:.0f} s", f"{where}, installation not counted"),
    ]


def load_rows(kept: list[dict[str, Any]]) -> list[Row]:
    """One Locust run against `make serve` on the same machine."""
    (stats,) = kept
    seconds = stats["last_request_timestamp"] - stats["start_time"]
    slates = stats["num_requests"] / seconds
    where = "`make serve` and Locust share 2 cores; 8 users, sessions of 24 real postings"
    return [
        ("slates per second", f"{slates:.1f} ({24 * slates:.0f} candidates)", where),
        ("latency p50 / p95", f"{latency_ms(stats, 0.5)} / {latency_ms(stats, 0.95)} ms", where),
        ("failures", f"{stats['num_failures']} of {stats['num_requests']}", where),
    ]


def latency_ms(stats: dict[str, Any], share: float) -> int:
    """A percentile, from Locust's histogram of rounded response times."""
    histogram = {float(time): count for time, count in stats["response_times"].items()}
    return int(percentile([*Counter(histogram).elements()], share))


def fairness_rows(fairness: dict[str, Any]) -> list[Row]:
    """What a quiet tenant notices of an aggressor, and how exactly weights are met."""
    (capacity,) = (row for row in fairness["rows"] if row["experiment"] == "capacity")
    quiet = {
        (row["beside"], row["policy"]): row
        for row in fairness["rows"]
        if row["experiment"] == "quiet"
    }
    weights = [row for row in fairness["rows"] if row["experiment"] == "weights"]
    alone = quiet.pop(("", "dlpm"))
    rate = f"Poisson slates of 24 at 20 % of {capacity['slates_per_s']:.1f} slates/s"
    return [
        ("quiet tenant alone, p50 / p99", latencies(alone), f"{rate}, {alone['slates']} slates"),
        *(beside_row(alone, row) for row in quiet.values()),
        weights_row(weights),
    ]


def beside_row(alone: dict[str, Any], row: dict[str, Any]) -> Row:
    """One aggressor under one policy."""
    who = {"bulk": "of class batch, itself interactive", "equal": "of equal weight"}[row["beside"]]
    ratio = f"{row['p99_ms'] / alone['p99_ms']:.2f}x alone"
    return (
        f"beside an aggressor {who}, `{row['policy']}`",
        f"{latencies(row)} ({ratio})",
        f"it sends at 10 times its share; {row['errors']} of the quiet tenant's slates in error",
    )


def latencies(row: dict[str, Any]) -> str:
    """Median and p99."""
    return f"{row['p50_ms']:.0f} / {row['p99_ms']:.0f} ms"


def weights_row(rows: list[dict[str, Any]]) -> Row:
    """The largest deviation from a share that the weights promise."""
    worst = max(abs(row["of_its_share"] - 1) for row in rows)
    names = ":".join(str(row["weight"]) for row in rows)
    where = f"charged tokens over {rows[0]['seconds']:.0f} s of overload"
    return (f"weights {names}, worst deviation of a share", f"{100 * worst:.1f} %", where)


def reason_rows(kept: dict[str, Any]) -> list[Row]:
    """What a reason takes, and what its tokens are charged."""
    tokens = f"{kept['extend_tokens']:.0f} tokens read and {kept['output_tokens']:.0f} written"
    where = f"one core, one at a time, contexts held, {tokens}"
    fair = f"a second of either costs alike at {kept['fair_output_weight']:.0f}"
    charge = ("charge of a token of a reason, in ranking tokens", str(kept["output_weight"]), fair)
    return [("reasons per second", f"{kept['reasons_per_s']:.0f}", where), charge]


def scorer_rows(rounds: list[dict[str, Any]]) -> list[Row]:
    """The scorer on a GPU, bf16, warm contexts and fresh candidates."""
    warm = {(row["shape"], row["provider"]): row for row in rounds if row.get("cache") == "warm"}
    few, many = warm["16", "fairslate"], warm["D", "fairslate"]
    peer = warm["16", "hf-shared"]
    where = f"{few['gpu']}, bf16, context warm, without the service"
    return [
        (
            "scorer, 16 candidates at Qwen3-0.6B, p50 / p95",
            f"{few['p50_ms']:.1f} / {few['p95_ms']:.1f} ms",
            f"{where}; transformers with a shared prefix {peer['p50_ms']:.0f} ms",
        ),
        (
            "scorer, 50 candidates of 150 tokens at 376 M, candidates per second / p99",
            f"{many['items_per_s']:,.0f} / {many['p99_ms']:.1f} ms",
            f"{where}; {100 * many['gemm_fraction']:.0f} % of a bf16 product's rate",
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
