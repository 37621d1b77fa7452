"""Small item encoders and catalogues for tests: random weights, real files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from models.catalogue import Catalogue, load_catalogue
from models.directory import ModelDirectory
from models.encode_catalogue import encode_catalogue
from models.item_encoder import ItemEncoder, save_item_encoder

PROMPT = "member_to_jobs"
JOBS = {
    "nurse": "Registered nurse, night shift",
    "welder": "Welder in a shipyard. Duties: weld.",
    "roofer": "Roofer. Duties: inspect roofs and estimate materials.",
}


def random_encoder(hidden: int, vectors: int = 2) -> ItemEncoder:
    """Weights that move every vector away from the mean embedding."""
    encoder = ItemEncoder(hidden, vectors, inner=16).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for weight in encoder.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    return encoder


def write_items(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_encoder(path: Path, directory: ModelDirectory, vectors: int = 2) -> Path:
    encoder = random_encoder(directory.config.hidden_size, vectors)
    save_item_encoder(path, encoder, directory, PROMPT)
    return path


def small_catalogue(folder: Path, directory: ModelDirectory) -> Catalogue:
    """JOBS by their names, two vectors each."""
    rows = [{"id": name, "text": text} for name, text in JOBS.items()]
    items = write_items(folder / "items.jsonl", rows)
    encoder = write_encoder(folder / "encoder.safetensors", directory)
    encode_catalogue(directory, encoder, items, folder / "jobs.catalogue")
    return load_catalogue(folder / "jobs.catalogue", directory)
