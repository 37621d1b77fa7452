"""Reads all that a stage will read of ranking data, so that it fails before anything has trained.

Knows no stage and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from compress.data.requests import (
    TABLES,
    load_occupations,
    load_relations,
    load_requests,
    request_files,
)

SPLITS = ("train", "valid", "test")


def read_through(data: Path, names: Collection[str]) -> None:
    """Every row of these files, splits and tables; other names are left alone.

    Raises DataError naming the file and the row for what cannot be read.
    """
    for split in SPLITS:
        if {*request_files(split)} <= {*names}:
            load_requests(data, split)
    if {*TABLES} <= {*names}:
        load_relations(data, load_occupations(data))
