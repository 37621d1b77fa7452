"""Phases of the GPU run that train the teachers and label slates. Knows no student."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.worlds import TokenWorld
from compress.encoders.encoder import Encoder, load_encoder
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import (
    Chunks,
    joint_chunks,
    joint_logits,
    tower_chunks,
    tower_logits,
    tower_vectors,
)
from compress.encoders.teacher_changes import write_changes
from compress.encoders.teacher_steps import JOINT, TOWERS, TeacherRates, TeacherSteps
from compress.gpu.run import GpuRun
from compress.gpu.valid_scores import Scores
from compress.stages.timed import train_timed
from compress.students.student_steps import (
    StepDraws,
    StudentSteps,
    is_mixed,
)


class TeacherPhases(GpuRun):
    """Two towers, a cross-encoder, and what both say of the slates that students will see."""

    def _encoder(self) -> Encoder:
        encoder = load_encoder(self.base)
        if self.s.encoder_layers is not None:
            layers = encoder.encoder["layer"]
            assert isinstance(layers, nn.ModuleList)
            encoder.encoder["layer"] = layers[: self.s.encoder_layers]
        return encoder

    def _teacher_steps(self, rates: TeacherRates) -> TeacherSteps:
        plain = self.worlds[False]
        return TeacherSteps(
            self.source,
            lambda step: plain[step % len(plain)],
            self.marks,
            self.device,
            self.s.joint_slates,
            self.s.candidates,
            self.s.inverted_share,
            rates,
            self.s.chunk,
        )

    def train_towers(self) -> None:
        """The two-tower teacher."""
        self.towers = PairEncoder(self._encoder(), joint=False).to(self.device)
        self.log("towers untrained", **self.valid.metrics(self.valid.towers(self.towers)))
        self._train_teacher(
            TOWERS, self.towers, self.s.tower_rates, self.s.towers_share, self.valid.towers
        )

    def train_joint(self) -> None:
        """The cross-encoder teacher."""
        model = PairEncoder(self._encoder(), joint=True).to(self.device)
        self._train_teacher(
            JOINT,
            model,
            self.s.joint_rates,
            self.s.joint_share,
            self.valid.joint,
        )
        self.joint = model

    def _train_teacher(
        self,
        part: str,
        model: PairEncoder,
        rates: TeacherRates,
        share: float,
        scores: Callable[[PairEncoder], Scores],
    ) -> None:
        steps = self._teacher_steps(rates)
        optimizer = steps.optimizer(model)
        best = train_timed(
            [weight for weight in model.parameters() if weight.requires_grad],
            optimizer,
            self._batches(lambda step: steps.batch(part, step)),
            lambda batch: steps.loss(model, batch),
            self._clock(share, 50),
            lambda: self.valid.metrics(scores(model)),
            lambda row: self.log(part, **row),
        )
        self.log(f"{part} best", **best)
        write_changes(self.out / f"teacher_{part}.npz", model, self._encoder())

    @cached_property
    def _draw(self) -> StepDraws:
        return StepDraws(
            self.source, self.s.student_slates, self.s.candidates, self.s.inverted_share
        )

    def _student_steps(self, labels: Tensor) -> StudentSteps:
        return StudentSteps(
            self._draw, self._world, lambda step: labels[step], len(labels), self.device
        )

    @torch.inference_mode()
    def label(self) -> None:
        """The teachers' logits of as many steps as the seconds allow."""
        weight = self._choose_weight()
        tables = {
            mixed: [self._world_vectors(world) for world in worlds]
            for mixed, worlds in self.worlds.items()
        }
        self.log("labels", tower_tables=True)
        draw = self._draw

        def batch_of(step: int) -> tuple[Any, Chunks]:
            drawn, random = draw(step), np.random.default_rng(0)
            texts, size = self._world(step).encoder, 2 * self.s.chunk
            return drawn, joint_chunks(drawn, texts, self.marks, size, 0.0, random)

        kept: list[Tensor] = []
        end = time.monotonic() + self._seconds(self.s.labels_share)
        for step, (drawn, chunks) in enumerate(self._batches(batch_of)):
            table = tables[is_mixed(step)]
            logits = tower_logits(self.towers, drawn, table[step % len(table)].float())
            if self.joint is not None:
                joint = joint_logits(self.joint, chunks, self.device, self.dtype, 0.0)
                logits = weight * joint.view(logits.shape) + (1 - weight) * logits
            kept.append(logits.half().cpu())
            if time.monotonic() > end and len(kept) >= 2:
                break
        labels = torch.stack(kept)
        arrays: dict[str, Any] = {"logits": labels.numpy(), **self.valid_teachers}
        np.savez(self.out / "labels.npz", **arrays)
        self.log("labels", steps=len(labels), pairs=labels.numel(), weight=weight)
        self.labels = labels.to(self.device)

    def _choose_weight(self) -> float:
        towers = self.valid.towers(self.towers)
        self.valid_teachers = {TOWERS: towers}
        if self.joint is None:
            return 0.0
        joint = self.valid_teachers[JOINT] = self.valid.joint(self.joint)
        rows = {w: self.valid.metrics(w * joint + (1 - w) * towers) for w in self.s.joint_weights}
        for weight, row in rows.items():
            self.log("teachers", weight=weight, **row)
        return max(rows, key=lambda weight: rows[weight]["select"])

    def _world_vectors(self, world: TokenWorld) -> Tensor:
        random = np.random.default_rng(0)
        chunks = tower_chunks(world.encoder, self.marks, 2 * self.s.chunk, 0.0, random)
        return tower_vectors(self.towers, chunks, self.device, self.dtype, 0.0).to(self.dtype)
