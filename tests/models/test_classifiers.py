"""Classification heads and several named heads, from stored directories to scores of slates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.calibration import Calibration
from models.card import ModelCard
from models.checkpoint import ModelDirectory, load_model_directory
from models.config import FAMILIES
from models.engines.base import ScoreJob
from models.engines.device_runner import DeviceRunner, DeviceSettings
from models.engines.fairslate import FairslateEngine, RunnerEngine
from models.errors import ModelDirectoryError
from models.head_card import HeadCard
from models.prompt import block_hashes
from tests.models.families import random_model, store

# Measured 1.2e-5 at most; raw logits span -7 to 7.
TOLERANCE = 2.4e-5
CONTEXT = tuple(range(10, 80))
CANDIDATES = ((5, 6, 7), tuple(range(200, 240)), (9,))
JOB = ScoreJob(CONTEXT, block_hashes(CONTEXT, 16), CANDIDATES)
GRADED = HeadCard(classes={"0": 0, "1": 1, "2": 3})
APPLY = HeadCard(classes={"2": 1}, calibration=Calibration(scale=0.5))
CLICK = HeadCard(labels={" yes": 1, " no": 0}, calibration=Calibration(shift=0.5))
STARS = HeadCard(labels={"a": 1, "b": 2, "c": 4})


def with_heads(card: ModelCard, **heads: HeadCard) -> ModelCard:
    return replace(card, labels=None, calibration=Calibration(), heads=heads)


def last_logits(model: Any) -> Tensor:
    """What transformers says at each candidate's end: (candidates, outputs) in fp64."""
    rows = [model(torch.tensor([CONTEXT + ids])).logits[0] for ids in CANDIDATES]
    return torch.stack([row if row.ndim == 1 else row[-1] for row in rows]).double()


def log_odds(logits: Tensor, gains: list[float]) -> list[float]:
    p, g = logits.softmax(1), torch.tensor(gains, dtype=torch.float64)
    odds: list[float] = ((p @ g).log() - (p @ (1 - g)).log()).tolist()
    return odds


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_of_every_family_scores_as_transformers_does(
    family: str, tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> None:
    model = random_model(family, {"sliding_window": None}, labels=3)
    card = with_heads(tiny_card, relevance=GRADED, apply=APPLY)
    directory = load_model_directory(store(model, tmp_path, tiny_tokenizer_path, card))
    engine, logits = FairslateEngine(directory, 1 << 20), last_logits(model)
    (answer,) = engine.score([JOB])
    assert answer.heads == 2
    want = log_odds(logits, [0, 1 / 3, 1])
    assert answer.of_head(0) == pytest.approx(want, abs=TOLERANCE, rel=0)
    assert answer.of_head(1) == pytest.approx(logits[:, 2].tolist(), abs=TOLERANCE, rel=0)
    assert engine.drain_label_mass() == ()


@pytest.fixture
def named(
    tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> tuple[Any, ModelDirectory]:
    """A language model with two heads of label tokens."""
    model = random_model("qwen3", {"head_dim": 16})
    card = with_heads(tiny_card, click=CLICK, stars=STARS)
    return model, load_model_directory(store(model, tmp_path, tiny_tokenizer_path, card))


def test_named_heads_of_labels_score_side_by_side(named: tuple[Any, ModelDirectory]) -> None:
    model, directory = named
    logits, (click, stars) = last_logits(model), directory.prompt.heads
    settings = DeviceSettings(device="cpu", precision="fp32", token_buckets=(128, 256))
    engines = [
        FairslateEngine(directory, 1 << 20),
        RunnerEngine(DeviceRunner.from_directory(directory, 1 << 20, settings)),
    ]
    for engine in engines:
        (answer,) = engine.score([JOB])
        want = log_odds(logits[:, list(click.rows)], [1, 0])
        assert answer.of_head(0) == pytest.approx(want, abs=TOLERANCE, rel=0)
        want = log_odds(logits[:, list(stars.rows)], [0, 1 / 3, 1])
        assert answer.of_head(1) == pytest.approx(want, abs=TOLERANCE, rel=0)


def test_mass_of_the_labels_is_sampled_while_it_serves(named: tuple[Any, ModelDirectory]) -> None:
    model, directory = named
    engine = FairslateEngine(directory, 1 << 20)
    for _ in range(3):
        engine.score([JOB])
    labels = [row for head in directory.prompt.heads for row in head.rows]
    want = last_logits(model).softmax(1)[:, labels].sum(1).tolist()
    assert engine.drain_label_mass() == pytest.approx(want, rel=1e-4)
    assert engine.drain_label_mass() == ()


@pytest.mark.parametrize(
    ("heads", "labels", "message"),
    [
        ({"click": CLICK}, 3, "is a classifier; grade classes in head 'click'"),
        ({"grade": GRADED}, 0, "is no classifier; grade labels in head 'grade'"),
        ({"grade": GRADED}, 2, "names class 2, but the model has 0 to 1"),
        ({"x": HeadCard(labels={"a": 0, "yes no": 1})}, 0, "'yes no' is 2 tokens"),
    ],
)
def test_heads_that_the_model_lacks_are_refused(
    tiny_tokenizer_path: Path,
    tiny_card: ModelCard,
    tmp_path: Path,
    heads: dict[str, HeadCard],
    labels: int,
    message: str,
) -> None:
    model = random_model("llama", {}, labels=labels)
    store(model, tmp_path, tiny_tokenizer_path, with_heads(tiny_card, **heads))
    with pytest.raises(ModelDirectoryError, match=message):
        load_model_directory(tmp_path)


def test_a_tokenizer_of_a_larger_model_is_refused(
    tiny_tokenizer_path: Path, tiny_card: ModelCard, tmp_path: Path
) -> None:
    model = random_model("llama", {"vocab_size": 320})
    store(model, tmp_path, tiny_tokenizer_path, tiny_card)
    with pytest.raises(ModelDirectoryError, match=r"knows tokens up to \d+, .* vocab_size 320"):
        load_model_directory(tmp_path)
