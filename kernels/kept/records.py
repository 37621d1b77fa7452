"""Writes rows as they come, as JSON lines and CSV, so that a run cut short loses none of them.

Knows nothing of what a row means.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

Record = Mapping[str, Any]


class Records:
    """Takes rows for a stream of JSON lines and, if given, a CSV file that is appended to."""

    def __init__(self, lines: IO[str], table: IO[str] | None) -> None:
        self._lines, self._table = lines, table
        self._writer: csv.DictWriter[str] | None = None

    def write(self, record: Record) -> None:
        print(json.dumps(record), file=self._lines, flush=True)
        if self._table is None:
            return
        if self._writer is None:
            self._writer = csv.DictWriter(self._table, list(record), lineterminator="\n")
            self._table.seek(0, os.SEEK_END)  # others may have appended since it was opened
            if self._table.tell() == 0:
                self._writer.writeheader()
        self._writer.writerow(record)
        self._table.flush()


@contextlib.contextmanager
def recording(json_path: str, csv_path: Path | None = None) -> Iterator[Records]:
    """`json_path` may be "-" for standard output. All rows of a CSV must have the same columns."""
    with contextlib.ExitStack() as stack:
        lines = sys.stdout if json_path == "-" else stack.enter_context(open_new(Path(json_path)))
        if csv_path is None:
            yield Records(lines, None)
            return
        table = stack.enter_context(csv_path.open("a", encoding="utf-8", newline=""))
        yield Records(lines, table)


def open_new(path: Path) -> IO[str]:
    """The emptied file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", encoding="utf-8")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows by column name; none for a file that is not there."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))
