"""Which words may stand for which: near ones, and never what every text says."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from compress.students.neighbours import MOST, neighbours_of


def test_near_words_stand_for_each_other_nearest_first() -> None:
    tokens = ["weld", "##ing", "braze", "solder", "nurse", "headline", "the", "ax", "<yes>"]
    angles = torch.tensor([0.0, 0.0, 0.3, 0.1, 2.0, 0.0, 0.0, 0.0, 0.0])
    vectors = torch.stack((angles.cos(), angles.sin()), 1)
    assert neighbours_of(tokens, vectors) == {
        "weld": ["solder", "braze"],
        "braze": ["solder", "weld"],
        "solder": ["weld", "braze"],
    }


def test_a_word_has_few_neighbours() -> None:
    tokens = [f"word{chr(97 + i)}" for i in range(20)]
    near = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 0.1 + 1
    found = neighbours_of(tokens, F.normalize(near, dim=1))
    assert {len(others) for others in found.values()} == {MOST}
    assert all(word not in others for word, others in found.items())
