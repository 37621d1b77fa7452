"""Tables of what a CPU was asked, from its kept rows. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kernels.bench.cpu_rows import (
    AGAINST_FP32,
    AGAINST_OTHERS,
    IN_EACH_DTYPE,
    LENGTH,
    MODEL,
    PREFIXES,
    attention_row,
)
from kernels.kept.figures import Group, Groups, Row, grouped, over, value
from kernels.kept.records import read_csv
from kernels.readme.report import table

# Rivals of attention, and how many times as fast it should be at the usual prefix.
RIVALS = {"separate sequences": 3.0, "a copied prefix": None, "a dense mask": 2.0}
USUAL = 512
PRODUCTS = {"bf16": 2.0, "int8 dynamic": 2.5}  # what each should be times fp32
NOT_MEASURED = "not measured"
SEPARATE = next(iter(RIVALS))


def cpu_part(folder: Path, gpu: Groups, gpu_name: str) -> str:
    """All of them, with the conditions; `gpu` are a GPU's rows, for its break-even."""
    rows = read_csv(folder / "rows.csv")
    if not rows:
        return NOT_MEASURED
    groups = grouped(rows)
    return "\n\n".join(
        (
            conditions(rows),
            "### In each dtype",
            dtypes_table(groups),
            "### Products of a prefill",
            products_told(groups),
            products_table(groups),
            "### Attention of items that share a prefix",
            attention_told(groups),
            attention_table(groups, gpu, gpu_name),
        )
    )


def conditions(rows: Sequence[Row]) -> str:
    """Where and with what the rows were taken."""
    runs = {row["commit"]: row for row in rows}
    told = [
        f"{row['gpu'].removeprefix('none: ')}, torch {row['torch']}, commit {commit}: a copy moved "
        f"{row['copy_gb_per_s']} GB/s, a bf16 product ran at {row['gemm_tflop_per_s']} TFLOP/s."
        for commit, row in runs.items()
    ]
    return " ".join((*told, "Milliseconds, medians of calls in turns."))


def dtypes_table(groups: Groups) -> str:
    """Each operation's forward pass."""
    lines = [
        [f"`{op}`", model, tokens, _ms(group, "fp32"), _ms(group, "bf16"), _times(group, "bf16")]
        for (op, mode, model, tokens), group in groups.items()
        if mode == IN_EACH_DTYPE
    ]
    return table(["operation", "model", "tokens", "fp32", "bf16", "bf16 over fp32"], lines)


def products_table(groups: Groups) -> str:
    """Of linear layers."""
    lines = [
        [
            op.removeprefix("linear "),
            tokens,
            *(_ms(group, name) for name in ("fp32", *PRODUCTS)),
            *(_times(group, name) for name in PRODUCTS),
        ]
        for (op, mode, _, tokens), group in groups.items()
        if mode == AGAINST_FP32
    ]
    header = ["layer", "rows", "fp32", *PRODUCTS, *(f"{name} over fp32" for name in PRODUCTS)]
    return table(header, lines)


def products_told(groups: Groups) -> str:
    """How many products are as much faster than fp32 as was asked."""
    products = [group for (_, mode, *_), group in groups.items() if mode == AGAINST_FP32]
    parts = []
    for name, asked in PRODUCTS.items():
        gains = [over(value(group, "fp32"), value(group, name)) or 0.0 for group in products]
        good = sum(gain >= asked for gain in gains)
        parts.append(f"{name} {asked:g}x fp32 at {good} of {len(gains)}")
    return f"{'; '.join(parts)}."


def attention_table(groups: Groups, gpu: Groups, gpu_name: str) -> str:
    """How many times as fast as each rival, by the prefix's length over an item's."""
    lines = []
    for prefix in PREFIXES:
        group = _named(groups, attention_row(prefix), AGAINST_OTHERS)
        device = _named(gpu, f"paged_attention P={prefix} N=32 L={LENGTH}", f"against {SEPARATE}")
        lines.append(
            [
                f"{prefix / LENGTH:g}",
                str(prefix),
                _ms(group, "ours"),
                *(_speed(group, rival) for rival in RIVALS),
                _speed(device, SEPARATE),
            ]
        )
    header = ["P / L", "P", "ours", *(f"over {rival}" for rival in RIVALS)]
    return table([*header, f"{gpu_name}: over {SEPARATE}"], lines)


def attention_told(groups: Groups) -> str:
    """How much faster than each rival at the usual prefix, what was asked, and from where on."""
    parts = []
    for rival, asked in RIVALS.items():
        gains = _gains(groups, rival)
        wanted = f" (asked: {asked:g}x)" if asked else ""
        usual = f"{gains[USUAL]:.2f}x" if USUAL in gains else NOT_MEASURED
        parts.append(f"over {rival} {usual}{wanted}, {_break_even(gains)}")
    return f"At P = {USUAL}: {'; '.join(parts)}."


def _gains(groups: Groups, rival: str) -> dict[int, float]:
    """By the prefix's length, where both were timed."""
    found = {prefix: _named(groups, attention_row(prefix), AGAINST_OTHERS) for prefix in PREFIXES}
    gains = {p: over(value(group, rival), value(group, "ours")) for p, group in found.items()}
    return {prefix: gain for prefix, gain in gains.items() if gain is not None}


def _break_even(gains: Mapping[int, float]) -> str:
    """From which length of the prefix on no longer one is slower."""
    slower = max((prefix for prefix, gain in gains.items() if gain < 1), default=0)
    faster = [prefix for prefix in gains if prefix > slower]
    return f"faster from P / L = {min(faster) / LENGTH:g} on" if faster else "never faster"


def _named(groups: Groups, op: str, mode: str) -> Group:
    return next((found for key, found in groups.items() if key[:3] == (op, mode, MODEL.name)), {})


def _ms(group: Group, provider: str) -> str:
    found = value(group, provider)
    return f"{found / 1e3:.3g}" if found else "-"


def _times(group: Group, provider: str) -> str:
    gain = over(value(group, "fp32"), value(group, provider))
    return f"{gain:.2f}x" if gain else "-"


def _speed(group: Group, rival: str) -> str:
    gain = over(value(group, rival), value(group, "ours"))
    return f"{gain:.2f}x" if gain else NOT_MEASURED
