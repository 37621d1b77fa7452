"""Recorded requests as bags: the texts between markers, their grades, the same ones every time."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from compress.data.request_bags import RequestBags
from compress.data.requests import RELEVANT, read_rows
from compress.data.sampling import JOB_CANDIDATE, MATCH, MEMBER_CONTEXT
from tests.compress.slate_data import write_slates


def test_bags_are_texts_between_markers(tmp_path: Path, word_tokenizer: Tokenizer) -> None:
    source = RequestBags.load(write_slates(tmp_path / "data"), word_tokenizer, 3, candidates=10)
    drawn = source.draw(5, 4, 6, dropout=0.0)
    assert drawn.slates.shape == drawn.grades.shape == (4, 6)
    assert {int(bag[0]) for bag in drawn.contexts} == {MEMBER_CONTEXT}
    by_text = {bag.tobytes(): text for text, bag in source.bags.items()}
    contexts = {request.context: request for request in source.requests}
    for context, slate, grades in zip(drawn.contexts, drawn.slates, drawn.grades, strict=True):
        request = contexts[by_text[context[1:].tobytes()]]
        for place, grade in zip(slate, grades, strict=True):
            bag = drawn.candidates[place]
            assert (bag[0], bag[-1]) == (JOB_CANDIDATE, MATCH)
            labels = zip(request.candidates, request.grades, strict=True)
            assert grade in {
                RELEVANT * label for text, label in labels if text == by_text[bag[1:-1].tobytes()]
            }


def test_requests_narrower_than_the_slates_are_left_out(
    tmp_path: Path, word_tokenizer: Tokenizer
) -> None:
    data = write_slates(tmp_path / "data")
    rows = list(read_rows(data / "train.jsonl.gz"))
    rows[0] |= {name: rows[0][name][:4] for name in ("cand", "label")}
    with gzip.open(data / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    source = RequestBags.load(data, word_tokenizer, 3, candidates=10)
    assert len(source.requests) == len(rows) - 1


def test_steps_repeat_and_words_are_left_out(tmp_path: Path, word_tokenizer: Tokenizer) -> None:
    source = RequestBags.load(write_slates(tmp_path / "data"), word_tokenizer, 3, candidates=10)
    one, two, other = (source.draw(step, 4, 6, dropout=0.5) for step in (1, 1, 2))
    pairs = zip(one.candidates, two.candidates, strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    assert one.grades.tolist() != other.grades.tolist()
    whole = source.draw(1, 4, 6, dropout=0.0)
    lengths = [sum(map(len, slates.candidates)) for slates in (one, whole)]
    assert 0.4 * lengths[1] < lengths[0] < 0.8 * lengths[1]
