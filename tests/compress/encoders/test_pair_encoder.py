"""Pairs and towers: what is padding, order or chunk must not show in a logit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compress.encoders.encoder import load_encoder
from compress.encoders.pair_encoder import PairEncoder, TextBatch, by_length
from compress.encoders.pair_slates import Chunks, joint_logits, tower_vectors
from tests.compress.small_encoders import VOCABULARY, write_encoder

CPU, FP32 = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module", params=[True, False], ids=["joint", "towers"])
def model(request: pytest.FixtureRequest, directory: Path) -> PairEncoder:
    model = PairEncoder(load_encoder(directory), joint=request.param).requires_grad_(False)
    torch.nn.init.normal_(model.out.weight)
    return model


def _texts(lengths: tuple[int, ...], seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(4, len(VOCABULARY), length) for length in lengths]


def test_packing_joins_both_texts_and_says_where_the_second_begins() -> None:
    batch = TextBatch.pack([np.array([5, 6]), np.array([7])], [np.array([8]), np.array([9, 4])])
    assert batch.token_ids.tolist() == [[5, 6, 8, *[0] * 5], [7, 9, 4, *[0] * 5]]
    assert batch.boundaries.tolist() == [2, 1]
    assert batch.lengths.tolist() == [3, 3]


def test_chunks_answer_as_single_rows_do(model: PairEncoder) -> None:
    firsts, seconds = _texts((3, 9, 5, 12, 4), 0), _texts((8, 2, 6, 3, 7), 1)

    def answer(rows: list[int], size: int) -> torch.Tensor:
        first, second = [firsts[i] for i in rows], [seconds[i] for i in rows]
        if model.joint:
            return joint_logits(model, Chunks.pack(first, second, size), CPU, FP32, 0.0)
        return tower_vectors(model, Chunks.pack(first, None, size), CPU, FP32, 0.0)

    alone = torch.cat([answer([row], 1) for row in range(5)])
    torch.testing.assert_close(answer([0, 1, 2, 3, 4], 2), alone, atol=1e-5, rtol=1e-4)
    assert alone.flatten().std() > 0.01


def test_an_untrained_head_ranks_by_cosine(directory: Path) -> None:
    model = PairEncoder(load_encoder(directory), joint=False)
    x = torch.nn.functional.normalize(torch.randn(4, 32), dim=-1)
    with torch.inference_mode():
        gain, shift = model.cosine
        expected = gain * torch.tensor([float(x[0] @ other) for other in x]) + shift
        torch.testing.assert_close(model.compare(x[:1].expand(4, -1), x), expected)


def test_rows_of_like_length_stand_together() -> None:
    lengths = np.array([9, 1, 8, 2, 7])
    parts = by_length(lengths, 2)
    assert [lengths[part].tolist() for part in parts] == [[1, 2], [7, 8], [9]]
