"""Reads ranking data: requests, postings, occupation tables. Knows nothing of tokens or models."""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compress.data.json_row import json_row
from models.errors import FairslateError

TIER_GRADES = {"Primary-Short": 3, "Primary-Long": 2, "Supplemental": 1}
SAME_OCCUPATION = 4
RELEVANT = 2
UNGRADED = -1
LEVELS = range(1, 6)  # job zones
HIGHEST_GRADE = 30  # a gain is 2 to the power of it
Columns = Mapping[str, Callable[[str], Any]]  # of a table that are read, and how
Kinds = Mapping[str, type | tuple[type, ...]]  # of the fields of a row
TABLES = tuple(
    f"{name}.csv.gz" for name in ("occupations", "titles", "tasks", "tools", "skills", "related")
)
ITEM: Kinds = {"id": (str, int), "text": str}
REQUEST: Kinds = {"prefix": str, "cand": list}
GROUPS = ("user", "occ", "qid")  # what names a request's group, the first one that a row has
DAMAGED = (  # what reading half an archive, or none, raises
    *(ValueError, RecursionError, EOFError),
    *(zlib.error, gzip.BadGzipFile, csv.Error),
)


class DataError(FairslateError):
    """Ranking data that no model can be trained or measured on."""

    status = HTTPStatus.BAD_REQUEST
    code = "data_invalid"


@dataclass(frozen=True, slots=True)
class Request:
    """One context and its candidates; `grades` is binary when the data carry `label`."""

    group: str
    context: str
    candidates: tuple[str, ...]
    grades: tuple[int, ...]
    binary: bool = False
    by_user: bool = False  # what `group` names: a user, or an occupation

    @property
    def relevant(self) -> tuple[bool, ...]:
        """Grade 2 and above, or label 1."""
        return tuple(grade >= (1 if self.binary else RELEVANT) for grade in self.grades)


@dataclass(frozen=True, slots=True)
class Occupation:
    """Facts of one occupation, from which members and postings are sampled."""

    code: str
    title: str
    description: str
    level: int
    titles: tuple[str, ...]
    tasks: tuple[str, ...]
    tools: tuple[str, ...]
    skills: tuple[str, ...]  # most important first
    knowledge: tuple[str, ...]


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a gzipped JSON-lines file. Raises DataError for what is none, see `json_row`."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                number += 1
                yield json_row(line)
    except DAMAGED as error:
        raise DataError(
            f"{path}: cannot be read near line {number} ({error}); write it again, one JSON object "
            "a line, gzipped"
        ) from error


