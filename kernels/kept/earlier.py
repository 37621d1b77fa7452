"""Tells kept figures of code or settings that were changed since. Knows no kernel.

A row of ours carries the digest of what it launched when it was timed; what is launched now
`python -m kernels.bench.launches` keeps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from kernels.kept.figures import MODEL_COLUMNS, Group, Row, grouped
from kernels.kept.records import read_csv

DIGEST = "launches"
ROW_COLUMNS = (*MODEL_COLUMNS, "provider")
LAUNCHES = Path(__file__).parents[1] / "results" / "launches.csv"
MARK = " \N{DAGGER}"


@functools.cache
def launched_now() -> dict[tuple[str, ...], str]:
    """By row and provider."""
    return {tuple(row[name] for name in ROW_COLUMNS): row[DIGEST] for row in read_csv(LAUNCHES)}


def is_earlier(row: Row) -> bool:
    """Whether a row of ours was timed by what is no longer launched; rivals' rows never are."""
    if DIGEST not in row or not row["provider"].startswith("ours"):
        return False
    key = tuple(row[name] for name in ROW_COLUMNS)
    return not row[DIGEST] or launched_now().get(key) != row[DIGEST]


def mark(group: Group, provider: str = "ours") -> str:
    """What follows a figure of ours in a table: nothing, or the mark of an earlier code."""
    row = group.get(provider)
    return MARK if row and is_earlier(row) else ""


def earlier_rows(rows: Iterable[Row]) -> list[Row]:
    """Those of the last run of each."""
    return [row for group in grouped(rows).values() for row in group.values() if is_earlier(row)]
