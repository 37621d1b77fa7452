"""Scoring heads against the full output's softmax in fp64, and what a label head must not lose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.decoder import Decoder
from models.head_card import HeadOutputs, yes_no
from models.heads import ScoringHeads

# Measured 5.4e-6 at most.
TOLERANCE = 1.1e-5
GRADES = HeadOutputs("grade", (5, 90, 17, 300), (0.0, 1 / 3, 2 / 3, 1.0))
SYNONYMS = HeadOutputs("click", (7, 8, 9), (1.0, 1.0, 0.0))
ROW = HeadOutputs("dwell", (2,), (1.0,))


@pytest.fixture
def hidden(tiny_decoder: Decoder) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, tiny_decoder.config.hidden_size, generator=generator)


def outputs(decoder: Decoder, hidden: Tensor) -> Tensor:
    """All logits in fp64."""
    x = hidden.double()
    x = x / (x.square().mean(1, keepdim=True) + decoder.config.rms_norm_eps).sqrt()
    return (x * decoder.model.norm.weight) @ decoder.output_embedding.double().T


def expected(logits: Tensor, head: HeadOutputs) -> Tensor:
    """logit of the expected gain, as the formula says, with no 1 - p that would cancel."""
    p = logits[:, list(head.rows)].softmax(1)
    gains = torch.tensor(head.gains, dtype=torch.float64)
    return (p @ gains).log() - (p @ (1 - gains)).log()


def test_two_labels_are_their_difference(tiny_decoder: Decoder, hidden: Tensor) -> None:
    logits = outputs(tiny_decoder, hidden)
    for head in (yes_no((17, 4)), yes_no((4, 17))):
        yes, no = head[0].rows
        got = ScoringHeads.of(tiny_decoder, head).raw_logits(hidden)
        want = (logits[:, yes] - logits[:, no]).float()
        torch.testing.assert_close(got[:, 0], want, atol=TOLERANCE, rtol=0)
    worst_first = [HeadOutputs("score", (4, 17), (0.0, 1.0))]
    got = ScoringHeads.of(tiny_decoder, worst_first).raw_logits(hidden)
    want = (logits[:, 17] - logits[:, 4]).float()
    torch.testing.assert_close(got[:, 0], want, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("head", [GRADES, SYNONYMS])
def test_several_labels_give_the_log_odds_of_the_expected_grade(
    tiny_decoder: Decoder, hidden: Tensor, head: HeadOutputs
) -> None:
    got = ScoringHeads.of(tiny_decoder, [head]).raw_logits(hidden)
    want = expected(outputs(tiny_decoder, hidden), head).float()
    torch.testing.assert_close(got[:, 0], want, atol=TOLERANCE, rtol=0)


def test_heads_of_all_kinds_stand_side_by_side(tiny_decoder: Decoder, hidden: Tensor) -> None:
    heads = [ROW, GRADES, *yes_no((17, 4)), SYNONYMS]
    together = ScoringHeads.of(tiny_decoder, heads).to(torch.device("cpu")).raw_logits(hidden)
    alone = [ScoringHeads.of(tiny_decoder, [head]).raw_logits(hidden) for head in heads]
    torch.testing.assert_close(together, torch.cat(alone, 1), atol=TOLERANCE, rtol=0)
    row = outputs(tiny_decoder, hidden)[:, 2].float()
    torch.testing.assert_close(together[:, 0], row, atol=TOLERANCE, rtol=0)


def test_a_head_of_two_labels_reads_one_row(tiny_decoder: Decoder) -> None:
    assert ScoringHeads.of(tiny_decoder, yes_no((17, 4))).rows.shape == (1, 64)


def test_certainty_stays_finite(tiny_decoder: Decoder, hidden: Tensor) -> None:
    """A probability that rounds to 1 still ranks: only its logit tells such candidates apart."""
    sharp = Decoder(tiny_decoder.config).requires_grad_(False)
    sharp.load_state_dict(tiny_decoder.state_dict())
    sharp.model.norm.weight.mul_(100)
    got = ScoringHeads.of(sharp, [GRADES]).raw_logits(hidden)
    assert got.isfinite().all()
    assert got.abs().max() > 50


def test_a_classifier_is_read_by_its_own_rows(tiny_decoder: Decoder, hidden: Tensor) -> None:
    decoder = Decoder(replace(tiny_decoder.config, num_labels=3)).requires_grad_(False)
    head = HeadOutputs("grade", (0, 1, 2), (0.0, 0.5, 1.0))
    got = ScoringHeads.of(decoder, [head]).raw_logits(hidden)
    want = expected(outputs(decoder, hidden), head).float()
    torch.testing.assert_close(got[:, 0], want, atol=TOLERANCE, rtol=0)
