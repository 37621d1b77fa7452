"""Rows of the README's table about the scorer on a CPU, from the CSV that keeps its benchmark."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

CPU_SCORER = Path(__file__).parent.parent / "models" / "results" / "cpu.csv"
SLATES = {
    "A": "64 candidates of 24 tokens at 27 M",
    "B": "the same at Qwen3-0.6B",
    "D": "50 candidates of 150 tokens at 376 M",
    "L": "50 candidates of 150 tokens behind 12,000 at Qwen3-0.6B",
}
PEERS = (
    ("ONNX Runtime with our shared-context graphs in int8", "ort-shared", "int8"),
    ("vLLM bf16", "vllm", "bf16"),
    ("transformers with a shared prefix bf16", "hf-shared", "bf16"),
)
VLLM_AIMS = {"A": 5, "B": 4}  # times vLLM's candidates a second
Row = tuple[str, str, str]
Kept = dict[str, str]
Warm = Mapping[tuple[str, str, str], Kept]


def cpu_scorer_rows() -> list[Row]:
    """The scorer beside its peers; the whole table is in models/results."""
    with CPU_SCORER.open(encoding="utf-8") as lines:
        kept = [row for row in csv.DictReader(lines) if row["cache"] == "warm"]
    warm = {(row["shape"], row["provider"], row["dtype"]): row for row in kept}
    slates = {shape: what for shape, what in SLATES.items() if (shape, "fairslate", "int8") in warm}
    return [
        *(_slate_row(shape, what, warm) for shape, what in slates.items()),
        *(_aim_row(shape, SLATES[shape], aim, warm) for shape, aim in VLLM_AIMS.items()),
    ]


def _slate_row(shape: str, what: str, warm: Warm) -> Row:
    """In int8 and bf16, and how far the peers' best settings come."""
    int8, bf16 = (warm[shape, "fairslate", dtype] for dtype in ("int8", "bf16"))
    shares = [f"{100 * float(row['gemm_fraction']):.0f}" for row in (int8, bf16)]
    where = f"{int8['cores']} cores of {int8['cpu']}, context warm"
    beside = ", ".join(_beside(shape, warm))
    peers = f"; in the same run {beside}" if beside else ""
    return (
        f"scorer, {what}, candidates per second in int8 / bf16",
        f"{_rate(int8)} / {_rate(bf16)}",
        f"{where}, {' and '.join(shares)} % of a product's rate{peers} "
        "([all rows](models/results/README.md))",
    )


def _beside(shape: str, warm: Warm) -> Iterator[str]:
    for name, provider, dtype in PEERS:
        row = warm.get((shape, provider, dtype))
        if row is not None and row["items_per_s"]:
            yield f"{name} {_rate(row)}"


def _aim_row(shape: str, what: str, aim: float, warm: Warm) -> Row:
    """The ratio to vLLM, and what the aim would take of what the machine multiplies."""
    ours, peer = warm[shape, "fairslate", "int8"], warm[shape, "vllm", "bf16"]
    rate, other = (float(row["items_per_s"]) for row in (ours, peer))
    limit = rate / float(ours["gemm_fraction"])
    return (
        f"scorer, {what}, int8 beside vLLM in its best setting",
        f"{rate / other:.2f}x",
        f"{aim:g}x was the aim: {_short(aim * other)} candidates per second, where "
        f"{_short(limit)} have their linear layers done at the rate of one int8 product",
    )


def _rate(row: Kept) -> str:
    return _short(float(row["items_per_s"]))


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"
