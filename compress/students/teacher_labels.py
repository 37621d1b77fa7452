"""A teacher's log-odds of a student's slates, each step asked once and kept. Knows no student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.data.sampling import Draw
from compress.data.worlds import TokenWorld
from compress.encoders.pair_slates import (
    Marks,
    joint_chunks,
    joint_logits,
    tower_chunks,
    tower_logits,
    tower_vectors,
)
from compress.encoders.pair_teacher import EncoderTeacher

ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class TeacherLabels:
    """Log-odds of the slates that `draw_of` a step draws over the texts of its world."""

    teacher: EncoderTeacher
    draw_of: Callable[[int], Draw]
    world_of: Callable[[int], TokenWorld]
    folder: Path  # one file a step; a run that goes on asks nothing twice

    def __call__(self, step: int) -> Tensor:
        """(slates, candidates) fp16."""
        path = self.folder / f"{self.teacher.digest[-16:]}-{step}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".writing")
            with beside.open("wb") as file:
                np.save(file, self._ask(step).half().cpu().numpy())
            beside.replace(path)
        return torch.from_numpy(np.load(path))

    @torch.inference_mode()
    def _ask(self, step: int) -> Tensor:
        teacher, drawn, texts = self.teacher, self.draw_of(step), self.world_of(step).encoder
        device, dtype, marks = teacher.device, teacher.dtype, Marks.of(teacher.tokenizer)
        total = torch.zeros(drawn.chosen.shape, device=device)
        random = np.random.default_rng(0)  # for dropout, of which there is none
        for part, weight in teacher.weights.items():
            model = teacher.parts[part]
            if model.joint:
                pairs = joint_chunks(drawn, texts, marks, ROWS_AT_ONCE, 0.0, random)
                total += weight * joint_logits(model, pairs, device, dtype, 0.0).view(total.shape)
            else:
                sides = tower_chunks(texts, marks, ROWS_AT_ONCE, 0.0, random)
                vectors = tower_vectors(model, sides, device, dtype, 0.0)
                total += weight * tower_logits(model, drawn, vectors)
        return total
