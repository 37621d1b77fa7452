"""Teachers, their labels and students within minutes of one GPU. Knows no recipe.

python -m compress.gpu.demo --encoder DIR --data DIR --out DIR --seconds N
Every phase has a share of the seconds and leaves its result in OUT as soon as it is done; lines of
results.jsonl say what each reached on `valid`, whose first half selects.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.tokenizer import MARKERS
from compress.encoders.encoder import TOKENIZER_NAME
from compress.gpu.settings import RESUMED, TINY, Settings
from compress.gpu.teachers import TeacherPhases
from compress.stages.stage import new_card
from compress.stages.timed import train_timed
from compress.students.student import StudentShape, deepened, student_of
from compress.students.student_steps import (
    StudentRates,
    bag_weights,
    blended,
    full_weights,
    student_optimizer,
)
from compress.students.word_table import student_words
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder


class GpuDemo(TeacherPhases):
    """One run: a method a phase."""

    def run(self) -> None:
        """All phases; one that fails is reported and the next ones do what they can."""
        phases = [self.train_towers, self.train_joint, self.label, self.train_bags, self.train_full]
        if self.s.resume is not None:
            phases = [self.take_up, self.train_full]
        for phase in phases:
            try:
                phase()
            except Exception:
                self.log(phase.__name__, error=traceback.format_exc())
            gc.collect()
        self.log("end")

    def train_bags(self) -> None:
        """Words first: the wired decoder over bags, at several rates of the embedding."""
        sides = [side for worlds in self.worlds.values() for w in worlds for side in w.student]
        size, flats = StudentShape().hidden_size, [side.flat for side in sides]
        words = student_words(
            self.towers, self.reader, self.tokenizer, flats, size, self.device, self.dtype
        )
        best, self.student = {"select": -1.0}, None
        for rate in self.s.bag_rates:
            torch.manual_seed(self.s.seed)
            decoder = student_of(StudentShape(), words, len(MARKERS)).to(self.device)
            self.log("bags untrained", **self.valid.metrics(self.valid.student(decoder)))
            metrics = self._train_bags(decoder, StudentRates(rate, 2e-3))
            self.log("bags best", rate=rate, **metrics)
            if metrics["select"] > best["select"]:
                best, self.student = metrics, decoder
        assert self.student is not None
        self._save_student("bags", self.student)

    def _train_bags(self, decoder: Decoder, rates: StudentRates) -> dict[str, float]:
        steps = self._student_steps(self.labels)
        weights = bag_weights(decoder)
        return self._train_student(
            "bags",
            decoder,
            (weights, rates),
            self._batches(lambda step: steps.bags(step, rates.token_dropout)),
            lambda batch: steps.bag_loss(decoder, batch, rates),
            self.s.bags_share,
        )

    def take_up(self) -> None:
        """The labels and the student of an earlier run with the same settings."""
        assert self.s.resume is not None
        with np.load(self.s.resume / "labels.npz") as arrays:
            self.labels = torch.from_numpy(arrays["logits"]).to(self.device)
        directory = Path(tempfile.mkdtemp())
        with tarfile.open(self.s.resume / "student_layers3.tar.gz") as archive:
            archive.extractall(directory, filter="data")
        student = load_model_directory(directory / "layers3")
        self.student = load_decoder(student).to(self.device)
        metrics = self.valid.metrics(self.valid.student(self.student))
        self.log("taken up", labels=len(self.labels), **metrics)

    def train_full(self) -> None:
        """The whole decoder, with three layers and with four."""
        assert self.student is not None
        for layers in self.s.layers:
            torch.manual_seed(self.s.seed)
            decoder = deepened(self.student, StudentShape(layers=layers)).to(self.device)
            source, rates = copy.deepcopy(decoder), self.s.full_rates
            metrics = self._train_full(decoder, rates)
            self.log("full best", layers=layers, **metrics)
            self._save_student(f"layers{layers}", self._best_blend(decoder, source, layers))
        (self.out / "student_bags.tar.gz").unlink(missing_ok=True)  # what comes back has a limit

    def _train_full(self, decoder: Decoder, rates: StudentRates) -> dict[str, float]:
        steps = self._student_steps(self.labels)
        return self._train_student(
            "full",
            decoder,
            (full_weights(decoder), rates),
            self._batches(lambda step: steps.full(step, rates.token_dropout)),
            lambda batch: steps.full_loss(decoder, batch, rates),
            self.s.full_share,
        )

    def _train_student(
        self,
        name: str,
        decoder: Decoder,
        moved: tuple[tuple[nn.Parameter, list[nn.Parameter]], StudentRates],
        batches: Iterator[Any],
        loss_of: Callable[[Any], Tensor],
        share: float,
    ) -> dict[str, float]:
        (embedding, rest), rates = moved
        return train_timed(
            [embedding, *rest],
            student_optimizer((embedding, rest), rates, self.device.type == "cuda"),
            batches,
            loss_of,
            self._clock(share, 30),
            lambda: self.valid.metrics(self.valid.student(decoder)),
            lambda row: self.log(name, **row),
        )

    def _best_blend(self, trained: Decoder, source: Decoder, layers: int) -> Decoder:
        best, kept = -1.0, trained
        for share in self.s.shares_kept:
            blend = copy.deepcopy(trained)
            blended(blend, source, share)
            metrics = self.valid.metrics(self.valid.student(blend))
            self.log("blend", layers=layers, share=share, **metrics)
            if metrics["select"] > best:
                best, kept = metrics["select"], blend
        return kept

    def _save_student(self, name: str, decoder: Decoder) -> None:
        directory = Path(tempfile.mkdtemp()) / name
        directory.mkdir()
        path = directory / TOKENIZER_NAME
        self.tokenizer.save(str(path))
        card = new_card("fairslate-demo", "2")
        save_model_directory(directory, decoder.cpu(), path, card, torch.float16)
        decoder.to(self.device)
        with tarfile.open(self.out / f"student_{name}.tar.gz", "w:gz", compresslevel=4) as archive:
            archive.add(directory, name)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.gpu.demo")
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tiny", action="store_true", help="a dress rehearsal for a CPU")
    parser.add_argument("--resume", type=Path, help="OUT of an earlier run: go on with its student")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_float32_matmul_precision("high")
    given.out.mkdir(parents=True, exist_ok=True)
    settings = replace(Settings(given.seconds), **(TINY if given.tiny else {}))
    if given.resume is not None:
        settings = replace(settings, resume=given.resume, **RESUMED)
    GpuDemo(given.encoder, given.data, given.out, settings).run()


if __name__ == "__main__":
    main()
