"""Words from requests alone: names become tokens, draws repeat, and the decoder learns to rank."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from compress import request_lexicon
from compress.data import load_requests
from compress.intervals import values
from compress.request_lexicon import RequestBags, RequestLexiconOptions, name_tokenizer
from compress.scorers import open_scorer, scored_by
from compress.stage import RecipeError, StageInput
from compress.tokenizer import MARKERS

NAMES = ["The Horse (1998)", "Little Women (1994)", "Rob Roy (1995)", "Cape Fear (1991)"]
OPTIONS = {"name": "films", "vocab_size": 400, "steps": 30, "slates": 8, "candidates": 3}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve users who all like the first two names."""
    folder = tmp_path_factory.mktemp("films")
    items = [{"id": i, "text": f"{name} - Drama, War"} for i, name in enumerate(NAMES)]
    row = {"prefix": f"Liked: {NAMES[0]}. Not liked: {NAMES[3]}.", "cand": [0, 3, 1, 2]}
    rows = [row | {"qid": str(u), "user": u, "label": [1, 0, 1, 0]} for u in range(12)]
    for name, content in (("items", items), ("train", rows), ("valid", rows)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in content)
    return folder


def test_a_frequent_name_is_one_token_and_no_token_spans_two() -> None:
    tokenizer = name_tokenizer([f"Liked: {'; '.join(NAMES)}."] * 9, 500)
    tokens = tokenizer.encode(f"{NAMES[0]} - Drama; {NAMES[1]}").tokens
    assert tokens[0].replace("Ġ", " ") == NAMES[0].lower()
    assert tokens[-1].replace("Ġ", " ") == NAMES[1].lower()


def test_draws_repeat_and_carry_the_labels(data: Path) -> None:
    requests = load_requests(data, "train")
    tokenizer = name_tokenizer([text for r in requests for text in r.candidates], 400)
    options = RequestLexiconOptions(**OPTIONS, token_dropout=0.0)  # type: ignore[arg-type]
    bags = RequestBags.of(tokenizer, requests, options, seed=2)
    (_, first, places, grades), (_, again, _, _) = bags.draw(3), bags.draw(3)
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert grades.shape == places.shape == (8, 3)
    liked = {tuple(tokenizer.encode(f"{name} - Drama, War").ids) for name in NAMES[:2]}
    for place, grade in zip(places.flatten(), grades.flatten(), strict=True):
        assert (tuple(first[place][1:-1]) in liked) == (grade == 2)


def test_the_decoder_ranks_as_its_bags_learned(data: Path, tmp_path: Path) -> None:
    stage = StageInput(None, data, tmp_path / "out", tmp_path / "work", seed=1, threads=1)
    request_lexicon.run(stage, OPTIONS)
    scored = scored_by(open_scorer(tmp_path / "out"), load_requests(data, "valid"))
    assert values(scored)["uauc"] == 1
    words = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert [words.token_to_id(marker) for marker in MARKERS] == list(range(len(MARKERS)))


def test_too_few_requests_are_refused(data: Path, tmp_path: Path) -> None:
    stage = StageInput(None, data, tmp_path / "out", tmp_path / "work", seed=1, threads=1)
    with pytest.raises(RecipeError, match="lower slates"):
        request_lexicon.run(stage, OPTIONS | {"slates": 64})
