"""Recipes of compress/recipes made so small that a CPU runs them in a minute, every stage kept.

Knows no expected results: gates only ask that there is something to compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.compress.small_encoders import write_encoder
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
        "common_words": 100,
        "minimum_count": 20,
        "labelled": 2,
        "bag_steps": 3,
        "steps": 3,
        "slates": 4,
        "candidates": 4,
        "plain_worlds": 1,
        "mixed_worlds": 1,
        "chunk": 32,
        "checkpoint_every": 1,
    },
    "prune": {"slates": 23, "candidates": 24},
    "recover": {
        "phases": [{"steps": 3, "soft_share": 1.0, "ranking": "listnet"}],
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
    encoder = write_encoder(directory / "encoder", hidden=256, layers=1)
    entries = [raw["teacher"], *raw["stages"]]
    for entry in entries:
        entry["options"] = entry.get("options", {}) | DEMO[entry["stage"]]
        entry["gates"] = ["gauc >= 0.01"]
    raw["teacher"]["options"]["encoder"] = str(encoder)
    raw["teacher"]["gates"] = [gate]
    return _written(directory, raw | {"data": str(data), "threads": 1, "device": "cpu"})


def _written(directory: Path, raw: dict[str, Any]) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path
