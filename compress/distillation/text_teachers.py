"""The part of a teacher of texts in a loss: what it says of answers' tokens. Knows no schedule.

A teacher is a decoder that reads along, or what one once said about a fixed list of examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from compress.decoders.sequences import SequenceBatch, answer_states
from compress.distillation.distill_options import Phase
from compress.distillation.teacher_cache import (
    CacheIdentity,
    kept_outcomes,
    read_cache,
    text_digest,
    write_cache,
)
from compress.distillation.teachers import VocabularyTeacher, tokenizer_digest
from compress.reasons.text_examples import TextExample
from compress.reasons.text_tokens import TextEncoder
from compress.stages.stage import RecipeError
from kernels.linear_distillation import linear_distillation
from kernels.sparse_distillation import sparse_distillation
from models.decoder import Decoder

BATCH = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """A student's states (N, hidden) before the answers' tokens of a batch, and its output rows.

    examples: whose answers they are, None for answers that a model wrote.
    """

    states: Tensor
    weight: Tensor
    batch: SequenceBatch
    examples: Sequence[TextExample] | None


class TextTeacher(Protocol):
    """Anybody with a distribution over the student's tokens."""

    def loss(self, reading: Reading, phase: Phase, soft: float, hard: float) -> Tensor:
        """soft T^2 D(teacher, student) + hard cross-entropy, a mean over the tokens."""
        ...


@dataclass(frozen=True, slots=True)
class ReadingTeacher:
    """A decoder that reads what the student reads."""

    teacher: VocabularyTeacher

    @property
    def decoder(self) -> Decoder:
        """Who can also write answers itself."""
        return self.teacher.decoder

    def loss(self, reading: Reading, phase: Phase, soft: float, hard: float) -> Tensor:
        with torch.no_grad():
            states = answer_states(self.decoder, reading.batch)
        return linear_distillation(
            reading.states,
            reading.weight,
            states,
            self.decoder.output_embedding,
            reading.batch.targets,
            kind=phase.divergence,
            mixture=phase.mixture,
            temperature=phase.temperature,
            soft_weight=soft,
            hard_weight=hard,
        )


class KeptTeacher:
    """The likeliest outcomes of every answer token of known examples, and the mass of the rest."""

    def __init__(self, examples: Sequence[TextExample], kept: dict[str, Tensor]) -> None:
        self._kept = kept
        self._numbers = {example: number for number, example in enumerate(examples)}

    def loss(self, reading: Reading, phase: Phase, soft: float, hard: float) -> Tensor:
        if reading.examples is None:
            raise RecipeError("a cache knows the examples' answers only; use prefix_source: data")
        rows = torch.cat([self._rows(example) for example in reading.examples])
        names = ("outcomes", "log_probabilities", "rest")
        outcomes, scores, rest = (self._kept[n][rows].to(reading.states.device) for n in names)
        return sparse_distillation(
            reading.states,
            reading.weight,
            outcomes,
            scores,
            rest,
            reading.batch.targets,
            kind=phase.divergence,
            mixture=phase.mixture,
            temperatures=(phase.temperature,),
            soft_weight=soft,
            hard_weight=hard,
        )

    def _rows(self, example: TextExample) -> Tensor:
        start, stop = self._kept["offsets"][self._numbers[example] :][:2].tolist()
        return torch.arange(start, stop, device="cpu")


def kept_teacher(
    path: Path,
    teacher: VocabularyTeacher,
    encoder: TextEncoder,
    examples: Sequence[TextExample],
    kept: int,
) -> KeptTeacher:
    """From the cache, which is made if it is not there. Raises TeacherCacheError as it does."""
    tokens = [encoder.prompts(examples), encoder.answers(examples)]
    identity = CacheIdentity(
        teacher.directory.digest,
        tokenizer_digest(teacher.directory.path),
        text_digest([repr(encoder.prompt.encode_context("").ids)]),
        text_digest(tokens),
        kept,
    )
    if not path.exists():
        batches = list(_asked(teacher.decoder, encoder, examples, kept))
        lengths = torch.tensor([0, *(len(answer) for answer in tokens[1])])
        tensors = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        write_cache(path, identity, tensors | {"offsets": lengths.cumsum(0)})
    return KeptTeacher(examples, read_cache(path, identity))


@torch.no_grad()
def _asked(
    decoder: Decoder, encoder: TextEncoder, examples: Sequence[TextExample], kept: int
) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(examples), BATCH):
        part = examples[start : start + BATCH]
        batch = SequenceBatch.pack(encoder.prompts(part), encoder.answers(part))
        logits = answer_states(decoder, batch) @ decoder.output_embedding.T
        yield kept_outcomes(logits, kept)
