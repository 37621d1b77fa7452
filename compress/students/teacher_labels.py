"""A teacher's log-odds of a student's slates, each step asked once and kept. Knows no student.

What is kept has a checksum and says of which teacher and slates it is; anything else is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.data.sampling import Draw
from compress.data.worlds import TokenWorld
from compress.distillation.teacher_cache import (
    CacheIdentity,
    read_cache,
    text_digest,
    write_cache,
)
from compress.encoders.pair_slates import (
    SpecialTokens,
    joint_chunks,
    joint_logits,
    tower_chunks,
    tower_logits,
    tower_vectors,
)
from compress.encoders.pair_teacher import EncoderTeacher
from compress.stages.passes import NARROW, WIDE
from compress.stages.stage import ON_CPU


@dataclass(frozen=True, slots=True)
class TeacherLabels:
    """Log-odds of the slates that `draw_of` a step draws over the texts of its world.

    slates: what names the draws of all steps, such as data, seed and counts.
    """

    teacher: EncoderTeacher
    draw_of: Callable[[int], Draw]
    world_of: Callable[[int], TokenWorld]
    folder: Path  # one file a step; a run that goes on asks nothing twice
    slates: Sequence[object] = ()
    chunk: int = 512  # rows that one pass takes

    def __call__(self, step: int) -> Tensor:
        """(slates, candidates) fp16. Raises TeacherCacheError for a file of something else."""
        path, digest = self.folder / f"{step}.safetensors", self.teacher.digest
        # A teacher's digest covers its tokenizer; generated slates know no other prompt.
        named = [*self.slates, step, *([] if self.teacher.cpu_passes == WIDE else [NARROW])]
        identity = CacheIdentity(digest, digest, "generated", text_digest(named))
        with ON_CPU:  # whatever device the student's loop makes its tensors on
            if not path.exists():
                write_cache(path, identity, {"log_odds": self._ask(step).half().cpu()})
            return read_cache(path, identity)["log_odds"]

    @torch.inference_mode()
    def _ask(self, step: int) -> Tensor:
        teacher, drawn, texts = self.teacher, self.draw_of(step), self.world_of(step).encoder
        device, dtype, special = teacher.device, teacher.dtype, SpecialTokens.of(teacher.tokenizer)
        total = torch.zeros(drawn.chosen.shape, device=device)
        random = np.random.default_rng(0)  # for dropout, of which there is none
        for part, weight in teacher.weights.items():
            model = teacher.parts[part]
            if model.joint:
                pairs = joint_chunks(drawn, texts, special, self.chunk, 0.0, random)
                total += weight * joint_logits(model, pairs, device, dtype, 0.0).view(total.shape)
            else:
                sides = tower_chunks(texts, special, self.chunk, 0.0, random)
                vectors = tower_vectors(model, sides, device, dtype, 0.0)
                total += weight * tower_logits(model, drawn, vectors)
        return total
