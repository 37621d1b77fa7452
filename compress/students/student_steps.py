"""What one step of a student's training reads and computes. Knows no schedule, clock or teacher.

Every step draws slates that a teacher has labelled or will; those of worlds that no table grades
have no truth beside its labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.data.sampling import Bags, Draw, Slates, framed
from compress.data.worlds import TokenWorld, WorldSource
from compress.decoders.slates import SlateBatch, answer_logits, layer_states
from compress.decoders.wiring import JOB, LABELS, MEMBER, layers_of, movable_embeddings
from compress.students.bags import score_bags
from compress.students.student import student_loss
from compress.students.token_states import StateBatch, StateProbe, TeacherStates, unexplained
from compress.students.whole_batches import Arrays, as_slates, numbered, packed
from models.decoder import Decoder

DRAWING, FRAMING = 3, 4  # seeds
BagBatch = tuple[int, Slates]


@dataclass(frozen=True, slots=True)
class FullBatch:
    """Some of a labelled step's slates, packed."""

    step: int  # the labelled one
    rows: npt.NDArray[np.int64]  # (S,) of its slates
    grades: npt.NDArray[np.int8]  # (S, C)
    arrays: Arrays  # of the SlateBatch
    states: StateBatch | None


@dataclass(frozen=True, slots=True)
class StudentRates:
    """Peak rates, and the loss's parts; see compress.students.student.student_loss."""

    embedding: float
    rest: float
    temperature: float = 2.0
    truth_share: float = 0.3
    token_dropout: float = 0.15
    weight_decay: float = 0.01
    pooled: float = 0.0  # of what the whole decoder misses of a tower's states, as texts' means
    token: float = 0.0  # and token by token

    @property
    def asks_states(self) -> bool:
        """Whether any loss reads them."""
        return bool(self.pooled or self.token)


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
    states: TeacherStates | None = None  # what a tower makes of the texts; None asks for none

    def bags(self, step: int, token_dropout: float) -> BagBatch:
        """All slates of a step."""
        members, postings = self.world_of(step % self.labelled).student
        return self._framed(step, members, postings, token_dropout)

    def full(self, step: int, token_dropout: float) -> FullBatch:
        """One of the `parts` of a step's slates."""
        world = self.world_of(step // self.parts % self.labelled)
        labelled, drawn = self._framed(step // self.parts, *numbered(world), token_dropout)
        rows = np.arange(step % self.parts, len(drawn.contexts), self.parts)
        slates = packed(drawn, rows, world)
        states = None
        if self.states is not None:
            states = self.states.batch(world, slates.places, slates.lengths)
        return FullBatch(labelled, rows, drawn.grades[rows], slates.arrays, states)

    def _framed(self, step: int, members: Bags, postings: Bags, token_dropout: float) -> BagBatch:
        random = np.random.default_rng([self.draw.source.seed, FRAMING, step])
        step %= self.labelled
        return step, framed(self.draw(step), members, postings, token_dropout, random)

    def bag_loss(self, decoder: Decoder, batch: BagBatch, rates: StudentRates) -> Tensor:
        """Of the bags, on which nothing but embeddings and the last layer acts."""
        step, drawn = batch
        role = JOB if drawn.jobs_are_candidates else MEMBER
        slates = torch.as_tensor(drawn.slates, device=self.device)
        logits = score_bags(decoder, drawn.contexts, drawn.candidates, slates, role)
        return self._loss(logits, step, self.labels_of(step), drawn.grades, rates)

    def full_loss(
        self,
        decoder: Decoder,
        batch: FullBatch,
        rates: StudentRates,
        probe: StateProbe | None = None,
    ) -> Tensor:
        """Of the whole decoder, and of what `probe` reads off the states its last layer pools."""
        slates = as_slates(batch.arrays, self.device)
        raw_logits, states = scored(decoder, slates, self.device)
        labels = self.labels_of(batch.step)[torch.from_numpy(batch.rows)]
        loss = self._loss(raw_logits, batch.step, labels, batch.grades, rates)
        if probe is None:
            return loss
        states, targets = self.state_pairs(states, batch)
        assert batch.states is not None
        owner = torch.from_numpy(batch.states.owner).to(self.device)
        count, width = slates.shape[:2]
        pooled, token = unexplained(probe(states), targets, owner, count * (1 + width))
        return loss + rates.pooled * pooled + rates.token * token

    def state_pairs(self, states: Tensor, batch: FullBatch) -> tuple[Tensor, Tensor]:
        """The student's states (T, hidden) of texts' tokens, and the tower's (.., size)."""
        assert self.states is not None
        assert batch.states is not None
        inside = torch.from_numpy(batch.states.is_text).to(self.device)
        return states[inside], self.states(batch.states)

    def _loss(
        self,
        logits: Tensor,
        step: int,
        labels: Tensor,
        grades: npt.NDArray[np.int8],
        rates: StudentRates,
    ) -> Tensor:
        graded = self.world_of(step).graded
        truth = torch.from_numpy(grades).to(self.device) if graded else None
        teacher = labels.to(self.device).float()
        return student_loss(logits, teacher, truth, rates.temperature, rates.truth_share)


def scored(decoder: Decoder, slates: SlateBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Raw logits (S, C), and the states (T, hidden) that the last layer pools."""
    with device:
        *_, pooled, answers = layer_states(decoder, slates)
    return answer_logits(decoder, slates, answers, LABELS), pooled


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
