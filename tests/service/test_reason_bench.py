"""The benchmark of reasons measures what it says it does. Knows no speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from service.base.config import Settings
from service.reason_bench import POSTINGS, Round, measure


def test_the_weight_is_where_a_second_of_either_is_charged_alike() -> None:
    found = Round(1, 0.010, 70, 10, 0.002, 100)
    per_ranking_token = found.ranking_seconds / found.ranking_tokens
    charged = found.extend_tokens + found.output_weight * found.output_tokens
    assert round(charged * per_ranking_token, 9) == found.reason_seconds


@pytest.fixture
def one_thread() -> Iterator[Settings]:
    threads = torch.get_num_threads()
    yield Settings(threads=1)
    torch.set_num_threads(threads)


def test_a_row_counts_what_was_read_and_written(one_thread: Settings) -> None:
    row = measure(one_thread, members=1, rounds=1, batch=POSTINGS)
    (found,) = row["rounds"]
    assert found["reasons"] == POSTINGS
    assert row["output_tokens"] == found["output_tokens"] / POSTINGS > 5
    assert row["extend_tokens"] == found["extend_tokens"] / POSTINGS > 20
    assert found.keys() == {field.name for field in dataclasses.fields(Round)}
