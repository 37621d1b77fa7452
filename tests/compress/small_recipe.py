"""A recipe of every kind of stage, so small that a run takes seconds. Knows no expected results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
LEXICON: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 256,
    "intermediate_size": 512,
    "layers": 2,
    "slates": 16,
    "steps": 12,
    "warmup": 2,
    "checkpoint_every": 4,
}
TRAIN: dict[str, Any] = {
    "steps": 4,
    "slates": 2,
    "candidates": 4,
    "warmup": 2,
    "checkpoint_every": 2,
}
DISTILL: dict[str, Any] = {
    "teachers": [{"path": "train"}],
    "phases": [{"steps": 2, "soft_share": 0.0}, {"steps": 4, "ranking": "listnet"}],
    "batch": 2,
    "candidates": 4,
    "warmup": 2,
    "checkpoint_every": 2,
}
PRUNE: dict[str, Any] = {"mlp_share": 0.25, "slates": 23, "candidates": 24}
QUANTIZE: dict[str, Any] = {"slates": 23, "candidates": 24}


def stages(minimum: float, **lexicon: int) -> list[dict[str, Any]]:
    """Tokenizer and decoder, trained and calibrated."""
    return [
        {"stage": "lexicon", "gates": ["gauc >= 0.3"], "options": LEXICON | lexicon},
        {"stage": "train", "gates": [f"gauc >= {minimum}"], "options": TRAIN},
        {"stage": "calibrate", "gates": [f"gauc >= {minimum}"]},
    ]


def every_stage() -> list[dict[str, Any]]:
    """All kinds but the encoder teacher, which starts from weights that are not at hand."""
    first, second, last = stages(0.3)
    return [
        first,
        second,
        {"stage": "distill", "options": DISTILL},
        {"stage": "prune", "options": PRUNE},
        {"stage": "recover", "options": DISTILL},
        {"stage": "quantize", "options": QUANTIZE},
        last,
    ]


def write_recipe(directory: Path, data: Path, entries: list[dict[str, Any]]) -> Path:
    """recipe.yaml of these stages, in one thread."""
    path = directory / "recipe.yaml"
    recipe = {"data": str(data), "seed": 3, "threads": 1, "stages": entries}
    path.write_text(yaml.safe_dump(recipe))
    return path
