"""Slices: their names from the data's own fields, and the metrics of each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from compress.data.requests import Request, load_requests, read_rows
from compress.measure.intervals import Scored
from compress.measure.slices import by_slice, slice_names, worst


def test_names_stand_beside_their_requests(demo_data: Path) -> None:
    names = slice_names(demo_data, "valid")
    rows = list(read_rows(demo_data / "valid.jsonl.gz"))
    zones = {item["occ"]: item["job_zone"] for item in read_rows(demo_data / "items.jsonl.gz")}
    assert len(names) == len(load_requests(demo_data, "valid"))
    assert [name["tenant"] for name in names] == [row["tenant"] for row in rows]
    assert [name["profile"] for name in names] == [row["profile"] for row in rows]
    assert [name["job_zone"] for name in names] == [str(zones[row["occ"]]) for row in rows]


def test_an_occupation_of_another_type_belongs_to_no_zone(tmp_path: Path) -> None:
    for name, row in (("items", {"occ": "11", "job_zone": 3}), ("valid", {"occ": ["11"]})):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.write(json.dumps(row) + "\n")
    assert slice_names(tmp_path, "valid") == [{}]


def test_each_slice_has_the_metrics_of_its_own_requests() -> None:
    def scored(right: bool) -> Scored:
        request = Request("g", "x", ("x", "x"), (2, 0))
        return Scored(request, np.array([0.9, 0.1] if right else [0.1, 0.9]))

    names = [{"tenant": "a"}, {"tenant": "b"}, {"tenant": "a"}, {}]
    parts = by_slice([scored(True), scored(False), scored(True), scored(False)], names)
    assert parts["tenant"]["a"]["gauc"] == 1
    assert parts["tenant"]["b"]["gauc"] == 0
    assert [part["requests"] for part in parts["tenant"].values()] == [2, 1]


def test_the_worst_slice_is_one_of_enough_requests() -> None:
    slices = {
        "few": {"requests": 2, "gauc": 0.1},
        "low": {"requests": 40, "gauc": 0.6},
        "high": {"requests": 40, "gauc": 0.9},
        "unknown": {"requests": 40, "gauc": float("nan")},
    }
    assert worst(slices, "gauc") == ("low", 0.6)
    assert worst({"few": slices["few"]}, "gauc") is None
