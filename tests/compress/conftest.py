"""A small slice of the demo data, a tokenizer trained on it, and slates for the tiny model."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from compress.data.tokenizer import train_tokenizer
from compress.decoders.slates import SlateBatch
from compress.layers.calibration_slates import CalibrationOptions, calibration_slates
from compress.students.lexicon import LexiconOptions, wired_decoder
from models.decoder import Decoder
from models.directory import ModelDirectory
from tests.compress.slate_data import write_slates

DEMO_DATA = Path(__file__).parents[2] / "models" / "demo" / "onet_jobs"
OCCUPATIONS = 60


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _copy_table(source: Path, target: Path, kept: set[str]) -> None:
    with (
        gzip.open(source, "rt", encoding="utf-8", newline="") as old,
        gzip.open(target, "wt", encoding="utf-8", newline="") as new,
    ):
        reader = csv.DictReader(old)
        writer = csv.DictWriter(new, reader.fieldnames or [])
        writer.writeheader()
        writer.writerows(row for row in reader if row["occ"] in kept)


@pytest.fixture(scope="session")
def demo_data() -> Path:
    return DEMO_DATA


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth training occupation, and a few requests of every split."""
    target = tmp_path_factory.mktemp("data")
    with gzip.open(DEMO_DATA / "occupations.csv.gz", "rt", encoding="utf-8") as file:
        train = [row["occ"] for row in csv.DictReader(file) if row["split"] == "train"]
    requests = {split: _rows(DEMO_DATA / f"{split}.jsonl.gz")[::60] for split in ("valid", "test")}
    kept = {*train[:: len(train) // OCCUPATIONS]}
    kept |= {request["occ"] for rows in requests.values() for request in rows}
    for path in DEMO_DATA.glob("*.csv.gz"):
        _copy_table(path, target / path.name, kept)
    requests["train"] = _rows(DEMO_DATA / "train.jsonl.gz")[::300]
    for split, rows in requests.items():
        _write_rows(target / f"{split}.jsonl.gz", rows)
    _write_rows(target / "items.jsonl.gz", _rows(DEMO_DATA / "items.jsonl.gz"))
    return target


@pytest.fixture(scope="session")
def word_tokenizer() -> Tokenizer:
    texts = ["Weld, cut and braze steel.", "Nurse patients; write reports.", "Level: some."]
    return train_tokenizer(texts * 3, 400)


@pytest.fixture(scope="session")
def wired() -> Decoder:
    """A small wired decoder whose bags and whole pass should agree."""
    torch.manual_seed(3)
    options = LexiconOptions(hidden_size=256, intermediate_size=512, layers=2)
    return wired_decoder(options, 400).requires_grad_(False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests that the tiny model reads."""
    return write_slates(tmp_path_factory.mktemp("slates") / "data")


@pytest.fixture(scope="session")
def slates(data: Path, tiny_directory: ModelDirectory) -> list[SlateBatch]:
    """What pruning and quantizing the tiny model look at."""
    return list(calibration_slates(tiny_directory, data, CalibrationOptions(12, 10), seed=5))
