"""The loss of one step of a ranker that learns from teachers on slates. Knows no files.

Nor does it know the steps' order: what a step draws comes from its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.data.text_slates import TextSlates, TextSlateSource
from compress.decoders.losses import slate_loss
from compress.decoders.slates import Ids, SlateBatch, answer_states, layer_states
from compress.distillation.distill_options import DistillOptions, Phase
from compress.distillation.hidden_states import hidden_error, read_along
from compress.distillation.teachers import LogOdds, VocabularyTeacher, WeightedTeacher
from kernels.label_distillation import label_distillation
from kernels.linear_distillation import linear_distillation
from kernels.ranking_loss import ranking_loss
from models.decoder import Decoder
from models.prompt import PromptBuilder

IGNORED = -100
BEST_GRADE = 4.0  # lambdaloss reads grades: this one stands for a teacher's certainty


@dataclass(frozen=True, slots=True)
class SlateTask:
    """A student on slates; `vocabulary` holds a decoder for every teacher where one is needed."""

    decoder: Decoder
    prompt: PromptBuilder
    source: TextSlateSource
    teachers: Sequence[WeightedTeacher]
    vocabulary: Sequence[VocabularyTeacher | None]
    options: DistillOptions
    seed: int

    def loss(self, step: int) -> Tensor:
        """A scalar, differentiable in the student."""
        phase = self.options.phase_of(step)
        drawn = self.source.draw(step, self.options.batch, self.options.candidates).share()
        random = np.random.default_rng([self.seed, 1, step])
        batch = packed(self.prompt, drawn, self.options.token_dropout, random)
        layers = list(layer_states(self.decoder, batch))
        states = layers[-1]
        truth, soft = (1 - phase.soft_share, phase.soft_share)
        loss = states.new_zeros(())
        if truth:
            raw_logits = self._raw_logits(states).view(drawn.grades.shape)
            loss = loss + truth * slate_loss(raw_logits, torch.as_tensor(drawn.grades))
        if soft:
            loss = loss + soft * self._taught(layers, batch, drawn, phase)
        return loss

    def _raw_logits(self, states: Tensor) -> Tensor:
        yes, no = self.decoder.output_embedding[list(self.prompt.label_ids)]
        direction: Tensor = yes - no
        return states @ direction

    def _taught(
        self, layers: Sequence[Tensor], batch: SlateBatch, drawn: TextSlates, phase: Phase
    ) -> Tensor:
        """The teachers' parts by their weights, which are taken as shares."""
        whole = sum(teacher.weight for teacher in self.teachers)
        parts = []
        for teacher, decoder in zip(self.teachers, self.vocabulary, strict=True):
            if phase.hidden_weight:
                assert decoder is not None
                reading = read_along(decoder, batch)
                log_odds = teacher.judged(reading.log_odds, drawn.grades)
                part = phase.hidden_weight * hidden_error(layers, reading.layers)
            else:
                log_odds = teacher.targets(
                    drawn.contexts, drawn.candidates, drawn.grades, drawn.prompt
                )
                part = layers[-1].new_zeros(())
            part = part + self._divergence(layers[-1], log_odds, drawn, decoder, phase)
            if phase.ranking:
                part = part + phase.ranking_weight * rank_as(
                    self._raw_logits(layers[-1]), log_odds, phase.ranking, phase.ranking_temperature
                )
            parts.append(teacher.weight / whole * part)
        return torch.stack(parts).sum()

    def _divergence(
        self,
        states: Tensor,
        log_odds: LogOdds,
        drawn: TextSlates,
        vocabulary: VocabularyTeacher | None,
        phase: Phase,
    ) -> Tensor:
        kept = torch.as_tensor(~np.isnan(log_odds).flatten())
        targets = torch.where(kept, 0, IGNORED)
        if phase.scope == "vocabulary":
            assert vocabulary is not None
            theirs = vocabulary.decoder
            with torch.no_grad():
                taught = answer_states(theirs, packed(vocabulary.directory.prompt, drawn))
            return linear_distillation(
                states,
                self.decoder.output_embedding,
                taught,
                theirs.output_embedding,
                targets,
                kind=phase.divergence,
                mixture=phase.mixture,
                temperature=phase.temperature,
            )
        yes = torch.as_tensor(np.nan_to_num(log_odds)).flatten()
        return label_distillation(
            states,
            self.decoder.output_embedding,
            torch.tensor(self.prompt.label_ids),
            torch.stack((yes, torch.zeros_like(yes)), dim=1),
            targets,
            kind=phase.divergence,
            mixture=phase.mixture,
            temperatures=(phase.temperature,),
        )


def rank_as(raw_logits: Tensor, log_odds: LogOdds, kind: str, temperature: float) -> Tensor:
    """The ranking loss of slates (S, C) against a teacher's order; NaN is left out of its slate."""
    kept = ~np.isnan(log_odds)
    offsets = torch.tensor([0, *kept.sum(axis=1).cumsum()])
    targets = torch.as_tensor(log_odds[kept])
    if kind == "lambdaloss":
        targets = BEST_GRADE * targets.sigmoid()
    return ranking_loss(
        raw_logits[torch.as_tensor(kept.flatten())],
        targets,
        offsets,
        max_length=log_odds.shape[1],
        kind=kind,
        temperature=temperature,
    )


def packed(
    prompt: PromptBuilder,
    drawn: TextSlates,
    dropout: float = 0.0,
    random: np.random.Generator | None = None,
) -> SlateBatch:
    """Token ids in the card's templates, of whose texts a share `dropout` is left out."""
    keep = _Dropout(prompt, drawn.prompt, dropout, random)
    contexts = [
        keep.context(prompt.encode_context(text, drawn.prompt).ids) for text in drawn.contexts
    ]
    slates = [
        [keep.candidate(item.ids) for item in prompt.encode_candidates(texts, drawn.prompt)]
        for texts in drawn.candidates
    ]
    return SlateBatch.pack(contexts, slates)


class _Dropout:
    """Leaves out tokens of a text, never of the template around it."""

    def __init__(
        self,
        prompt: PromptBuilder,
        name: str | None,
        share: float,
        random: np.random.Generator | None,
    ) -> None:
        assert random is not None or share == 0
        self._share, self._random = share, random
        self._context = prompt.encode_context("", name).ids
        self._candidate = prompt.encode_candidates([""], name)[0].ids

    def context(self, ids: Sequence[int]) -> Ids:
        return self._some(ids, self._context)

    def candidate(self, ids: Sequence[int]) -> Ids:
        return self._some(ids, self._candidate)

    def _some(self, ids: Sequence[int], template: Sequence[int]) -> Ids:
        whole = np.array(ids, dtype=np.int64)
        if self._random is None or self._share == 0:
            return whole
        head, tail = _ends(ids, template)
        kept = self._random.random(len(ids)) >= self._share
        kept[:head] = True
        kept[len(ids) - tail :] = True
        return whole[kept]


def _ends(ids: Sequence[int], template: Sequence[int]) -> tuple[int, int]:
    """How many tokens of the template stand before and behind the text."""
    head = 0
    while head < len(template) and ids[head] == template[head]:
        head += 1
    return head, len(template) - head
