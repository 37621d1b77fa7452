"""Teachers, their labels and students within minutes of one GPU. Knows no recipe.

python -m compress.gpu_demo --encoder DIR --data DIR --out DIR --seconds N
Every phase has a share of the seconds and leaves its result in OUT as soon as it is done; lines of
results.jsonl say what each reached on `valid`, whose first half selects.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from compress.encoder import TOKENIZER_NAME, Encoder, load_encoder
from compress.gpu_settings import RESUMED, TINY, Settings
from compress.pair_encoder import PairEncoder
from compress.pair_slates import (
    Chunks,
    Marks,
    joint_chunks,
    joint_logits,
    tower_chunks,
    tower_logits,
    tower_vectors,
)
from compress.pair_teacher import encoder_tokenizer
from compress.stage import new_card
from compress.student import StudentShape, deepened, student_of
from compress.student_steps import (
    StudentRates,
    StudentSteps,
    bag_weights,
    blended,
    full_weights,
    is_mixed,
    student_optimizer,
)
from compress.teacher_changes import write_changes
from compress.teacher_steps import JOINT, TOWERS, TeacherRates, TeacherSteps
from compress.timed import Clock, train_timed
from compress.tokenizer import MARKERS
from compress.valid_scores import Scores, ValidScores
from compress.word_table import student_words, vocabulary_of
from compress.worlds import TokenWorld, WorldSource
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder

ENDLESS = 10**7


class Steps(Dataset[Any]):
    """A function of the step as a dataset, so that processes can run ahead of the device."""

    def __init__(self, batch_of: Callable[[int], Any]) -> None:
        self._batch_of = batch_of

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> Any:
        return self._batch_of(step)


def same(batch: Any) -> Any:
    """Batches arrive whole."""
    return batch


class GpuDemo:
    """One run: shared state, and a method a phase."""

    def __init__(self, encoder: Path, data: Path, out: Path, settings: Settings) -> None:
        self.start = time.monotonic()
        self.s, self.out, self.base = settings, out, encoder
        self.joint: PairEncoder | None = None  # until it is trained
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.reader = encoder_tokenizer(encoder)
        self.marks = Marks.of(self.reader)
        self.tokenizer = vocabulary_of(
            data, self.reader, settings.common_words, settings.minimum_count
        )
        self.valid = ValidScores(
            data,
            settings.valid_requests,
            self.reader,
            self.tokenizer,
            self.device,
            self.dtype,
            2 * settings.chunk,
        )
        self.source = WorldSource.load(data, self.reader, self.tokenizer, settings.seed)
        counts = {False: settings.plain_worlds, True: settings.mixed_worlds}
        self.worlds = {
            mixed: self.source.build_many(range(count), mixed, settings.workers)
            for mixed, count in counts.items()
        }
        self.log("worlds", vocabulary=self.tokenizer.get_vocab_size())

    def log(self, phase: str, **values: Any) -> None:
        """One line, on the terminal and in results.jsonl."""
        row = {"phase": phase, "at": round(time.monotonic() - self.start, 1)} | values
        line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
        print(line, flush=True)
        with (self.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

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

    def _seconds(self, share: float) -> float:
        """A share of all, cut when the end is near."""
        left = self.s.seconds - self.s.reserve - (time.monotonic() - self.start)
        return max(1.0, min(share * self.s.seconds, left))

    def _clock(self, share: float, warmup: int) -> Clock:
        return Clock(self._seconds(share), warmup, self.s.evaluate_every)

    def _batches(self, batch_of: Callable[[int], Any]) -> Iterator[Any]:
        return iter(
            DataLoader(
                Steps(batch_of),
                batch_size=None,
                num_workers=self.s.workers,
                collate_fn=same,
                prefetch_factor=3,
            )
        )

    def _world(self, step: int) -> TokenWorld:
        worlds = self.worlds[is_mixed(step)]
        return worlds[step % len(worlds)]

    # Teachers

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

    # Labels

    @cached_property
    def _draws(self) -> StudentSteps:
        return self._student_steps(torch.empty(0))

    def _student_steps(self, labels: Tensor) -> StudentSteps:
        return StudentSteps(
            self.source,
            self._world,
            lambda step: labels[step],
            len(labels),
            self.device,
            self.s.student_slates,
            self.s.candidates,
            self.s.inverted_share,
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
        draws = self._draws

        def batch_of(step: int) -> tuple[Any, Chunks]:
            drawn, random = draws.draw(step), np.random.default_rng(0)
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

    # Students

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
    parser = argparse.ArgumentParser(prog="python -m compress.gpu_demo")
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
