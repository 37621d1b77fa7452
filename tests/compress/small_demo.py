"""Recipes of compress/recipes made so small that a CPU runs them in a minute, every stage kept.

Knows no expected results: gates only ask that there is something to compare.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from compress.data.requests import load_occupations
from tests.compress.small_encoders import VOCABULARY, write_encoder
from tests.compress.small_recipe import ROOT

DEMO: dict[str, dict[str, Any]] = {
    "encoder_teacher": {
        "tower_steps": 3,
        "joint_steps": 3,
        "slates": 2,
        "candidates": 4,
        "worlds": 2,
        "chunk": 32,
        "checkpoint_every": 1,
    },
    "imitate": {
        "common_words": 2000,
        "minimum_count": 20,
        "labelled": 2,
        "bag_steps": 8,
        "steps": 3,
        "slates": 16,
        "candidates": 8,
        "warmup": 2,
        "plain_worlds": 1,
        "mixed_worlds": 1,
        "substituted_worlds": 1,
        "chunk": 32,
        "checkpoint_every": 1,
    },
    "prune": {"mlp_share": 0.125, "swap": 2, "slates": 23, "candidates": 24},
    "recover": {
        "phases": [{"steps": 3, "soft_share": 1.0, "ranking": "listnet", "hidden_weight": 10}],
        "batch": 2,
        "candidates": 4,
        "warmup": 1,
        "checkpoint_every": 1,
    },
    "quantize": {"slates": 23, "candidates": 24},
    "calibrate": {},
}


def small_demo(directory: Path, data: Path, gate: str = "gauc >= 0.01") -> Path:
    """demo.yaml with a tiny encoder and few steps; `gate` is the teacher's."""
    raw = yaml.safe_load((ROOT / "compress" / "recipes" / "demo.yaml").read_text("utf-8"))
    data = legible(data, directory / "data")
    encoder = write_encoder(directory / "encoder", 256, 1, _words(data), spread=0.02)
    entries = [raw["teacher"], *raw["stages"]]
    for entry in entries:
        entry["options"] = entry.get("options", {}) | DEMO[entry["stage"]]
        entry["gates"] = ["gauc >= 0.01"]
    raw["teacher"]["options"]["encoder"] = str(encoder)
    raw["teacher"]["gates"] = [gate]
    return _written(directory, raw | {"data": str(data), "threads": 1, "device": "cpu"})


def legible(data: Path, target: Path) -> Path:
    """The data with requests that even so small a model ranks above chance, for calibration refuses
    nonsense: the relevant candidates are one, again and again, that says what the member says.
    """
    shutil.copytree(data, target)
    texts = {row["id"]: row["text"] for row in _rows(target / "items.jsonl.gz")}
    for split in ("valid", "test"):
        path = target / f"{split}.jsonl.gz"
        rows = _rows(path)
        for row in rows:
            same = row["cand"][0]
            row["cand"] = [same if place % 3 == 0 else c for place, c in enumerate(row["cand"])]
            row["prefix"], row["label"] = texts[same], [4 * (c == same) for c in row["cand"]]
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return target


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _words(data: Path) -> list[str]:
    """The commonest of the data: a student that knows them ranks above chance untrained."""
    counts = Counter(
        word
        for occupation in load_occupations(data)
        for text in (*occupation.tasks, *occupation.titles, *occupation.tools)
        for word in text.lower().split()
        if word.isascii() and word.isalpha()
    )
    return [word for word, _ in counts.most_common(1500) if word not in VOCABULARY]


def small_reason(directory: Path, data: Path) -> Path:
    """demo_reason.yaml with small models and a step or two of each phase; gates stay but for one:
    so few steps leave the student far behind its teacher.
    """
    raw = yaml.safe_load((ROOT / "compress" / "recipes" / "demo_reason.yaml").read_text("utf-8"))
    for entry in raw["stages"]:
        options = entry.setdefault("options", {})
        if entry["stage"] == "reasoner":
            options |= {"vocab_size": 700}
            continue
        options |= {"batch": 2, "warmup": 1, "checkpoint_every": 1}
        for phase in options["phases"]:
            phase |= {"steps": 2} | ({"new_tokens": 4} if "new_tokens" in phase else {})
        entry["gates"] = [line for line in entry["gates"] if "rise" not in line]
    return _written(directory, raw | {"data": str(data), "threads": 1})


def _written(directory: Path, raw: dict[str, Any]) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path
