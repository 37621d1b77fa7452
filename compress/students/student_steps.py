"""What one step of a student's training reads and computes. Knows no schedule, clock or teacher.

Every step draws slates that a teacher has labelled or will; two steps in five are of mixed worlds,
which only the teacher can grade.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.data.sampling import Draw, Slates, framed
from compress.data.worlds import TokenWorld, WorldSource
from compress.decoders.slates import SlateBatch, score_slates
from compress.decoders.wiring import JOB, LABELS, MEMBER, layers_of, movable_embeddings
from compress.students.bags import score_bags
from compress.students.student import student_loss
from models.decoder import Decoder

DRAWING, FRAMING = 3, 4  # seeds
MIXED_EVERY = 5
MIXED = (1, 3)  # of every MIXED_EVERY steps
Arrays = tuple[Any, ...]
BagBatch = tuple[int, Slates]
FullBatch = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int8], Arrays]


def is_mixed(step: int) -> bool:
    """Whether the texts of a step are of no listed occupation."""
    return step % MIXED_EVERY in MIXED


@dataclass(frozen=True, slots=True)
class StudentRates:
    """Peak rates, and the loss's parts; see compress.students.student.student_loss."""

    embedding: float
    rest: float
    temperature: float = 2.0
    truth_share: float = 0.3
    token_dropout: float = 0.15
    weight_decay: float = 0.01


@dataclass(frozen=True, slots=True)
class StepDraws:
    """Which members and postings make a step's slates, before their texts or labels are known."""

    source: WorldSource
    slates: int
    candidates: int
    inverted_share: float

    def __call__(self, step: int) -> Draw:
        """A function of (seed, step) alone."""
        random = np.random.default_rng([self.source.seed, DRAWING, step])
        return self.source.draw(random, self.slates, self.candidates, self.inverted_share)


@dataclass(frozen=True, slots=True)
class StudentSteps:
    """Slates of every step, as bags and packed for the whole decoder."""

    draw: StepDraws
    world_of: Callable[[int], TokenWorld]  # by labelled step
    labels_of: Callable[[int], Tensor]  # by labelled step: (slates, candidates) log-odds
    labelled: int  # steps that have labels; later ones start over with other words left out
    device: torch.device
    parts: int = 2  # steps of the whole decoder that share one labelled step

    def bags(self, step: int, token_dropout: float) -> BagBatch:
        """All slates of a step."""
        random = np.random.default_rng([self.draw.source.seed, FRAMING, step])
        step %= self.labelled
        texts = self.world_of(step).student
        members, postings = texts
        return step, framed(self.draw(step), members, postings, token_dropout, random)

    def full(self, step: int, token_dropout: float) -> FullBatch:
        """One of the `parts` of a step's slates."""
        labelled, drawn = self.bags(step // self.parts, token_dropout)
        rows = np.arange(step % self.parts, len(drawn.contexts), self.parts)
        slates = [[drawn.candidates[index] for index in drawn.slates[row]] for row in rows]
        batch = SlateBatch.pack([drawn.contexts[row] for row in rows], slates)
        return labelled, rows, drawn.grades[rows], as_arrays(batch)

    def bag_loss(self, decoder: Decoder, batch: BagBatch, rates: StudentRates) -> Tensor:
        """Of the bags, on which nothing but embeddings and the last layer acts."""
        step, drawn = batch
        role = JOB if drawn.jobs_are_candidates else MEMBER
        slates = torch.as_tensor(drawn.slates, device=self.device)
        logits = score_bags(decoder, drawn.contexts, drawn.candidates, slates, role)
        return self._loss(logits, step, self.labels_of(step), drawn.grades, rates)

    def full_loss(self, decoder: Decoder, batch: FullBatch, rates: StudentRates) -> Tensor:
        """Of the whole decoder."""
        step, rows, grades, arrays = batch
        labels = self.labels_of(step)[torch.from_numpy(rows)]
        return self._loss(score_arrays(decoder, arrays, self.device), step, labels, grades, rates)

    def _loss(
        self,
        logits: Tensor,
        step: int,
        labels: Tensor,
        grades: npt.NDArray[np.int8],
        rates: StudentRates,
    ) -> Tensor:
        truth = None if is_mixed(step) else torch.from_numpy(grades).to(self.device)
        teacher = labels.to(self.device).float()
        return student_loss(logits, teacher, truth, rates.temperature, rates.truth_share)


def as_arrays(batch: SlateBatch) -> Arrays:
    """What processes hand over more cheaply than tensors; the shape comes last."""
    names = [item.name for item in fields(batch) if item.name != "shape"]
    return (*(getattr(batch, name).numpy() for name in names), batch.shape)


def score_arrays(decoder: Decoder, arrays: Arrays, device: torch.device) -> Tensor:
    """Raw logits (S, C), on `device`."""
    names = [item.name for item in fields(SlateBatch) if item.name != "shape"]
    tensors = {
        name: torch.from_numpy(array).to(device)
        for name, array in zip(names, arrays[:-1], strict=True)
    }
    with device:
        return score_slates(decoder, SlateBatch(**tensors, shape=arrays[-1]), LABELS)


def bag_weights(decoder: Decoder) -> tuple[nn.Parameter, list[nn.Parameter]]:
    """The embedding, whose reserved parts get no gradient from now on, and the rest bags touch."""
    for layer in layers_of(decoder)[:-1]:
        layer.requires_grad_(False)
    embedding = cast("nn.Parameter", decoder.model.embed_tokens.weight)
    movable = movable_embeddings(embedding.detach())
    embedding.register_hook(lambda gradient: gradient * movable)  # type: ignore[no-untyped-call]
    return embedding, [*layers_of(decoder)[-1].parameters(), *decoder.model.norm.parameters()]


def full_weights(decoder: Decoder) -> tuple[nn.Parameter, list[nn.Parameter]]:
    """The embedding and everything else."""
    embedding = cast("nn.Parameter", decoder.model.embed_tokens.weight)
    return embedding, [weight for weight in decoder.parameters() if weight is not embedding]


def student_optimizer(
    weights: tuple[nn.Parameter, list[nn.Parameter]], rates: StudentRates, fused: bool
) -> torch.optim.Optimizer:
    """AdamW with the embedding at its own rate."""
    embedding, rest = weights
    groups = [
        {"params": [embedding], "lr": rates.embedding, "weight_decay": 0.0},
        {"params": rest, "lr": rates.rest, "weight_decay": rates.weight_decay},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=fused)


@torch.no_grad()
def blended(trained: Decoder, source: Decoder, share: float) -> None:
    """Moves `trained` back towards `source` in place (WiSE-FT; see compress.students.train)."""
    for weight, origin in zip(trained.parameters(), source.parameters(), strict=True):
        weight.lerp_(origin, 1 - share)
