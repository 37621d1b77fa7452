"""Writes the generated parts of README.md and a page for each device that was measured.

They come from the table of operations and the kept figures; a test compares. Measures nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.bench.rows import planned_rows
from kernels.catalogue.table import OPERATIONS
from kernels.kept.earlier import DIGEST, earlier_rows
from kernels.kept.figures import MODEL_COLUMNS, Row, grouped
from kernels.kept.records import read_csv
from kernels.readme.cpu_tables import cpu_part
from kernels.readme.goals import Figures, goals_table
from kernels.readme.report import (
    bench_table,
    earlier_table,
    gemm_table,
    losses_table,
    special_table,
    table,
    train_table,
    won,
)
from kernels.readme.usage import LIBRARY_ONLY, public_functions, users

FOLDER = Path(__file__).parents[1]
README = FOLDER / "README.md"
RESULTS = FOLDER / "results"
TESTS = FOLDER.parent / "tests" / "kernels"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHARES = (
    "Microseconds, medians. Of a copy: of as many bytes, timed in turns with the row (where the "
    "file has none, at the rate of 1 GiB); of a GEMM: of the product's rate. \N{DAGGER}: of code "
    "or settings changed since, as the README of the kernels lists."
)
PRODUCTS = (
    "`torch int8` is the bare product without scales, `coarse` keeps sums in the tensor cores' "
    "short format. `gemm_choice` takes whichever of bf16, the vendor's and ours was measured to be "
    "fastest at a shape."
)
NOT_DISPATCHED = (
    "`quantized_linear` is the dispatcher: it takes the fastest product for each layer and number "
    "of rows by `gemm_choice`. The scorer does not use it yet: it takes one arithmetic for all "
    "layers, in eight bits by timing one of them at its start; rows are quantized where they are "
    "made."
)
STEPS = (
    "Plain transformers with SDPA, the same with each layer and the loss compiled, Liger and ours, "
    "one after the other in one run; random weights and tokens, AdamW. The losses agree afterwards "
    "to bf16's precision (`loss` in the file)."
)


def measured_folders() -> list[Path]:
    """One for each device that a benchmark ran on."""
    return [path.parent for path in sorted(RESULTS.glob("*/bench.csv"))]


def figures_of(folder: Path) -> Figures:
    """What is kept of one device."""
    scorer = folder / "scorer.jsonl"
    files = (read_csv(folder / "bench.csv"), read_csv(folder / "train.csv"))
    return Figures(*files, _json_lines(scorer) if scorer.exists() else [])


def operations() -> str:
    """Operation, file, what uses it, test, what trains and how to time it."""
    lines, used = [], users()
    for name in dict.fromkeys(operation.name for operation in OPERATIONS):
        operation = next(entry for entry in OPERATIONS if entry.name == name)
        module = operation.module_name or name
        test = next(iter(sorted(TESTS.glob(f"test_{module}*.py"))), None)
        lines.append(
            [
                f"`{name}`",
                f"[{module}.py]({module}.py)",
                _used_by(used, f"kernels.{module}", name),
                f"[{test.name}](../tests/kernels/{test.name})" if test else "",
                ", ".join(operation.trained) or "inference only",
                f"`python -m kernels.bench --ops {name}`",
            ]
        )
    return table(["operation", "file", "used by", "test", "gradients of", "benchmark"], lines)


def beside() -> str:
    """Public functions that are no rows of their own in the table, and what uses them."""
    known, used = {operation.name for operation in OPERATIONS}, users()
    lines = [
        [
            f"`{found.name}`",
            f"[{found.module.split('.')[1]}.py]({found.module.split('.')[1]}.py)",
            _used_by(used, found.module, found.name),
            found.told,
        ]
        for found in public_functions()
        if found.name not in known
    ]
    dispatched = _used_by(used, "kernels.quantized_linear", "quantized_linear")
    text = f"\n\n{NOT_DISPATCHED}" if dispatched == LIBRARY_ONLY else ""
    return table(["function", "file", "used by", "what it does"], lines) + text


def _used_by(used: Mapping[tuple[str, str], Sequence[str]], module: str, name: str) -> str:
    return ", ".join(used.get((module, name), ())) or LIBRARY_ONLY


def checked() -> str:
    """Each operation by dtype: error where it ran, device and Triton in the heading."""
    runs = {}
    for path in sorted(RESULTS.glob("*/selfcheck*.jsonl")):
        rows = _json_lines(path)
        triton_rows = [row for row in rows if row["backend"] == "triton"]
        runs[f"{rows[0]['device']}, Triton {rows[0]['triton']}"] = {
            (row["op"], row["dtype"]): _verdict(row) for row in triton_rows
        }
    keys = dict.fromkeys((op.label, str(dt).split(".")[1]) for op in OPERATIONS for dt in op.dtypes)
    lines = [
        [f"`{op}`", dtype, *(run.get((op, dtype), "not run") for run in runs.values())]
        for op, dtype in keys
    ]
    return table(["operation", "dtype", *runs], lines)


def _verdict(row: Mapping[str, Any]) -> str:
    return f"ok, {row['max_error']:.0e}" if row["ok"] else "**failed**"


def goals() -> str:
    """What was asked beside what was measured on each device."""
    return goals_table({_device(folder): figures_of(folder) for folder in measured_folders()})


def _device(folder: Path) -> str:
    return f"[{folder.name.upper()}](results/{folder.name}/README.md)"


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def devices() -> str:
    """A paragraph and two plots for each."""
    parts = []
    for folder in measured_folders():
        place, rows = f"results/{folder.name}", read_csv(folder / "bench.csv")
        parts.append(
            f"### {folder.name.upper()}\n\n{conditions(rows)} No slower than a rival: {won(rows)}. "
            f"[All rows]({place}/README.md).\n\n"
            f"![share of a copy or a product by operation]({place}/share.png)\n"
            f"![speed over torch.compile and Liger by operation]({place}/speed.png)\n"
        )
    return "\n".join(parts)


def conditions(rows: list[Row]) -> str:
    """The device and software of each run that rows were kept of."""
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault(tuple(row[name] for name in RUN), []).append(row)
    return " ".join(
        f"{gpu}, driver {driver}, torch {torch}, Triton {triton}{liger and ', Liger ' + liger}, "
        f"commit {commit}: "
        f"a copy of 1 GiB moved {_best(found, 'copy_gb_per_s')} GB/s, a bf16 product ran at "
        f"{_best(found, 'gemm_tflop_per_s')} TFLOP/s."
        for (gpu, driver, torch, triton, liger, commit), found in runs.items()
    )


RUN = ("gpu", "driver", "torch", "triton", "liger", "commit")


def _best(rows: list[Row], column: str) -> str:
    """The most that any of the runs of a commit reached."""
    return max((row[column] for row in rows if row[column]), key=float, default="an unknown number")


def training() -> str:
    """Whole training steps, by device."""
    parts = []
    for folder in measured_folders():
        rows = read_csv(folder / "train.csv")
        if rows:
            last = rows[-1]  # of several runs the table shows the last
            parts.append(f"{last['gpu']}, commit {last['commit']}:\n\n{train_table(rows)}")
    return "\n\n".join(parts)


def losses() -> str:
    """Rows that a rival wins, by device."""
    return "\n\n".join(
        f"{_device(folder)}:\n\n{losses_table(read_csv(folder / 'bench.csv'))}"
        for folder in measured_folders()
    )


def unmeasured() -> str:
    """Planned rows that no device's file holds: by operation the tokens, and how many models."""
    files = [read_csv(folder / "bench.csv") for folder in measured_folders()]
    known = {tuple(row[name] for name in MODEL_COLUMNS) for rows in files for row in rows}
    planned = planned_rows()
    missing: dict[str, list[str]] = {}
    for row in planned:
        if (row.name, row.mode, row.model_names, str(row.tokens)) not in known:
            missing.setdefault(row.name, []).append(f"{row.model_names}: {row.tokens}")
    count = sum(map(len, missing.values()))
    if not missing:
        return f"All {len(planned)} planned rows were measured."
    lines = [[f"`{name}`", "; ".join(dict.fromkeys(rows))] for name, rows in missing.items()]
    told = f"{len(planned) - count} of {len(planned)} planned rows were measured. Not these:"
    return f"{told}\n\n{table(['operation', 'models and tokens'], lines)}"


