"""Hidden states as what a student learns: a teacher of its own words reads the very same tokens.

Knows no schedule and no file. For recovery after pruning the teacher is the model before it, and
every token of every layer is a target, where labels give two numbers a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.decoders.slates import SlateBatch, layer_states
from compress.distillation.teachers import LogOdds, TeacherError, VocabularyTeacher
from models.directory import ModelDirectory


@dataclass(frozen=True, slots=True)
class Reading:
    """What a teacher made of a batch: states behind every layer, log-odds (S, C) of its labels."""

    layers: Sequence[Tensor]
    log_odds: LogOdds


@torch.no_grad()
def read_along(teacher: VocabularyTeacher, batch: SlateBatch) -> Reading:
    """On the student's own tokens: words that were left out for the student are for the teacher."""
    layers = list(layer_states(teacher.decoder, batch))
    yes, no = teacher.decoder.output_embedding[list(teacher.directory.prompt.label_ids)]
    return Reading(layers, (layers[-1] @ (yes - no)).view(batch.shape[:2]).cpu().numpy())


def hidden_error(layers: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
    """Mean over layers of |student - teacher|^2 / |teacher|^2, each over all of its tokens.

    The mean squared error between hidden states of TinyBERT (arXiv 1909.10351), which Minitron
    (arXiv 2407.14679) recovers pruned models with; relative, so that layers count alike.
    """
    errors = [
        (ours - theirs).square().sum() / theirs.square().sum()
        for ours, theirs in zip(layers, taught, strict=True)
    ]
    return torch.stack(errors).mean()


def refuse_other_states(teacher: ModelDirectory, student: ModelDirectory) -> None:
    """Raises TeacherError unless both have as many hidden states, as wide, of the same prompts."""
    theirs, ours = (
        (item.config.num_hidden_layers, item.config.hidden_size) for item in (teacher, student)
    )
    if theirs != ours or teacher.card.prompts != student.card.prompts:
        raise TeacherError(
            f"{teacher.path} has layers and hidden size of {theirs}, {student.path} of {ours}, "
            "and both need the same prompts; set hidden_weight: 0, or take the model that the "
            "student was pruned from"
        )
