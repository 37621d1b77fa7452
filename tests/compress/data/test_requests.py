"""Reading the data: joins, labels, halves, relations and the rules of use."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from compress.data.requests import (
    halves,
    load_occupations,
    load_relations,
    load_requests,
    read_rows,
)


def test_requests_join_the_postings_texts(demo_data: Path) -> None:
    request = load_requests(demo_data, "valid")[0]
    row = next(read_rows(demo_data / "valid.jsonl.gz"))
    texts = {item["id"]: item["text"] for item in read_rows(demo_data / "items.jsonl.gz")}
    assert request.context == row["prefix"]
    assert request.candidates == tuple(texts[item] for item in row["cand"])
    assert request.relevant == tuple(grade >= 2 for grade in row["grade"])


def test_binary_labels_and_users_are_read(tmp_path: Path) -> None:
    row = {"qid": "q", "user": 7, "prefix": "p", "cand": ["i", "i"], "label": [1, 0]}
    with gzip.open(tmp_path / "new.jsonl.gz", "wt") as file:
        file.write(json.dumps(row))
    with gzip.open(tmp_path / "items.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": "i", "text": "t"}))
    (request,) = load_requests(tmp_path, "new")
    assert (request.group, request.relevant) == ("7", (True, False))


def test_the_halves_of_valid_share_no_occupation(demo_data: Path) -> None:
    selecting, calibrating = halves(load_requests(demo_data, "valid"))
    assert not {r.group for r in selecting} & {r.group for r in calibrating}
    assert min(len(selecting), len(calibrating)) > 150


def test_only_training_occupations_are_loaded(demo_data: Path) -> None:
    codes = {occupation.code for occupation in load_occupations(demo_data)}
    held_out = {
        row["occ"] for s in ("valid", "test") for row in read_rows(demo_data / f"{s}.jsonl.gz")
    }
    assert len(codes) == 582
    assert not codes & held_out


def test_relations_give_the_grades_of_the_training_requests(demo_data: Path) -> None:
    occupations = load_occupations(demo_data)
    relations = load_relations(demo_data, occupations)
    index = {occupation.code: row for row, occupation in enumerate(occupations)}
    items = {item["id"]: item["occ"] for item in read_rows(demo_data / "items.jsonl.gz")}
    one_sided = (relations.T > 0) & (relations <= 0)
    assert one_sided.any()
    assert ((relations < 0) == one_sided).all()
    rows = list(read_rows(demo_data / "train.jsonl.gz"))[:300]
    given = np.concatenate([row["grade"] for row in rows])
    ours = [
        relations[index[row["occ"]], index[items[item]]] for row in rows for item in row["cand"]
    ]
    assert (given == np.array(ours)).all()
