"""Label mass against the softmax over the whole vocabulary, and how rarely it is measured."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models import label_mass
from models.decoder import Decoder
from models.head_card import HeadOutputs, yes_no
from models.label_mass import EVERY, MOST_ROWS, LabelMass

MEMORY = """
import torch
from models import label_mass
from models.allocator import keep_freed_memory
from models.benches.memory import resident_mb
from models.benches.shapes import TINY, random_decoder
from models.head_card import yes_no
from models.label_mass import LabelMass

keep_freed_memory()
label_mass.SLICE = 1024
mass = LabelMass(random_decoder(TINY, torch.device("cpu")), yes_no((3, 5)))
mass._embedding = torch.zeros(64 * 1024, 1024, dtype=torch.bfloat16)
mass._norm_weight = torch.ones(1024)
hidden = torch.randn(4, 1024)
before = resident_mb()
mass.measure(hidden)
print(round(resident_mb() - before))
"""
HEADS = [*yes_no((17, 4)), HeadOutputs("grade", (17, 90, 300), (0.0, 0.5, 1.0))]


@pytest.fixture
def hidden(tiny_decoder: Decoder) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, tiny_decoder.config.hidden_size, generator=generator)


@pytest.mark.parametrize("rows", [64, 8192])
def test_mass_is_the_labels_part_of_the_softmax(
    tiny_decoder: Decoder, hidden: Tensor, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(label_mass, "SLICE", rows)
    logits = tiny_decoder.model.norm(hidden) @ tiny_decoder.output_embedding.T
    want = logits.softmax(1)[:, [4, 17, 90, 300]].sum(1).tolist()
    got = LabelMass(tiny_decoder, HEADS).measure(hidden)
    assert got == pytest.approx(want, rel=1e-5)  # measured 4.6e-6
    assert all(0 < mass < 1 for mass in got)


def test_slices_of_the_vocabulary_take_the_same_memory_one_after_another() -> None:
    """Each widens 4 MB, of 64 there are 256."""
    run = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True)
    assert int(run.stdout) < 64


def test_a_few_rows_of_the_second_pass_and_of_every_so_many_are_measured(
    tiny_decoder: Decoder, hidden: Tensor
) -> None:
    mass = LabelMass(tiny_decoder, HEADS)
    counts = []
    for _ in range(EVERY + 2):
        mass.observe(hidden)
        mass.observe(hidden[:0])
        counts.append(len(mass.drain()))
    measured = [index for index, count in enumerate(counts) if count]
    assert measured == [1, EVERY + 1]
    assert 0 < counts[1] <= MOST_ROWS


def test_a_classifier_has_no_mass(tiny_decoder: Decoder, hidden: Tensor) -> None:
    decoder = Decoder(replace(tiny_decoder.config, num_labels=3)).requires_grad_(False)
    mass = LabelMass(decoder, [HeadOutputs("grade", (0, 1, 2), (0.0, 0.5, 1.0))])
    for _ in range(3):
        mass.observe(hidden)
    assert mass.drain() == ()
