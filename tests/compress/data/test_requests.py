"""Reading the data: joins, labels, halves, relations and the rules of use."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.data.requests import (
    DataError,
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


ITEMS = [{"id": "i", "text": "t"}]
GOOD = {"qid": "q", "prefix": "p", "cand": ["i", "i"], "label": [1, 0]}


def _write(path: Path, rows: list[Any]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "holds no requests"),
        ([GOOD, 5], "near line 2"),
        ([GOOD | {"prefix": 5}], "prefix of row 1 is 5"),
        ([GOOD | {"cand": "ii"}], "cand of row 1 is 'ii'"),
        ([GOOD | {"label": None}], "label of row 1 is None"),
        ([{name: GOOD[name] for name in ("prefix", "cand")}], "grade of row 1 is None"),
        ([GOOD | {"cand": [], "label": []}], "0 candidates"),
        ([GOOD | {"cand": ["i", "j"]}], "1 of them no items"),
        ([GOOD, GOOD | {"label": [1]}], "request 2 has 2 candidates.* and 1 grades"),
        ([GOOD | {"label": [1, float("nan")]}], "the grade nan"),
        ([GOOD | {"label": [1, "0"]}], "the grade '0'"),
        ([GOOD | {"label": [1, -1]}], "the grade -1"),
        ([GOOD | {"label": [1, 1000]}], "the grade 1000"),
        ([GOOD | {"cand": ["i", [1]]}], r"request 1 has the candidate \[1\]"),
        ([GOOD | {"cand": ["i", True]}], "request 1 has the candidate True"),
        (
            [GOOD, {name: GOOD[name] for name in ("prefix", "cand", "label")}],
            "qid of request 2 is N",
        ),
        ([GOOD | {"user": None}], "user of request 1 is None, .*; give every row one of user, occ"),
        ([GOOD | {"qid": float("nan")}], "qid of request 1 is nan"),
        ([GOOD | {"occ": ["a"]}], r"occ of request 1 is \['a'\]"),
        ([GOOD, GOOD | {"qid": "\ud800"}], r"near line 2 \('qid' holds a lone surrogate"),
        ([GOOD | {"tenant": "a\udc00"}], r"near line 1 \('tenant' holds a lone surrogate"),
    ],
    ids=range(21),
)
def test_a_row_that_is_no_request_is_named(tmp_path: Path, rows: list[Any], said: str) -> None:
    _write(tmp_path / "items.jsonl.gz", ITEMS)
    _write(tmp_path / "valid.jsonl.gz", rows)
    with pytest.raises(DataError, match=f"valid.jsonl.gz: .*{said}"):
        load_requests(tmp_path, "valid")


@pytest.mark.parametrize("ids", [("i", "i"), (1, 1), (1, True), (True, 2), ("1", 1, "1")], ids=str)
def test_an_id_that_two_items_have_or_that_is_none_is_named(
    tmp_path: Path, ids: tuple[str | int, ...]
) -> None:
    items = [{"id": name, "text": str(place)} for place, name in enumerate(ids)]
    _write(tmp_path / "items.jsonl.gz", items)
    _write(tmp_path / "valid.jsonl.gz", [GOOD | {"cand": [ids[-1]], "label": [1]}])
    with pytest.raises(DataError, match=r"items\.jsonl\.gz: row \d has the id .*; give every item"):
        load_requests(tmp_path, "valid")


def test_a_whole_number_and_its_digits_are_two_items_and_one_group(tmp_path: Path) -> None:
    _write(tmp_path / "items.jsonl.gz", [{"id": 1, "text": "a"}, {"id": "1", "text": "b"}])
    rows = [{"user": name, "prefix": "p", "cand": [1, "1"], "grade": [2, 0]} for name in (7, "7")]
    _write(tmp_path / "valid.jsonl.gz", rows)
    requests = load_requests(tmp_path, "valid")
    assert [(one.group, one.candidates) for one in requests] == [("7", ("a", "b"))] * 2


def test_an_item_without_its_text_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "items.jsonl.gz", [*ITEMS, {"id": "j"}])
    _write(tmp_path / "valid.jsonl.gz", [GOOD])
    with pytest.raises(DataError, match=r"items\.jsonl\.gz: text of row 2 is None"):
        load_requests(tmp_path, "valid")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(bytes(range(256)) * 9))
    damaged = content[:14] + b"\xff" * 26 + content[40:]
    for bad in (damaged, content[:40], content, b"no archive"):
        (tmp_path / "items.jsonl.gz").write_bytes(bad)
        with pytest.raises(DataError, match="cannot be read"):
            list(read_rows(tmp_path / "items.jsonl.gz"))


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


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("tasks", "task,", "duty,", "has no column task"),
        ("tasks", "occ,task_id", "", "has no column occ"),
        ("tasks", ",Core\n", '\n"', "cannot be read after line "),
        ("occupations", ",5,train\n", ",five,train\n", "job_zone in line 2 is 'five'"),
        ("occupations", ",5,train\n", ",0,train\n", "job_zone in line 2 is '0'"),
        ("occupations", ",5,train\n", "\n", "job_zone in line 2 is None"),
        ("skills", ",4.78\n", ",nan\n", "importance in line 2 is 'nan'"),
        ("related", ",Primary-Long,", ",Second,", "tier in line 2 is 'Second'"),
    ],
    ids=range(8),
)
def test_a_table_that_is_damaged_is_named_with_its_line(
    tmp_path: Path, demo_data: Path, name: str, old: str, new: str, said: str
) -> None:
    shutil.copytree(demo_data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"{name}.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    assert old in text
    path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))
    with pytest.raises(DataError, match=rf"{name}\.csv\.gz: {said}"):
        load_relations(tmp_path, load_occupations(tmp_path))


def test_a_table_that_is_cut_off_or_no_archive_is_named(tmp_path: Path, demo_data: Path) -> None:
    shutil.copytree(demo_data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tasks.csv.gz"
    for bad in (path.read_bytes()[:9000], b"no archive", gzip.compress(b"\xff\xfe")):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"tasks\.csv\.gz: cannot be read after line \d"):
            load_occupations(tmp_path)


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
