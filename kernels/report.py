"""Makes tables and plots from the CSV files of the benchmarks. Knows no kernel."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kernels.records import read_csv

Row = dict[str, str]
MODEL_COLUMNS = ("op", "mode", "model", "tokens")
PROVIDERS = ("eager", "torch.compile", "liger", "liger chunked")
NOT_MEASURED = "not measured"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[tuple[str, ...], dict[str, Row]]:
    """Rows by provider, for each value of `columns`; of repeated runs the last."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in columns), {})[row["provider"]] = row
    return groups


def bench_table(rows: Sequence[Row]) -> str:
    """Microseconds of all, our share of the measured best, memory, error, our speed."""
    header = ["operation", "mode", "model", "tokens", *PROVIDERS[:3], "ours", "of copy or GEMM"]
    header += ["MB, eager / Liger / ours", "max error", "over the best rival"]
    lines = [
        [*key, *_bench_cells(group)]
        for key, group in grouped(rows, MODEL_COLUMNS).items()
        if "eager" in group or "torch.compile" in group
    ]
    return table(header, lines)


def _bench_cells(group: dict[str, Row]) -> list[str]:
    ours = group.get("ours", {})
    share = f"{float(ours['share']):.0%} {ours['share_of']}" if ours.get("share") else ""
    memory = " / ".join(_number(group.get(name, {}).get("peak_mb")) for name in MEMORY)
    return [
        *(_number(group.get(name, {}).get("median_us")) for name in PROVIDERS[:3]),
        _number(ours.get("median_us")),
        share,
        memory,
        f"{float(ours['max_rel_error']):.1e}" if ours.get("max_rel_error") else "",
        _ratio(group),
    ]


MEMORY = ("eager", "liger", "ours")


def _ratio(group: dict[str, Row]) -> str:
    """How many times as fast as the fastest rival we are."""
    rivals = [
        float(row["median_us"])
        for name, row in group.items()
        if name in PROVIDERS and row["median_us"]
    ]
    ours = group.get("ours", {}).get("median_us")
    return f"{min(rivals) / float(ours):.2f}x" if rivals and ours else ""


def _number(text: str | None) -> str:
    """Three digits that count."""
    if not text:
        return "-"
    value = float(text)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def gemm_table(rows: Sequence[Row]) -> str:
    """Microseconds of products in eight and four bits beside bf16."""
    names = ("bf16", "torch int8", "ours int8", "torch fp8", "torch fp8 coarse", "ours fp8", "ours")
    lines = [
        [key[0], *key[2:], *(_number(group.get(name, {}).get("median_us")) for name in names)]
        for key, group in grouped(rows, MODEL_COLUMNS).items()
        if "bf16" in group
    ]
    return table(["product", "model", "rows", *names[:-1], "ours 4 bits"], lines)


def special_table(rows: Sequence[Row]) -> str:
    """Comparisons with another way to the same end."""
    lines = []
    for key, group in grouped(rows, MODEL_COLUMNS).items():
        if key[1].startswith("against") and "bf16" not in group:
            slowest = max(
                (float(row["median_us"]) for row in group.values() if row["median_us"]), default=0
            )
            for name, row in group.items():
                if row["median_us"]:
                    times = f"{slowest / float(row['median_us']):.1f}x"
                    lines.append([*key, name, _number(row["median_us"]), row["method"], times])
    return table([*MODEL_COLUMNS, "provider", "us", "timed by", "speed"], lines)


def train_table(rows: Sequence[Row]) -> str:
    """Tokens a second and memory of whole training steps, against plain transformers."""
    lines = []
    for key, group in grouped(rows, ("model", "batch", "length")).items():
        plain = group.get("eager", {})
        for name, row in group.items():
            lines.append(
                [
                    *key,
                    name,
                    row["tokens_per_s"] or row["note"],
                    _change(row["tokens_per_s"], plain.get("tokens_per_s")),
                    row["peak_gb"],
                    _change(row["peak_gb"], plain.get("peak_gb")),
                ]
            )
    header = ["model", "batch", "length", "provider", "tokens/s", "change", "peak GB", "change"]
    return table(header, lines)


def _change(value: str, base: str | None) -> str:
    return f"{float(value) / float(base) - 1:+.0%}" if value and base and float(base) else ""


def selfcheck_table(path: Path) -> str:
    """Operation by backend and dtype: the error, or what went wrong."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lines = [
        [
            row["op"],
            row["backend"],
            row["dtype"],
            "" if row["max_error"] is None else f"{row['max_error']:.1e}",
            f"{row['bound']:.0e}",
            "ok" if row["ok"] else f"FAILED {row['problem']}",
        ]
        for row in rows
    ]
    return table(["operation", "backend", "dtype", "max error", "bound", ""], lines)


def main() -> None:
    """Prints the tables of the files that are there."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--selfcheck", type=Path)
    options = parser.parse_args()
    makers: list[tuple[Path | None, Callable[[Sequence[Row]], str]]] = [
        (options.bench, bench_table),
        (options.bench, special_table),
        (options.train, train_table),
    ]
    if options.selfcheck and options.selfcheck.exists():
        print(selfcheck_table(options.selfcheck), end="\n\n")
    for path, maker in makers:
        if path and path.exists():
            print(maker(read_csv(path)), end="\n\n")


if __name__ == "__main__":
    main()
