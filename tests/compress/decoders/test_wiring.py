"""The wired decoder: the whole pass equals its bags, and starts out matching words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.data.sampling import (
    JOB_CANDIDATE,
    JOB_CONTEXT,
    MATCH,
    MEMBER_CANDIDATE,
    MEMBER_CONTEXT,
)
from compress.decoders.slates import SlateBatch, score_slates
from compress.decoders.wiring import JOB, LABELS, MEMBER
from compress.students.bags import score_bags
from models.decoder import Decoder

Ids = np.ndarray[tuple[int], np.dtype[np.int64]]


def _texts(random: np.random.Generator, head: int, tail: tuple[int, ...], count: int) -> list[Ids]:
    lengths = random.integers(20, 40, size=count)
    return [np.array([head, *random.integers(8, 400, size=n), *tail]) for n in lengths]


@pytest.mark.parametrize(
    ("context", "candidate", "role"),
    [(MEMBER_CONTEXT, JOB_CANDIDATE, JOB), (JOB_CONTEXT, MEMBER_CANDIDATE, MEMBER)],
)
def test_the_decoder_scores_as_its_bags_do(
    wired: Decoder, context: int, candidate: int, role: float
) -> None:
    random = np.random.default_rng(5)
    contexts = _texts(random, context, (), 4)
    candidates = _texts(random, candidate, (MATCH,), 24)
    slates = np.arange(24).reshape(4, 6)
    bags = score_bags(wired, contexts, candidates, torch.from_numpy(slates), role)
    batch = SlateBatch.pack(contexts, [[candidates[i] for i in row] for row in slates])
    whole = score_slates(wired, batch, LABELS)
    # What differs: positions still turn slowly, and a role mark leaks a few parts in a thousand.
    assert (bags - whole).abs().max() < 0.1 * bags.std()


def test_before_training_it_prefers_shared_words(wired: Decoder) -> None:
    random = np.random.default_rng(6)
    contexts = _texts(random, MEMBER_CONTEXT, (), 400)
    same = [np.array([JOB_CANDIDATE, *ids[1:], MATCH]) for ids in contexts]
    other = _texts(random, JOB_CANDIDATE, (MATCH,), 400)
    slates = torch.stack((torch.arange(400), torch.arange(400, 800)), dim=1)
    raw_logits = score_bags(wired, contexts, same + other, slates, JOB)
    # Chance is 0.5 with a standard error of 0.025.
    assert (raw_logits[:, 0] > raw_logits[:, 1]).float().mean() > 0.575
