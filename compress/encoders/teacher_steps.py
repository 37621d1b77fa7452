"""What one step of a teacher's training reads and computes. Knows no schedule, clock or files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.data.sampling import Draw
from compress.data.worlds import TokenWorld, WorldSource
from compress.decoders.losses import slate_loss
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import (
    Chunks,
    SpecialTokens,
    joint_chunks,
    joint_logits,
    tower_chunks,
    tower_logits,
    tower_vectors,
)
from compress.stages.passes import WIDE, pass_dtype

JOINT, TOWERS = "joint", "towers"
PARTS = (TOWERS, JOINT)
SEEDS = {TOWERS: 11, JOINT: 12}
Batch = tuple[Draw, Chunks]


@dataclass(frozen=True, slots=True)
class TeacherRates:
    """Peak rates of a part's encoder and of its head, and what is left out of texts and passes."""

    encoder: float = 1e-4
    head: float = 1e-3
    weight_decay: float = 0.01
    token_dropout: float = 0.1
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class TeacherSteps:
    """Batches and losses of both parts. A joint step reads `slates` slates of pairs, a step of the
    towers reads a whole world, each text once, and compares what a slate of every context holds.
    """

    source: WorldSource
    world_of: Callable[[int], TokenWorld]  # by step
    special: SpecialTokens
    device: torch.device
    slates: int
    candidates: int
    inverted_share: float
    rates: TeacherRates
    chunk: int  # rows that one pass takes
    cpu_passes: str = WIDE

    def batch(self, part: str, step: int) -> Batch:
        """A function of (seed, part, step) alone."""
        random = np.random.default_rng([self.source.seed, SEEDS[part], step])
        texts, dropout = self.world_of(step).encoder, self.rates.token_dropout
        count = self.slates if part == JOINT else len(self.source.occupations)
        drawn = self.source.draw(random, count, self.candidates, self.inverted_share)
        if part == JOINT:
            return drawn, joint_chunks(drawn, texts, self.special, self.chunk, dropout, random)
        return drawn, tower_chunks(texts, self.special, self.chunk, dropout, random)

    def loss(self, model: PairEncoder, batch: Batch) -> Tensor:
        """The slates' loss against the tiers' grades."""
        drawn, chunks = batch
        logits = self.logits(model, drawn, chunks, self.rates.dropout)
        return slate_loss(logits, torch.as_tensor(drawn.grades, device=self.device))

    def logits(self, model: PairEncoder, drawn: Draw, chunks: Chunks, dropout: float) -> Tensor:
        """(S, C)."""
        if model.joint:
            pairs = joint_logits(model, chunks, self.device, self.dtype, dropout)
            return pairs.view(drawn.chosen.shape)
        vectors = tower_vectors(model, chunks, self.device, self.dtype, dropout)
        return tower_logits(model, drawn, vectors)

    @property
    def dtype(self) -> torch.dtype:
        """Of the pass."""
        return pass_dtype(self.device, self.cpu_passes)

    def optimizer(self, model: PairEncoder) -> torch.optim.Optimizer:
        """The words' vectors stay: what training texts lack must go on meaning what it did."""
        model.encoder.embeddings["word_embeddings"].requires_grad_(False)
        body = [weight for weight in model.encoder.parameters() if weight.requires_grad]
        heads = [*model.hidden.parameters(), *model.out.parameters(), model.cosine]
        groups = [
            {"params": body, "lr": self.rates.encoder},
            {"params": heads, "lr": self.rates.head},
        ]
        return torch.optim.AdamW(
            groups,
            betas=(0.9, 0.98),
            weight_decay=self.rates.weight_decay,
            fused=self.device.type == "cuda",
        )
