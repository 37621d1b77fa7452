"""Writing with a cache of keys and values against a whole pass a token; copying."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from compress.decoders.copy_wiring import wire_copying
from compress.decoders.decoding import Sampling, write_answers
from compress.decoders.sequences import SequenceBatch, answer_states
from compress.decoders.sizes import decoder_config
from compress.reasons.reasoner import ReasonerOptions
from models.decoder import Decoder

PROMPTS = [[5, 9, 3], [7], [4, 4, 8, 2, 6]]


def _one_by_one(decoder: Decoder, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy, everything computed anew for each token."""
    answer: list[int] = []
    for _ in range(count):
        batch = SequenceBatch.pack([[*prompt, *answer]], [[0]])
        with torch.no_grad():
            logits = answer_states(decoder, batch) @ decoder.output_embedding.T
        answer.append(int(logits.argmax()))
    return answer


def test_the_cache_changes_nothing(tiny_decoder: Decoder) -> None:
    answers = write_answers(tiny_decoder, PROMPTS, Sampling(end=-1, new_tokens=6))
    assert answers == [_one_by_one(tiny_decoder, prompt, 6) for prompt in PROMPTS]


def test_an_answer_stops_at_its_end(tiny_decoder: Decoder) -> None:
    whole = write_answers(tiny_decoder, PROMPTS, Sampling(end=-1, new_tokens=6))
    end = whole[0][2]
    for answer, longer in zip(
        write_answers(tiny_decoder, PROMPTS, Sampling(end, 6)), whole, strict=True
    ):
        stop = longer.index(end) + 1 if end in longer else 6
        assert answer == longer[:stop]


def test_sampling_repeats_with_its_seed_and_follows_its_temperature(tiny_decoder: Decoder) -> None:
    def drawn(seed: int, temperature: float) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        sampling = Sampling(-1, 5, temperature)
        return write_answers(tiny_decoder, PROMPTS, sampling, generator)

    assert drawn(1, 1.0) == drawn(1, 1.0) != drawn(2, 1.0)
    assert drawn(1, 1e-4) == write_answers(tiny_decoder, PROMPTS, Sampling(-1, 5))


def test_packed_sequences_are_independent(tiny_decoder: Decoder) -> None:
    answers = [[1, 2], [3], []]
    packed = answer_states(tiny_decoder, SequenceBatch.pack(PROMPTS, answers))
    alone = [
        answer_states(tiny_decoder, SequenceBatch.pack([prompt], [answer]))
        for prompt, answer in zip(PROMPTS, answers, strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def copier() -> Decoder:
    torch.manual_seed(1)
    decoder = Decoder(decoder_config(ReasonerOptions(), 600)).requires_grad_(False)
    wire_copying(decoder)
    return decoder


def test_a_wired_decoder_continues_as_before(copier: Decoder) -> None:
    random = np.random.default_rng(2)
    right = 0
    for _ in range(4):
        text = random.permutation(600)[:120].tolist()
        start = int(random.integers(5, 100))
        answer = write_answers(copier, [[*text, text[start]]], Sampling(-1, 8))[0]
        right += sum(a == b for a, b in zip(answer, text[start + 1 :], strict=False))
    assert right >= 28  # of 32
