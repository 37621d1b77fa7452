"""Makes tables from the CSV files of the benchmarks. Knows no kernel."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kernels.kept.earlier import earlier_rows, mark
from kernels.kept.figures import (
    EQUAL,
    MODEL_COLUMNS,
    RIVALS,
    Group,
    Row,
    copy_share,
    grouped,
    slowest,
    speeds,
)
from kernels.kept.records import read_csv
from kernels.readme.reasons import reason, reason_of_change

TIMED = ("eager", "torch.compile", "liger", "ours")
MEMORY = ("eager", "liger", "ours")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def bench_table(rows: Sequence[Row]) -> str:
    """Microseconds of all, our share of the best possible, memory, error, our speed and why."""
    header = [*MODEL_COLUMNS, *TIMED, "of copy or GEMM", "MB, eager / Liger / ours", "max error"]
    header += ["over the best rival", "why not 1x"]
    lines = [
        [*key, *_bench_cells(key, group)]
        for key, group in grouped(rows).items()
        if "eager" in group or "torch.compile" in group
    ]
    return table(header, lines)


def _bench_cells(key: tuple[str, ...], group: Group) -> list[str]:
    ours = group.get("ours", {})
    speed = slowest(group)
    return [
        *(_time(group, name) for name in TIMED),
        _share(group),
        " / ".join(_number(group.get(name, {}).get("peak_mb")) for name in MEMORY),
        f"{float(ours['max_rel_error']):.1e}" if ours.get("max_rel_error") else "",
        f"{speed:.2f}x" if speeds(group) else "",
        reason(key, group) if speed < EQUAL else "",
    ]


def _share(group: Group) -> str:
    limit = group.get("ours", {}).get("share_of", "")
    share = copy_share(group) if limit == "copy" else group.get("ours", {}).get("share")
    return f"{float(share):.0%} {limit}" if share else ""


def losses_table(rows: Sequence[Row]) -> str:
    """What rivals do faster, the lengths and models of an operation in one line, and why."""
    found: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for key, group in grouped(rows).items():
        for rival, speed in speeds(group).items():
            if speed < EQUAL:
                line = (key[0], key[1], rival, reason(key, group))
                found.setdefault(line, []).append((speed, f"{key[2]}: {key[3]}"))
    lines = [
        [op, mode, rival, _span([speed for speed, _ in lost]), _places(lost), why]
        for (op, mode, rival, why), lost in found.items()
    ]
    return table(["op", "mode", "faster rival", "our speed", "at tokens", "why"], lines)


def _places(lost: Sequence[tuple[float, str]]) -> str:
    return "; ".join(dict.fromkeys(place for _, place in lost))


def _span(found: Sequence[float]) -> str:
    low, high = f"{min(found):.2f}", f"{max(found):.2f}"
    return f"{low}x" if low == high else f"{low} to {high}x"


def won(rows: Sequence[Row]) -> str:
    """How many rows we do not lose, against each rival."""
    parts = []
    for rival in RIVALS:
        found = [speeds(group)[rival] for group in grouped(rows).values() if rival in speeds(group)]
        if found:
            good = sum(speed >= EQUAL for speed in found)
            parts.append(f"{good} of {len(found)} rows against {rival}")
    return ", ".join(parts)


def _number(text: str | None) -> str:
    """Three digits that count."""
    if not text:
        return "-"
    value = float(text)
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _time(group: Group, provider: str) -> str:
    return _number(group.get(provider, {}).get("median_us")) + mark(group, provider)


def earlier_table(rows: Sequence[Row]) -> str:
    """What was timed by code or settings that were changed since, and what was changed."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in earlier_rows(rows):
        line = (row["op"], row["provider"], row["commit"], reason_of_change(row))
        found.setdefault(line, []).append(f"{row['model']}: {row['tokens']}")
    lines = [
        [op, provider, "; ".join(places), commit, why]
        for (op, provider, commit, why), places in found.items()
    ]
    return table(["op", "provider", "at tokens", "timed at", "changed since"], lines)


def gemm_table(rows: Sequence[Row]) -> str:
    """Microseconds of products in eight and four bits beside bf16."""
    names = ("bf16", "torch int8", "ours int8", "torch fp8", "torch fp8 coarse", "ours fp8", "ours")
    lines = [
        [key[0], *key[2:], *(_time(group, name) for name in names)]
        for key, group in grouped(rows).items()
        if "bf16" in group
    ]
    return table(["product", "model", "rows", *names[:-1], "ours 4 bits"], lines)


def special_table(rows: Sequence[Row]) -> str:
    """Comparisons with another way to the same end."""
    lines = []
    for key, group in grouped(rows).items():
        if key[1].startswith("against") and "bf16" not in group:
            slowest = max(
                (float(row["median_us"]) for row in group.values() if row["median_us"]), default=0
            )
            for name, row in group.items():
                if row["median_us"]:
                    times = f"{slowest / float(row['median_us']):.1f}x"
                    lines.append(
                        [*key, name, _time(group, name), row["method"], times, row["note"]]
                    )
    return table([*MODEL_COLUMNS, "provider", "us", "timed by", "speed", "note"], lines)


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
