"""The loss of one step of a decoder that learns to write from teachers. Knows no files.

The truth is always read on the examples; teachers are compared on the examples' answers, or on what
the student or the first teacher wrote to the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from compress.decoders.decoding import Sampling, write_answers
from compress.decoders.sequences import SequenceBatch, answer_states
from compress.distillation.distill_options import DistillOptions, Phase
from compress.distillation.text_teachers import Reading, ReadingTeacher, TextTeacher
from compress.reasons.choices import Choice, choice_loss, choices_of
from compress.reasons.text_examples import TextExample, TextSource
from compress.reasons.text_tokens import TextEncoder, Tokens
from compress.stages.parallel import share, world
from compress.stages.stage import RecipeError
from kernels.linear_cross_entropy import linear_cross_entropy
from models.decoder import Decoder
from models.reasons.lattice import Lattice


@dataclass(frozen=True, slots=True)
class TextTask:
    """A student that writes, and its teachers with their weights."""

    decoder: Decoder
    encoder: TextEncoder
    source: TextSource
    teachers: Sequence[tuple[float, TextTeacher]]
    options: DistillOptions
    seed: int
    answers: Callable[[TextExample], Lattice] | None = None  # what leaves them a choice

    def loss(self, step: int) -> Tensor:
        """A scalar, differentiable in the student."""
        phase = self.options.phase_of(step)
        drawn = self.source.draw(step, self.options.batch)
        examples, everybodys = share(drawn), self.encoder.answers(drawn)
        prompts, answers = self.encoder.prompts(examples), self.encoder.answers(examples)
        part, choices = _part(answers, everybodys), self._choices(drawn, everybodys)
        soft, truth = phase.soft_share, 1 - phase.soft_share
        if not is_sampled(step, phase):
            known = self._read(prompts, answers, examples)
            return part * self._loss(known, soft, truth, phase) + self._chosen(known, choices)
        written = self._written(step, phase, prompts)
        loss = self._loss(self._read(prompts, written, None), soft, 0.0, phase)
        if truth:
            known = self._read(prompts, answers, examples)
            loss = loss + part * self._loss(known, 0.0, truth, phase)
            loss = loss + self._chosen(known, choices)
        return loss

    def _choices(self, drawn: Sequence[TextExample], answers: Tokens) -> list[list[Choice]]:
        """What the grammar leaves open in each example's own answer."""
        if self.answers is None:
            return []
        return [choices_of(self.answers(one), ids) for one, ids in zip(drawn, answers, strict=True)]

    def _chosen(self, known: Reading, choices: Sequence[list[Choice]]) -> Tensor | float:
        """Loss of our examples' choices, as a part of everybody's, which may be more or fewer."""
        ours = share(choices)
        if not any(ours):
            return 0.0
        assert known.examples is not None
        starts = accumulate(map(len, self.encoder.answers(known.examples)), initial=0)
        placed = [
            (start + place, allowed)
            for start, found in zip(starts, ours, strict=False)
            for place, allowed in found
        ]
        loss = choice_loss(known.states, known.weight, known.batch.targets, placed)
        return self.options.choice_weight * _part(ours, choices) * loss

    def _loss(self, reading: Reading, soft: float, hard: float, phase: Phase) -> Tensor:
        if not soft:
            targets = reading.batch.targets
            return hard * linear_cross_entropy(reading.states, reading.weight, targets)
        whole = sum(importance for importance, _ in self.teachers)
        parts = [
            teacher.loss(reading, phase, soft * importance / whole, 0.0 if number else hard)
            for number, (importance, teacher) in enumerate(self.teachers)
        ]
        return torch.stack(parts).sum()

    def _read(
        self, prompts: Tokens, answers: Tokens, examples: Sequence[TextExample] | None
    ) -> Reading:
        batch = SequenceBatch.pack(prompts, answers)
        states = answer_states(self.decoder, batch)
        return Reading(states, self.decoder.output_embedding, batch, examples)

    def _written(self, step: int, phase: Phase, prompts: Tokens) -> Tokens:
        """What the student or the first teacher writes; no gradient runs through the drawing."""
        writer = self.decoder
        if phase.prefix_source == "teacher":
            first = self.teachers[0][1]
            if not isinstance(first, ReadingTeacher):
                raise RecipeError("a cache writes nothing; take a teacher without cache")
            writer = first.decoder
        sampling = Sampling(self.encoder.end, phase.new_tokens, phase.sampling_temperature)
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        return write_answers(writer, prompts, sampling, generator)


def _part(ours: Sequence[Sized], everybodys: Sequence[Sized]) -> float:
    """What a mean over our rows' parts counts in that over every process'."""
    return world() * sum(map(len, ours)) / sum(map(len, everybodys))


def is_sampled(step: int, phase: Phase) -> bool:
    """Spreads the sampled steps evenly, so that any run of n holds their share to within 1 / n."""
    if phase.prefix_source == "data" or phase.soft_share == 0:
        return False
    wanted = phase.sampled_share
    return math.floor((step + 1) * wanted) > math.floor(step * wanted)