def read_table(path: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    """Rows of a gzipped CSV file with a header: each of `columns`, read by its reader.

    Raises DataError naming the line for a file that is none, a column that is not there and a value
    that its reader refuses.
    """
    line = 1
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if missing := columns.keys() - set(rows.fieldnames or ()):
                raise DataError(f"{path}: has no column {min(missing)}; write it again with one")
            for row in rows:
                line = rows.line_num
                yield {name: _value(path, line, row, name, columns[name]) for name in columns}
    except DAMAGED as error:
        raise DataError(
            f"{path}: cannot be read after line {line} ({error}); write it again, a gzipped CSV "
            "file with a header"
        ) from error


def _value(
    path: Path, line: int, row: Mapping[str, str | None], name: str, read: Callable[[str], Any]
) -> Any:
    text = row[name]
    try:
        if text is None:
            raise ValueError("the line is too short")
        return read(text)
    except (ValueError, KeyError) as error:
        raise DataError(
            f"{path}: {name} in line {line} is {text!r}; write the line again"
        ) from error


def request_files(*splits: str) -> tuple[str, ...]:
    """What `load_requests` reads of these splits, by name."""
    return ("items.jsonl.gz", *(f"{split}.jsonl.gz" for split in splits))


def load_requests(directory: Path, split: str) -> list[Request]:
    """`split`.jsonl.gz joined with items.jsonl.gz; only `prefix` and the items' `text` are kept.

    Raises DataError for a split without requests, for a row that is no request, naming it, and for
    an id that two items have.
    """
    path, texts = directory / f"{split}.jsonl.gz", _texts(directory / "items.jsonl.gz")
    rows = checked_rows(path, REQUEST)
    requests = [_request(path, number, row, texts) for number, row in enumerate(rows, 1)]
    if not requests:
        raise DataError(f"{path}: holds no requests; write at least one")
    return requests


def _texts(path: Path) -> dict[str | int, str]:
    """By id of an item."""
    texts: dict[str | int, str] = {}
    for number, item in enumerate(checked_rows(path, ITEM), 1):
        if item["id"] in texts or isinstance(item["id"], bool):
            raise DataError(
                f"{path}: row {number} has the id {item['id']!r}, which is another item's or none; "
                "give every item an id of its own, a string or a whole number"
            )
        texts[item["id"]] = item["text"]
    return texts


def _request(path: Path, number: int, row: dict[str, Any], texts: dict[Any, str]) -> Request:
    grades = tuple(row["label"] if "label" in row else row["grade"])
    for item in row["cand"]:
        if type(item) not in (str, int):
            raise DataError(
                f"{path}: request {number} has the candidate {item!r}; write the id of an item"
            )
    unknown = [item for item in row["cand"] if item not in texts]
    if unknown or not row["cand"] or len(grades) != len(row["cand"]):
        raise DataError(
            f"{path}: request {number} has {len(row['cand'])} candidates, {len(unknown)} of them "
            f"no items, and {len(grades)} grades; write one grade for each item"
        )
    for grade in grades:
        if type(grade) not in (int, bool) or not 0 <= grade <= HIGHEST_GRADE:
            raise DataError(
                f"{path}: request {number} has the grade {grade!r}; write whole numbers from 0 to "
                f"{HIGHEST_GRADE}"
            )
    candidates = tuple(texts[item] for item in row["cand"])
    binary, by_user = "label" in row, "user" in row
    return Request(_group(path, number, row), row["prefix"], candidates, grades, binary, by_user)


def _group(path: Path, number: int, row: Mapping[str, Any]) -> str:
    key = next((key for key in GROUPS if key in row), GROUPS[-1])
    name = row.get(key)
    if not isinstance(name, str | int | float) or name != name:
        raise DataError(
            f"{path}: {key} of request {number} is {name!r}, which names no group; give every row "
            f"one of {', '.join(GROUPS)}, a text or a number"
        )
    return str(name)


def checked_rows(path: Path, kinds: Kinds) -> Iterator[dict[str, Any]]:
    """Rows as of `read_rows`. Raises DataError for a field that is none of its kind, naming it."""
    for number, row in enumerate(read_rows(path), 1):
        graded = {"label" if "label" in row else "grade": list} if kinds is REQUEST else {}
        for name, kind in {**kinds, **graded}.items():
            if not isinstance(row.get(name), kind):
                raise DataError(
                    f"{path}: {name} of row {number} is {row.get(name)!r}; write the row again"
                )
        yield row


def halves(requests: list[Request]) -> tuple[list[Request], list[Request]]:
    """Splits by group: the first half selects the model, the second calibrates it."""
    parts: tuple[list[Request], list[Request]] = ([], [])
    for request in requests:
        parts[hashlib.sha256(request.group.encode()).digest()[0] % 2].append(request)
    return parts


def finite(text: str) -> float:
    """A reader of columns."""
    if not math.isfinite(value := float(text)):
        raise ValueError("no number")
    return value


def _level(text: str) -> int:
    if (value := int(text)) not in LEVELS:
        raise ValueError("no job zone")
    return value


OCCUPATIONS: Columns = {
    "occ": str,
    "title": str,
    "description": str,
    "job_zone": _level,
    "split": str,
}
SKILLS: Columns = {"occ": str, "kind": str, "element": str, "importance": finite}
RELATED: Columns = {"occ": str, "related": str, "tier": TIER_GRADES.__getitem__, "split": str}


def load_occupations(directory: Path, split: str = "train") -> list[Occupation]:
    """Occupations of one split, in the table's order."""
    titles, tasks, tools = (
        _facts(directory / f"{name}s.csv.gz", name) for name in ("title", "task", "tool")
    )
    elements: dict[tuple[str, str], list[str]] = defaultdict(list)
    rows = read_table(directory / "skills.csv.gz", SKILLS)
    for row in sorted(rows, key=lambda row: -row["importance"]):
        elements[row["occ"], row["kind"]].append(row["element"])
    return [
        Occupation(
            code=row["occ"],
            title=row["title"],
            description=row["description"],
            level=row["job_zone"],
            titles=titles[row["occ"]],
            tasks=tuple(task.rstrip(".") for task in tasks[row["occ"]]),
            tools=tools[row["occ"]],
            skills=tuple(elements[row["occ"], "skill"]),
            knowledge=tuple(elements[row["occ"], "knowledge"]),
        )
        for row in read_table(directory / "occupations.csv.gz", OCCUPATIONS)
        if row["split"] == split
    ]


def _facts(path: Path, column: str) -> dict[str, tuple[str, ...]]:
    facts: dict[str, list[str]] = defaultdict(list)
    for row in read_table(path, {"occ": str, column: str}):
        facts[row["occ"]].append(row[column])
    return defaultdict(tuple, {occupation: tuple(values) for occupation, values in facts.items()})


def load_relations(directory: Path, occupations: list[Occupation]) -> npt.NDArray[np.int8]:
    """Grades (member's occupation, job's occupation): the tier the member's list gives, 4 on the
    diagonal, UNGRADED where only the job's list names the member's; the data hold no such pairs.
    """
    index = {occupation.code: row for row, occupation in enumerate(occupations)}
    tiers = np.zeros((len(index), len(index)), dtype=np.int8)
    for row in read_table(directory / "related.csv.gz", RELATED):
        if row["split"] == "train" and row["occ"] in index and row["related"] in index:
            tiers[index[row["occ"]], index[row["related"]]] = row["tier"]
    grades = np.where((tiers == 0) & (tiers.T > 0), np.int8(UNGRADED), tiers)
    np.fill_diagonal(grades, SAME_OCCUPATION)
    return grades
