"""The stage that trains an item encoder: it learns from the ranker, which stays as it was."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from compress.data.requests import DataError, load_requests
from compress.decoders.losses import slate_loss
from compress.items import embed_items
from compress.items.embed_items import distillation_loss
from compress.items.item_sampling import ItemSampler
from compress.items.stored_candidates import StoredItems, job_of, new_engine, raw_logits
from compress.stages.ranker_card import new_card
from compress.stages.stage import GateError, Incoming, RecipeError, StageInput
from models.checkpoint import load_model_directory, save_model_directory
from models.decoder import Decoder
from models.directory import ModelDirectory
from models.item_encoder import ENCODER_PATH, encoder_digest

PROMPT = "member_to_jobs"
QUICK = {"steps": 40, "slates": 2, "inner": 32, "warmup": 5, "rate": 0.003}


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, wired: Decoder, word_tokenizer: Tokenizer
) -> Path:
    folder = tmp_path_factory.mktemp("source")
    word_tokenizer.save(str(folder / "tokenizer.json"))
    card = replace(new_card("small", "1"), lineage={"stages": []})
    save_model_directory(folder / "model", wired, folder / "tokenizer.json", card)
    return folder / "model"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """A few short requests with the items they name; `train` is `test` under another name."""
    folder = tmp_path_factory.mktemp("data")
    named: set[str] = set()
    for split, from_split in {"train": "test", "valid": "valid", "test": "test"}.items():
        with gzip.open(small_data / f"{from_split}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file][:6]
        named |= {item for row in rows for item in row["cand"]}
        short = [row | {"prefix": row["prefix"][:120]} for row in rows]
        _write(folder / f"{split}.jsonl.gz", short)
    with gzip.open(small_data / "items.jsonl.gz", "rt", encoding="utf-8") as file:
        items = [row for line in file if (row := json.loads(line))["id"] in named]
    _write(folder / "items.jsonl.gz", [row | {"text": row["text"][:60]} for row in items])
    return folder


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def run(source: Path, data: Path, out: Path, **options: Any) -> ModelDirectory:
    stage = StageInput(source, data, out, out.with_suffix(".work"), seed=2, threads=1)
    embed_items.run(stage, {**QUICK, **options})
    return load_model_directory(out)


def distance(directory: ModelDirectory, data: Path, scratch: Path) -> float:
    """Mean distance of stored candidates' logits from their texts'."""
    stored = StoredItems.encode(directory, directory.path / ENCODER_PATH, data, scratch)
    engine, requests = new_engine(directory, stored), load_requests(data, "train")
    texts, vectors = (
        np.array(list(raw_logits(engine, [job_of(directory, r, PROMPT, kind) for r in requests])))
        for kind in (None, stored)
    )
    return float(np.abs(texts - vectors).mean() / texts.std())


@pytest.mark.long
def test_vectors_learn_to_score_as_their_texts(source: Path, data: Path, tmp_path: Path) -> None:
    before = run(source, data, tmp_path / "before", steps=1, rate=1e-12)
    after = run(source, data, tmp_path / "after")
    start, end = (distance(one, data, tmp_path / "catalogue") for one in (before, after))
    assert end < 0.8 * start
    parent = load_model_directory(source)
    assert after.card.files == parent.card.files, "the ranker itself is as it was"
    metrics = after.card.metrics["embed_items"]
    assert 0 <= metrics["test"]["gauc"]["low"] <= metrics["test"]["gauc"]["value"] <= 1
    (entry,) = after.card.lineage["stages"]
    assert (entry["stage"], entry["options"]["vectors"]) == ("embed_items", 1)
    assert after.card.lineage["parent"] == parent.digest


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_encoder(
    source: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"steps": 6, "vectors": 2, "checkpoint_every": 2}
    whole = run(source, data, tmp_path / "whole", **options)
    draw, steps = ItemSampler.draw, []

    def draw_until_killed(sampler: Any, seed: int, step: int, count: int) -> Any:
        steps.append(step)
        if steps == [0, 1, 2]:
            raise KeyboardInterrupt
        return draw(sampler, seed, step, count)

    monkeypatch.setattr(ItemSampler, "draw", draw_until_killed)
    with pytest.raises(KeyboardInterrupt):
        run(source, data, tmp_path / "cut", **options)
    cut = run(source, data, tmp_path / "cut", **options)
    assert steps == [0, 1, 2, 2, 3, 4, 5]
    digests = [encoder_digest(one.path / ENCODER_PATH) for one in (whole, cut)]
    assert digests[0] == digests[1]
    other = run(source, data, tmp_path / "other", **options | {"steps": 5})
    assert encoder_digest(other.path / ENCODER_PATH) != digests[0]


def test_below_its_gate_nothing_is_published(source: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"is below 1\.1; train longer"):
        run(source, data, tmp_path / "out", steps=1, least_gauc=1.1)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def undefined(data: Path, tmp_path: Path) -> Path:
    """Data of which no request of `valid` has a relevant candidate, so there is no gauc."""
    folder = Path(shutil.copytree(data, tmp_path / "undefined"))
    with gzip.open(data / "valid.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    _write(folder / "valid.jsonl.gz", [row | {"label": [0] * len(row["cand"])} for row in rows])
    return folder


def test_a_gate_on_what_the_data_do_not_define_is_refused_before_training(
    source: Path, undefined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_items, "_train", lambda *_: pytest.fail("it trained"))
    with pytest.raises(RecipeError, match=r"least_gauc is 0\.2, but no request"):
        run(source, undefined, tmp_path / "out", least_gauc=0.2)
    with pytest.raises(RecipeError, match=r"least_gauc is 0\.2, but no request"):
        embed_items.check(embed_items.EmbedOptions(least_gauc=0.2), Incoming(undefined))


def test_what_the_data_do_not_define_is_null_on_the_card(
    source: Path, undefined: Path, tmp_path: Path
) -> None:
    made = run(source, undefined, tmp_path / "out", steps=1)
    gauc = made.card.metrics["embed_items"]["valid"]["gauc"]
    assert gauc == {"value": None, "low": None, "high": None}


def test_it_needs_a_source_and_slates(source: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--source"):
        embed_items.run(StageInput(None, data, tmp_path / "out", tmp_path, 1, 1), {})
    with pytest.raises(RecipeError, match="vectors must be 1 or more, not 0"):
        run(source, data, tmp_path / "out", vectors=0)
    empty = Path(shutil.copytree(data, tmp_path / "empty"))
    _write(empty / "train.jsonl.gz", [])
    with pytest.raises(DataError, match="holds no requests"):
        run(source, empty, tmp_path / "out")


def test_the_loss_is_least_where_the_teacher_stands() -> None:
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(3, 5, generator=generator)
    grades = torch.randint(0, 5, (3, 5), generator=generator)
    student = teacher.clone().requires_grad_()
    distillation_loss(student, teacher, grades, 0.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-7
    here = distillation_loss(teacher, teacher, grades, 0.0)
    for _ in range(20):
        moved = teacher + torch.randn(3, 5, generator=generator) * 0.3
        assert distillation_loss(moved, teacher, grades, 0.0) > here
    graded = distillation_loss(teacher, teacher, grades, 0.5) - here
    assert float(graded) == pytest.approx(0.5 * float(slate_loss(teacher, grades)), rel=1e-5)
