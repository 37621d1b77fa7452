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
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from compress.data import Request, halves, load_requests
from compress.encoder import TOKENIZER_NAME, Encoder, load_encoder
from compress.metrics import auc, ndcg
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
from compress.sampling import JOB_CANDIDATE, MATCH, MEMBER_CONTEXT
from compress.slates import SlateBatch
from compress.stage import new_card
from compress.student import StudentShape, deepened, student_of
from compress.student_steps import (
    Arrays,
    StudentRates,
    StudentSteps,
    as_arrays,
    bag_weights,
    blended,
    full_weights,
    is_mixed,
    score_arrays,
    student_optimizer,
)
from compress.teacher_changes import write_changes
from compress.teacher_steps import JOINT, TOWERS, TeacherRates, TeacherSteps
from compress.timed import Clock, train_timed
from compress.tokenizer import MARKERS
from compress.word_table import student_words, vocabulary_of
from compress.worlds import TokenWorld, WorldSource
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder

Scores = npt.NDArray[np.float32]
ENDLESS = 10**7


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a small dress rehearsal makes smaller."""

    seconds: float
    seed: int = 7
    plain_worlds: int = 240
    mixed_worlds: int = 160
    workers: int = 14
    joint_slates: int = 64
    student_slates: int = 128
    candidates: int = 24
    inverted_share: float = 0.25
    chunk: int = 512
    tower_rates: TeacherRates = field(default_factory=TeacherRates)
    joint_rates: TeacherRates = field(default_factory=TeacherRates)
    joint_weights: tuple[float, ...] = (0.3, 0.5, 0.7, 1.0)
    bag_rates: tuple[float, ...] = (1e-3, 4e-3)
    full_rates: StudentRates = field(default_factory=lambda: StudentRates(2e-4, 7e-4))
    layers: tuple[int, ...] = (3, 4)
    shares_kept: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    common_words: int = 16000
    minimum_count: int = 3
    encoder_layers: int | None = None
    valid_requests: int | None = None
    evaluate_every: float = 9.0
    reserve: float = 8.0
    towers_share: float = 0.12
    joint_share: float = 0.30
    labels_share: float = 0.12
    bags_share: float = 0.05
    full_share: float = 0.12
    resume: Path | None = None  # OUT of an earlier run, whose student goes on from its labels


RESUMED = {
    "layers": (3,),
    "full_rates": StudentRates(4e-4, 1e-3),
    "full_share": 1.0,
    "shares_kept": (1.0, 0.8, 0.6),
}
TINY = {
    "plain_worlds": 2,
    "mixed_worlds": 2,
    "workers": 1,
    "joint_slates": 4,
    "student_slates": 8,
    "chunk": 64,
    "encoder_layers": 1,
    "valid_requests": 10,
    "evaluate_every": 2.0,
    "reserve": 1.0,
    "common_words": 2000,
    "minimum_count": 50,
}


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


class Valid:
    """The held-out requests, and metrics of any scores of theirs."""

    def __init__(self, data: Path, limit: int | None) -> None:
        self.requests = load_requests(data, "valid")[:limit]
        chosen = {id(request) for request in halves(self.requests)[0]}
        self._selecting = np.array([id(request) in chosen for request in self.requests])

    def metrics(self, scores: Scores) -> dict[str, float]:
        """scores: (requests, candidates). `select` is NDCG@10 plus gAUC of the selecting half."""
        rows = zip(scores.astype(np.float64), self.requests, strict=True)
        both = np.array(
            [(ndcg(s, np.array(r.grades), 10), auc(s, np.array(r.relevant))) for s, r in rows]
        )
        first, whole = np.nanmean(both[self._selecting], 0), np.nanmean(both, 0)
        names = ("select", "ndcg_first", "gauc_first", "ndcg", "gauc")
        return dict(zip(names, map(float, (first.sum(), *first, *whole)), strict=True))


class GpuDemo:
    """One run: shared state, and a method a phase."""

    def __init__(self, encoder: Path, data: Path, out: Path, settings: Settings) -> None:
        self.start = time.monotonic()
        self.s, self.out, self.base = settings, out, encoder
        self.joint: PairEncoder | None = None  # until it is trained
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.valid = Valid(data, settings.valid_requests)
        self.reader = encoder_tokenizer(encoder)
        self.marks = Marks.of(self.reader)
        self.tokenizer = vocabulary_of(
            data, self.reader, settings.common_words, settings.minimum_count
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
        self.log("towers untrained", **self.valid.metrics(self.tower_scores()))
        self._train_teacher(
            TOWERS, self.towers, self.s.tower_rates, self.s.towers_share, self.tower_scores
        )

    def train_joint(self) -> None:
        """The cross-encoder teacher."""
        model = PairEncoder(self._encoder(), joint=True).to(self.device)
        self._train_teacher(
            JOINT,
            model,
            self.s.joint_rates,
            self.s.joint_share,
            lambda: self.joint_scores(model),
        )
        self.joint = model

    def _train_teacher(
        self,
        part: str,
        model: PairEncoder,
        rates: TeacherRates,
        share: float,
        scores: Callable[[], Scores],
    ) -> None:
        steps = self._teacher_steps(rates)
        optimizer = steps.optimizer(model)
        best = train_timed(
            [weight for weight in model.parameters() if weight.requires_grad],
            optimizer,
            self._batches(lambda step: steps.batch(part, step)),
            lambda batch: steps.loss(model, batch),
            self._clock(share, 50),
            lambda: self.valid.metrics(scores()),
            lambda row: self.log(part, **row),
        )
        self.log(f"{part} best", **best)
        write_changes(self.out / f"teacher_{part}.npz", model, self._encoder())

    @cached_property
    def _valid_ids(self) -> tuple[list[Any], list[list[Any]]]:
        contexts = [r.context for r in self.valid.requests]
        texts = [text for r in self.valid.requests for text in r.candidates]
        first, second = (
            [np.array(e.ids) for e in self.reader.encode_batch(part, add_special_tokens=False)]
            for part in (contexts, texts)
        )
        width = len(self.valid.requests[0].candidates)
        return first, [second[i : i + width] for i in range(0, len(second), width)]

    @property
    def _dtype(self) -> torch.dtype:
        return self._teacher_steps(self.s.joint_rates).dtype

    @torch.inference_mode()
    def joint_scores(self, model: PairEncoder) -> Scores:
        """The joint teacher's logits of `valid`."""
        contexts, slates = self._valid_ids
        firsts = [self.marks.open(c) for c, row in zip(contexts, slates, strict=True) for _ in row]
        seconds = [self.marks.close(ids) for row in slates for ids in row]
        chunks = Chunks.pack(firsts, seconds, 2 * self.s.chunk)
        logits = joint_logits(model, chunks, self.device, self._dtype, 0.0)
        return logits.view(len(contexts), -1).cpu().numpy()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def tower_scores(self) -> Scores:
        """The two-tower teacher's logits of `valid`."""
        contexts, slates = self._valid_ids
        texts = [self.marks.open(ids) for ids in contexts]
        texts += [self.marks.open(ids) for row in slates for ids in row]
        chunks = Chunks.pack(texts, None, 2 * self.s.chunk)
        vectors = tower_vectors(self.towers, chunks, self.device, self._dtype, 0.0)
        count = len(contexts)
        postings = vectors[count:].view(count, -1, vectors.shape[-1])
        members = vectors[:count, None].expand_as(postings)
        return self.towers.compare(members, postings).cpu().numpy()  # type: ignore[no-any-return]

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
                joint = joint_logits(self.joint, chunks, self.device, self._dtype, 0.0)
                logits = weight * joint.view(logits.shape) + (1 - weight) * logits
            kept.append(logits.half().cpu())
            if time.monotonic() > end and len(kept) >= 2:
                break
        labels = torch.stack(kept)
        np.savez(self.out / "labels.npz", logits=labels.numpy(), **self.valid_teachers)
        self.log("labels", steps=len(labels), pairs=labels.numel(), weight=weight)
        self.labels = labels.to(self.device)

    def _choose_weight(self) -> float:
        towers = self.tower_scores()
        self.valid_teachers = {TOWERS: towers}
        if self.joint is None:
            return 0.0
        joint = self.valid_teachers[JOINT] = self.joint_scores(self.joint)
        rows = {w: self.valid.metrics(w * joint + (1 - w) * towers) for w in self.s.joint_weights}
        for weight, row in rows.items():
            self.log("teachers", weight=weight, **row)
        return max(rows, key=lambda weight: rows[weight]["select"])

    def _world_vectors(self, world: TokenWorld) -> Tensor:
        random = np.random.default_rng(0)
        chunks = tower_chunks(world.encoder, self.marks, 2 * self.s.chunk, 0.0, random)
        return tower_vectors(self.towers, chunks, self.device, self._dtype, 0.0).to(self._dtype)

    # Students

    def train_bags(self) -> None:
        """Words first: the wired decoder over bags, at several rates of the embedding."""
        sides = [side for worlds in self.worlds.values() for w in worlds for side in w.student]
        size, flats = StudentShape().hidden_size, [side.flat for side in sides]
        words = student_words(
            self.towers, self.reader, self.tokenizer, flats, size, self.device, self._dtype
        )
        best, self.student = {"select": -1.0}, None
        for rate in self.s.bag_rates:
            torch.manual_seed(self.s.seed)
            decoder = student_of(StudentShape(), words, len(MARKERS)).to(self.device)
            self.log("bags untrained", **self.valid.metrics(self.student_scores(decoder)))
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
        metrics = self.valid.metrics(self.student_scores(self.student))
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
            lambda: self.valid.metrics(self.student_scores(decoder)),
            lambda row: self.log(name, **row),
        )

    def _best_blend(self, trained: Decoder, source: Decoder, layers: int) -> Decoder:
        best, kept = -1.0, trained
        for share in self.s.shares_kept:
            blend = copy.deepcopy(trained)
            blended(blend, source, share)
            metrics = self.valid.metrics(self.student_scores(blend))
            self.log("blend", layers=layers, share=share, **metrics)
            if metrics["select"] > best:
                best, kept = metrics["select"], blend
        return kept

    @torch.no_grad()
    def student_scores(self, decoder: Decoder) -> Scores:
        """The student's raw logits of `valid`."""
        parts = [score_arrays(decoder, batch, self.device).cpu() for batch in self._valid_slates]
        return torch.cat(parts).numpy()  # type: ignore[no-any-return]

    @cached_property
    def _valid_slates(self) -> list[Arrays]:
        batches = []
        for start in range(0, len(self.valid.requests), 64):
            part: list[Request] = self.valid.requests[start : start + 64]
            contexts = self._framed([r.context for r in part], MEMBER_CONTEXT, ())
            slates = [self._framed(list(r.candidates), JOB_CANDIDATE, (MATCH,)) for r in part]
            batches.append(as_arrays(SlateBatch.pack(contexts, slates)))
        return batches

    def _framed(self, texts: list[str], head: int, tail: tuple[int, ...]) -> list[Any]:
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array([head, *encoding.ids, *tail]) for encoding in encodings]

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
