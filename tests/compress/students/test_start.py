"""A start from requests alone: a decoder of the sizes asked for, fit to go on from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from compress.data.request_bags import FewCandidatesError
from compress.data.requests import read_rows
from compress.distillation import distill
from compress.stages.stage import RecipeError, Shape, StageInput, parse_options
from compress.students import start
from models.checkpoint import load_model_directory
from models.directory import TOKENIZER_NAME
from tests.compress.slate_data import stage_input, write_slates

SIZES = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 128}


def test_it_starts_a_ranker_that_can_learn(tmp_path: Path) -> None:
    data, out = write_slates(tmp_path / "data"), tmp_path / "start"
    start.run(StageInput(None, data, out, tmp_path / "work", seed=5, threads=1), SIZES)
    directory = load_model_directory(out)
    assert directory.config.hidden_size == 128
    assert directory.card.lineage["stages"][0]["options"]["vocab_size"] == 320
    words = Tokenizer.from_file(str(out / TOKENIZER_NAME))
    assert words.encode("grade").tokens == ["Ġgrade"]  # of candidates
    assert "years" in words.encode("years").tokens  # of contexts
    options = {"phases": [{"steps": 2, "soft_share": 0.0}], "slates_of": "requests", "teachers": []}
    distill.run(stage_input(out, data, tmp_path / "taught"), options)
    assert len(load_model_directory(tmp_path / "taught").card.lineage["stages"]) == 2


def _liked_by_word(data: Path) -> Path:
    """The first half of the words is liked by everybody."""
    path = data / "train.jsonl.gz"
    rows = [
        row | {"label": [int(int(item) < 20) for item in row["cand"]]} for row in read_rows(path)
    ]
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return data


def test_words_learned_from_bags_rank_what_they_were_shown(tmp_path: Path) -> None:
    data, out = _liked_by_word(write_slates(tmp_path / "data")), tmp_path / "start"
    options = SIZES | {
        "steps": 60,
        "slates": 16,
        "candidates": 10,
        "token_dropout": 0.0,
        "warmup": 3,
    }
    start.run(StageInput(None, data, out, tmp_path / "work", seed=5, threads=1), options)
    losses = json.loads((tmp_path / "work" / "losses.json").read_text())
    assert losses[-1] < 0.9 * losses[0]
    too_wide = StageInput(None, data, tmp_path / "no", tmp_path / "other", seed=5, threads=1)
    with pytest.raises(FewCandidatesError, match="ask for fewer"):
        start.run(too_wide, options | {"candidates": 11})


def test_its_cost_is_its_size() -> None:
    found = start.cost(parse_options(start.StartOptions, SIZES), None)
    assert isinstance(found.shape, Shape)
    assert (found.steps, found.shape.embeddings) == (0, 320 * 128)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    data = write_slates(tmp_path / "data")
    with pytest.raises(RecipeError, match="options are"):
        start.run(
            StageInput(None, data, tmp_path / "out", tmp_path / "work", seed=5, threads=1),
            {"colour": "red"},
        )
    for heads, width in ((4, 128), (3, 512)):
        with pytest.raises(RecipeError, match="an even number"):
            start.StartOptions(heads=heads, hidden_size=width, intermediate_size=width)
