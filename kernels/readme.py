"""Writes the generated parts of README.md from the table of operations and the kept figures.

`python -m kernels.readme` rewrites them in place; a test compares. Measures nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernels.goals import goals_table, losses_table
from kernels.records import read_csv
from kernels.report import bench_table, gemm_table, special_table, table, train_table
from kernels.table import OPERATIONS

FOLDER = Path(__file__).parent
README = FOLDER / "README.md"
RESULTS = FOLDER / "results" / "h200"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HOST = "timed by events, so the host's launches count: its bytes take a tenth of that"
UNKNOWN = "not known yet"
WITH_GRADIENT = "the gradient is computed with the loss, wanted or not"
MEMORY = "kept for its memory, see MB"
WHY = {
    "cross_entropy in place, forward+backward": MEMORY,
    "linear_cross_entropy, forward+backward": MEMORY,
    "add_rms_norm, forward+backward": HOST,
    "ranking_loss listnet, forward": WITH_GRADIENT,
    "ranking_loss ranknet, forward": WITH_GRADIENT,
}


def operations() -> str:
    """Operation, file, test, what trains and how it was checked on both devices."""
    lines = []
    for name in dict.fromkeys(operation.name for operation in OPERATIONS):
        operation = next(entry for entry in OPERATIONS if entry.name == name)
        module = operation.module_name or name
        test = next(iter(sorted(TESTS.glob(f"test_{module}*.py"))), None)
        lines.append(
            [
                f"`{name}`",
                f"[{module}.py]({module}.py)",
                f"[{test.name}](../tests/kernels/{test.name})" if test else "",
                ", ".join(operation.trained) or "inference only",
                f"`python -m kernels.bench --ops {name}`",
            ]
        )
    return table(["operation", "file", "test", "gradients of", "benchmark"], lines)


TESTS = FOLDER.parent / "tests" / "kernels"


def checked() -> str:
    """Each operation by dtype: error over bound where it ran, device and Triton in the heading."""
    runs = {}
    for path in sorted(FOLDER.glob("results/*/selfcheck.jsonl")):
        rows = _json_lines(path)
        triton_rows = [row for row in rows if row["backend"] == "triton"]
        runs[f"{rows[0]['device']}, Triton {rows[0]['triton']}"] = {
            (row["op"], row["dtype"]): _verdict(row) for row in triton_rows
        }
    keys = list(dict.fromkeys(key for run in runs.values() for key in run))
    lines = [
        [f"`{op}`", dtype, *(run.get((op, dtype), "not run") for run in runs.values())]
        for op, dtype in keys
    ]
    return table(["operation", "dtype", *runs], lines)


def _verdict(row: dict[str, object]) -> str:
    return f"ok, {row['max_error']:.0e}" if row["ok"] else "**failed**"


def goals() -> str:
    """What was asked beside what was measured."""
    files = (read_csv(RESULTS / "bench.csv"), read_csv(RESULTS / "train.csv"))
    return goals_table(*files, _json_lines(RESULTS / "scorer.jsonl"))


def _json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def measured() -> str:
    """Every row, with the machine it was measured on."""
    rows = read_csv(RESULTS / "bench.csv")
    if not rows:
        return "not measured"
    first = rows[0]
    where = (
        f"{first['gpu']}, driver {first['driver']}, torch {first['torch']}, Triton "
        f"{first['triton']}, Liger {first['liger']}, commit {first['commit']}; in the same run a "
        f"copy moved {first['copy_gb_per_s']} GB/s and a bf16 product ran at "
        f"{first['gemm_tflop_per_s']} TFLOP/s. Microseconds, medians."
    )
    return f"{where}\n\n{bench_table(rows)}"


def special() -> str:
    """Comparisons with another way to the same end."""
    return special_table(read_csv(RESULTS / "bench.csv"))


def products() -> str:
    """Products in eight and four bits."""
    return gemm_table(read_csv(RESULTS / "bench.csv"))


def training() -> str:
    """Whole training steps."""
    return train_table(read_csv(RESULTS / "train.csv"))


def losses() -> str:
    """Rows that a rival wins."""
    return losses_table(read_csv(RESULTS / "bench.csv"), WHY, UNKNOWN)


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (operations, goals, measured, special, products, training, losses, checked)
}


def generated(text: str) -> str:
    """`text` with each part made anew. Raises KeyError for a part nobody makes."""
    return PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    README.write_text(generated(README.read_text("utf-8")), encoding="utf-8")
