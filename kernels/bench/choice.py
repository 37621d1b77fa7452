"""Which of the planned rows the command's options ask for. Times nothing."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Sequence

import torch

from kernels.bench.cpu_rows import CPU_ROWS
from kernels.bench.plan import Row, plan
from kernels.bench.rows import planned_rows
from kernels.bench.special import Special
from kernels.catalogue.shapes import TINY
from kernels.catalogue.table import named
from kernels.kept.earlier import is_earlier
from kernels.kept.records import read_csv

CPU_TOKENS = (8,)


def chosen_rows(options: argparse.Namespace, device: torch.device) -> list[Row | Special]:
    """What was asked for, by the first pattern that fits, then what matters most; first of
    all, on a CPU, tiny ones.
    """
    if device.type == "cpu":
        rows: list[Row | Special] = [*plan(named(options.ops), (TINY,), CPU_TOKENS)]
        rows += [row for row in CPU_ROWS if _named(row, options.ops)]
    else:
        rows = planned_rows(options.ops)
    known = _known(options)
    by_label = {row_label(row.name, row.mode, row.model_names, row.tokens): row for row in rows}
    wanted = [fnmatch.filter(by_label.keys() - known, pattern) for pattern in options.rows]
    places = {label: place for place, found in reversed([*enumerate(wanted)]) for label in found}
    chosen = [label for label in by_label if label in places]
    return [by_label[label] for label in sorted(chosen, key=places.__getitem__)]


def _named(row: Special, names: Sequence[str] | None) -> bool:
    return names is None or row.name.split()[0] in names


def row_label(op: str, mode: str, models: str, tokens: int | str) -> str:
    """What patterns are matched with."""
    return f"{op} {mode} {models} {tokens}"


def _known(options: argparse.Namespace) -> set[str]:
    """Labels of rows that the file holds, but for those of code changed since."""
    if options.missing is None:
        return set()
    kept: dict[str, bool] = {}
    for row in read_csv(options.missing):
        label = row_label(row["op"], row["mode"], row["model"], row["tokens"])
        kept[label] = kept.get(label, True) and not is_earlier(row)
    return {label for label, fresh in kept.items() if fresh}