def earlier() -> str:
    """What was timed by other code or settings than these, by device; the rest is as timed."""
    parts = []
    for folder in measured_folders():
        rows = read_csv(folder / "bench.csv")
        ours = [row for group in grouped(rows).values() for row in group.values() if DIGEST in row]
        kept = sum(row["provider"].startswith("ours") for row in ours)
        left = len(earlier_rows(rows))
        rest = f" Not these:\n\n{earlier_table(rows)}" if left else ""
        told = f"{_device(folder)}: {kept - left} of {kept} figures of ours"
        parts.append(f"{told} are of what is launched now.{rest}")
    return "\n\n".join(parts)


def cpu() -> str:
    """What a CPU was asked, and how attention did on a GPU."""
    gpu = RESULTS / "h200"
    return cpu_part(RESULTS / "cpu", grouped(read_csv(gpu / "bench.csv")), gpu.name.upper())


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
        operations,
        beside,
        goals,
        devices,
        cpu,
        training,
        losses,
        earlier,
        unmeasured,
        checked,
    )
}


def generated(text: str) -> str:
    """`text` with each part made anew. Raises KeyError for a part nobody makes."""
    return PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


def page(folder: Path) -> str:
    """Everything one device's benchmarks left, all of it generated."""
    rows = read_csv(folder / "bench.csv")
    parts = [
        f"# Kernels on {folder.name.upper()}",
        "Generated by `python -m kernels.readme` from the files in this folder.",
        f"{conditions(rows)} {SHARES}",
        "![share](share.png)\n![speed](speed.png)",
        f"## Every row\n\n{bench_table(rows)}",
        f"## Against other ways to the same end\n\n{special_table(rows)}",
        f"## Products\n\n{PRODUCTS}\n\n{gemm_table(rows)}",
    ]
    steps = read_csv(folder / "train.csv")
    if steps:
        parts.append(f"## Training steps\n\n{STEPS}\n\n{train_table(steps)}")
    return "\n\n".join(parts) + "\n"
