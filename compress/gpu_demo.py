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
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from compress.bags import score_bags
from compress.data import Request, halves, load_occupations, load_requests
from compress.encoder import TOKENIZER_NAME, Encoder, load_encoder
from compress.losses import slate_loss
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
from compress.sampling import (
    JOB_CANDIDATE,
    MATCH,
    MEMBER_CONTEXT,
    Draw,
    Slates,
    framed,
)
from compress.slates import SlateBatch, score_slates
from compress.stage import new_card
from compress.student import StudentShape, deepened, student_loss, student_of
from compress.timed import Clock, train_timed
from compress.tokenizer import MARKERS
from compress.wiring import JOB, LABELS, MEMBER, RESERVED, layers_of, movable_embeddings
from compress.word_table import principal_parts, token_vectors, word_tokenizer
from compress.worlds import TokenWorld, WorldSource
from models.checkpoint import save_model_directory
from models.decoder import Decoder

ROLE_SEEDS = {"towers": 11, "joint": 12, "student": 3, "framing": 4}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a small dress rehearsal makes smaller."""

    seconds: float
    seed: int = 7
    plain_worlds: int = 240
    mixed_worlds: int = 160
    workers: int = 14
    slates: int = 64  # of the joint teacher's step, and of the student's full step
    bag_slates: int = 128
    candidates: int = 24
    inverted_share: float = 0.25
    teacher_dropout: float = 0.1
    student_dropout: float = 0.15
    temperature: float = 2.0
    truth_share: float = 0.3
    joint_chunk: int = 512
    tower_chunk: int = 388
    tower_rate: float = 1e-4
    joint_rate: float = 1e-4
    head_rate: float = 1e-3
    common_words: int = 16000
    minimum_count: int = 3
    encoder_layers: int | None = None
    valid_requests: int | None = None
    evaluate_every: float = 9.0
    reserve: float = 8.0
    shares: dict[str, float] = field(
        default_factory=lambda: {
            "towers": 0.12,
            "joint": 0.30,
            "labels": 0.12,
            "bags": 0.05,
            "full": 0.12,
        }
    )


TINY = {
    "plain_worlds": 2,
    "mixed_worlds": 2,
    "workers": 1,
    "slates": 4,
    "bag_slates": 8,
    "candidates": 24,
    "joint_chunk": 64,
    "encoder_layers": 1,
    "valid_requests": 10,
    "evaluate_every": 2.0,
    "reserve": 1.0,
    "common_words": 2000,
    "minimum_count": 50,
}


class Steps(Dataset[Any]):
    """A function of the step as a dataset, so that processes can run ahead of the device."""

    def __init__(self, batch_of: Callable[[int], Any], count: int = 10**7) -> None:
        self._batch_of, self._count = batch_of, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, step: int) -> Any:
        return self._batch_of(step)


def same(batch: Any) -> Any:
    """Batches arrive whole."""
    return batch


def as_arrays(batch: SlateBatch) -> tuple[Any, ...]:
    """What processes hand over more cheaply than tensors; the shape comes last."""
    names = [item.name for item in fields(batch) if item.name != "shape"]
    return (*(getattr(batch, name).numpy() for name in names), batch.shape)


class Valid:
    """The held-out requests, and metrics of any scores of theirs."""

    def __init__(self, data: Path, limit: int | None) -> None:
        self.requests = load_requests(data, "valid")[:limit]
        chosen = {id(request) for request in halves(self.requests)[0]}
        self._selecting = np.array([id(request) in chosen for request in self.requests])

    def metrics(self, scores: np.ndarray) -> dict[str, float]:
        """scores: (requests, candidates). `select` is NDCG@10 plus gAUC of the selecting half."""
        rows = zip(scores.astype(np.float64), self.requests, strict=True)
        both = np.array(
            [(ndcg(s, np.array(r.grades), 10), auc(s, np.array(r.relevant))) for s, r in rows]
        )
        first, all_of = np.nanmean(both[self._selecting], 0), np.nanmean(both, 0)
        return {
            "select": float(first.sum()),
            "ndcg_first": float(first[0]),
            "gauc_first": float(first[1]),
            "ndcg": float(all_of[0]),
            "gauc": float(all_of[1]),
        }


class Rehearsal:
    """One run: shared state, and a method a phase."""

    def __init__(self, encoder: Path, data: Path, out: Path, settings: Settings) -> None:
        self.start = time.monotonic()
        self.s, self.data, self.out, self.base = settings, data, out, encoder
        self.joint: PairEncoder | None = None  # until it is trained
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.valid = Valid(data, settings.valid_requests)
        self.encoder_tokenizer = Tokenizer.from_file(str(encoder / TOKENIZER_NAME))
        self.encoder_tokenizer.no_padding()
        self.encoder_tokenizer.no_truncation()
        self.marks = Marks.of(self.encoder_tokenizer)
        self.student_tokenizer = self._vocabulary()
        self.source = WorldSource.load(
            data, self.encoder_tokenizer, self.student_tokenizer, settings.seed
        )
        plain, mixed = range(settings.plain_worlds), range(settings.mixed_worlds)
        self.plain = self.source.build_many(plain, False, settings.workers)
        self.mixed = self.source.build_many(mixed, True, settings.workers)
        self.log("worlds", vocabulary=self.student_tokenizer.get_vocab_size())

    def log(self, phase: str, **values: Any) -> None:
        """One line, on the terminal and in results.jsonl."""
        row = {"phase": phase, "at": round(time.monotonic() - self.start, 1)} | values
        line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
        print(line, flush=True)
        with (self.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def seconds(self, phase: str) -> float:
        """The phase's share, cut when the end is near."""
        left = self.s.seconds - self.s.reserve - (time.monotonic() - self.start)
        return max(1.0, min(self.s.shares[phase] * self.s.seconds, left))

    def run(self) -> None:
        """All phases; one that fails is reported and the next ones do what they can."""
        phases: list[Callable[[], None]] = [
            self.train_towers,
            self.train_joint,
            self.label,
            self.train_bags,
            self.train_students,
        ]
        for phase in phases:
            try:
                phase()
            except Exception:
                self.log(phase.__name__, error=traceback.format_exc())
            gc.collect()
        self.log("end")

    def _vocabulary(self) -> Tokenizer:
        texts = [
            text
            for o in load_occupations(self.data)
            for facts in (
                (o.title, o.description),
                o.titles,
                o.tasks,
                o.tools,
                o.skills,
                o.knowledge,
            )
            for text in facts
        ]
        labels = "Headline Background Skills Knowledge Experience Tools used Duties Level"
        texts += [labels] * self.s.minimum_count
        return word_tokenizer(
            self.encoder_tokenizer, texts, self.s.common_words, self.s.minimum_count
        )

    def _batches(self, batch_of: Callable[[int], Any], count: int = 10**7) -> Iterator[Any]:
        loader = DataLoader(
            Steps(batch_of, count),
            batch_size=None,
            shuffle=False,
            num_workers=self.s.workers,
            collate_fn=same,
            prefetch_factor=3,
        )
        return iter(loader)

    def _encoder(self) -> Encoder:
        encoder = load_encoder(self.base)
        if self.s.encoder_layers is not None:
            encoder.encoder["layer"] = encoder.encoder["layer"][: self.s.encoder_layers]  # type: ignore[index]
        encoder.embeddings["word_embeddings"].requires_grad_(False)
        return encoder

    # Teachers

    def _teacher_optimizer(self, model: PairEncoder, rate: float) -> torch.optim.Optimizer:
        body = [weight for weight in model.encoder.parameters() if weight.requires_grad]
        heads = [*model.hidden.parameters(), *model.out.parameters(), model.cosine]
        return torch.optim.AdamW(
            [{"params": body, "lr": rate}, {"params": heads, "lr": self.s.head_rate}],
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=self.device.type == "cuda",
        )

    def _train_teacher(
        self,
        name: str,
        model: PairEncoder,
        rate: float,
        batch_of: Callable[[int], Any],
        logits_of: Callable[[Draw, Chunks, float], Tensor],
        scores: Callable[[], np.ndarray],
    ) -> None:
        def loss_of(batch: tuple[Draw, Chunks]) -> Tensor:
            logits = logits_of(*batch, 0.1)
            return slate_loss(logits, torch.from_numpy(batch[0].grades).to(self.device))

        best = train_timed(
            [weight for weight in model.parameters() if weight.requires_grad],
            self._teacher_optimizer(model, rate),
            self._batches(batch_of),
            loss_of,
            Clock(self.seconds(name), 50, self.s.evaluate_every),
            lambda: self.valid.metrics(scores()),
            lambda row: self.log(name, **row),
        )
        self.log(f"{name} best", **best)
        self._save_teacher(name, model)

    def train_towers(self) -> None:
        """The two-tower teacher: every step is a whole world."""
        self.towers = PairEncoder(self._encoder(), joint=False).to(self.device)
        self.log("towers untrained", **self.valid.metrics(self.tower_scores()))

        def batch_of(step: int) -> tuple[Draw, Chunks]:
            random = np.random.default_rng([self.s.seed, ROLE_SEEDS["towers"], step])
            world = self.plain[step % len(self.plain)]
            drawn = self._draw(random, len(self.source.occupations))
            dropout = self.s.teacher_dropout
            return drawn, tower_chunks(
                world.encoder, self.marks, self.s.tower_chunk, dropout, random
            )

        def logits_of(drawn: Draw, chunks: Chunks, dropout: float) -> Tensor:
            vectors = tower_vectors(self.towers, chunks, self.device, self.dtype, dropout)
            return tower_logits(self.towers, drawn, vectors)

        self._train_teacher(
            "towers", self.towers, self.s.tower_rate, batch_of, logits_of, self.tower_scores
        )

    def train_joint(self) -> None:
        """The cross-encoder teacher."""
        model = PairEncoder(self._encoder(), joint=True).to(self.device)

        def batch_of(step: int) -> tuple[Draw, Chunks]:
            random = np.random.default_rng([self.s.seed, ROLE_SEEDS["joint"], step])
            world = self.plain[step % len(self.plain)]
            drawn = self._draw(random, self.s.slates)
            dropout, size = self.s.teacher_dropout, self.s.joint_chunk
            return drawn, joint_chunks(drawn, world.encoder, self.marks, size, dropout, random)

        def logits_of(drawn: Draw, chunks: Chunks, dropout: float) -> Tensor:
            logits = joint_logits(model, chunks, self.device, self.dtype, dropout)
            return logits.view(drawn.chosen.shape)

        self._train_teacher(
            "joint", model, self.s.joint_rate, batch_of, logits_of, lambda: self.joint_scores(model)
        )
        self.joint = model

    def _draw(self, random: np.random.Generator, count: int) -> Draw:
        return self.source.draw(random, count, self.s.candidates, self.s.inverted_share)

    @cached_property
    def _valid_ids(self) -> tuple[list[Any], list[list[Any]]]:
        tokenizer = self.encoder_tokenizer
        contexts = [r.context for r in self.valid.requests]
        texts = [text for r in self.valid.requests for text in r.candidates]
        first = [
            np.array(e.ids) for e in tokenizer.encode_batch(contexts, add_special_tokens=False)
        ]
        second = [np.array(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
        width = len(self.valid.requests[0].candidates)
        return first, [second[i : i + width] for i in range(0, len(second), width)]

    @torch.inference_mode()
    def joint_scores(self, model: PairEncoder) -> np.ndarray:
        """The joint teacher's logits of `valid`."""
        contexts, slates = self._valid_ids
        firsts = [self.marks.open(c) for c, row in zip(contexts, slates, strict=True) for _ in row]
        seconds = [self.marks.close(ids) for row in slates for ids in row]
        chunks = Chunks.pack(firsts, seconds, 2 * self.s.joint_chunk)
        logits = joint_logits(model, chunks, self.device, self.dtype, 0.0)
        return logits.view(len(contexts), -1).cpu().numpy()

    @torch.inference_mode()
    def tower_scores(self) -> np.ndarray:
        """The two-tower teacher's logits of `valid`."""
        contexts, slates = self._valid_ids
        texts = [self.marks.open(ids) for ids in contexts]
        texts += [self.marks.open(ids) for row in slates for ids in row]
        chunks = Chunks.pack(texts, None, 2 * self.s.tower_chunk)
        vectors = tower_vectors(self.towers, chunks, self.device, self.dtype, 0.0)
        count = len(contexts)
        postings = vectors[count:].view(count, -1, vectors.shape[-1])
        members = vectors[:count, None].expand_as(postings)
        return self.towers.compare(members, postings).cpu().numpy()

    def _save_teacher(self, name: str, model: PairEncoder) -> None:
        """What training changed, in int8 steps of each row's largest change."""
        base = {f"encoder.{k}": v for k, v in self._encoder().state_dict().items()}
        arrays: dict[str, np.ndarray] = {}
        for key, weight in model.named_parameters():
            if weight.requires_grad:
                change = weight.detach().cpu() - base.get(key, 0.0)
                if change.ndim < 2:
                    arrays[key] = change.numpy()
                    continue
                scale = change.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
                arrays[key] = (change / scale).round().to(torch.int8).numpy()
                arrays[key + ".scale"] = scale.numpy()
        np.savez_compressed(self.out / f"teacher_{name}.npz", **arrays)

    # Labels

    def student_draw(self, step: int) -> tuple[TokenWorld, Draw, bool]:
        """Slates of one step of every student; two steps in five are of mixed worlds."""
        random = np.random.default_rng([self.s.seed, ROLE_SEEDS["student"], step])
        is_mixed = step % 5 in (1, 3)
        worlds = self.mixed if is_mixed else self.plain
        return worlds[step % len(worlds)], self._draw(random, self.s.bag_slates), is_mixed

    @torch.inference_mode()
    def label(self) -> None:
        """The teachers' logits of as many steps as the seconds allow."""
        best_weight = self._choose_weight()
        tables = {
            is_mixed: [self._world_vectors(world) for world in worlds]
            for is_mixed, worlds in ((False, self.plain), (True, self.mixed))
        }
        self.log("labels", tower_tables=True)

        def batch_of(step: int) -> tuple[Draw, Chunks]:
            world, drawn, _ = self.student_draw(step)
            random = np.random.default_rng(0)
            size = 2 * self.s.joint_chunk
            return drawn, joint_chunks(drawn, world.encoder, self.marks, size, 0.0, random)

        kept: list[Tensor] = []
        end = time.monotonic() + self.seconds("labels")
        for step, (drawn, chunks) in enumerate(self._batches(batch_of)):
            is_mixed = step % 5 in (1, 3)
            vectors = tables[is_mixed][step % len(tables[is_mixed])].float()
            towers = tower_logits(self.towers, drawn, vectors)
            mean = towers
            if self.joint is not None:
                joint = joint_logits(self.joint, chunks, self.device, self.dtype, 0.0)
                mean = best_weight * joint.view(towers.shape) + (1 - best_weight) * towers
            kept.append(mean.half())
            if step % 8 == 0 and self.device.type == "cuda":
                torch.cuda.synchronize()
            if time.monotonic() > end and len(kept) >= 2:
                break
        self.labels = torch.stack(kept)
        np.savez(self.out / "labels.npz", logits=self.labels.cpu().numpy(), **self.valid_teachers)
        self.log("labels", steps=len(kept), pairs=self.labels.numel(), weight=best_weight)

    def _choose_weight(self) -> float:
        towers = self.tower_scores()
        self.valid_teachers = {"towers": towers}
        if self.joint is None:
            return 0.0
        joint = self.joint_scores(self.joint)
        self.valid_teachers["joint"] = joint
        rows = {w: self.valid.metrics(w * joint + (1 - w) * towers) for w in (0.3, 0.5, 0.7, 1.0)}
        for weight, row in rows.items():
            self.log("teachers", weight=weight, **row)
        return max(rows, key=lambda weight: rows[weight]["select"])

    def _world_vectors(self, world: TokenWorld) -> Tensor:
        random = np.random.default_rng(0)
        chunks = tower_chunks(world.encoder, self.marks, 2 * self.s.tower_chunk, 0.0, random)
        return tower_vectors(self.towers, chunks, self.device, self.dtype, 0.0).to(self.dtype)

    # Students

    def slates_of(self, step: int) -> tuple[int, Slates]:
        """The student's side of a labelled step."""
        random = np.random.default_rng([self.s.seed, ROLE_SEEDS["framing"], step])
        step %= len(self.labels)
        world, drawn, _ = self.student_draw(step)
        return step, framed(drawn, *world.student, self.s.student_dropout, random)

    def _target(self, step: int, grades: np.ndarray, rows: slice) -> tuple[Tensor, Tensor | None]:
        teacher = self.labels[step, rows].float()
        if step % 5 in (1, 3):
            return teacher, None
        return teacher, torch.from_numpy(grades[rows]).to(self.device)

    def train_bags(self) -> None:
        """Words first: the wired decoder over bags, from two rates of the embedding."""
        words = self._words()
        best, self.student = {"select": -1.0}, None
        for rate in (1e-3, 4e-3):
            torch.manual_seed(self.s.seed)
            decoder = student_of(StudentShape(), words, len(MARKERS)).to(self.device)
            self.log("bags untrained", **self.valid.metrics(self.student_scores(decoder)))
            metrics = self._train_bags(decoder, rate)
            self.log("bags best", rate=rate, **metrics)
            if metrics["select"] > best["select"]:
                best, self.student = metrics, decoder
        assert self.student is not None
        self._save_student("bags", self.student)

    def _words(self) -> Tensor:
        vocabulary = self.student_tokenizer.get_vocab()
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        vectors = token_vectors(
            self.towers, self.encoder_tokenizer, tokens, self.device, self.dtype
        )
        counts = np.ones(len(tokens))
        for world in (*self.plain, *self.mixed):
            for side in world.student:
                counts += np.bincount(side.flat, minlength=len(tokens))
        return principal_parts(vectors, counts, StudentShape().hidden_size - RESERVED)

    def _train_bags(self, decoder: Decoder, rate: float) -> dict[str, float]:
        weight = decoder.model.embed_tokens.weight
        movable = movable_embeddings(weight.detach())
        handle = weight.register_hook(lambda gradient: gradient * movable)  # type: ignore[no-untyped-call]
        rest = [*layers_of(decoder)[-1].parameters(), *decoder.model.norm.parameters()]
        groups = [
            {"params": [weight], "lr": rate, "weight_decay": 0.0},
            {"params": rest, "lr": 2e-3, "weight_decay": 0.01},
        ]

        def loss_of(batch: tuple[int, Slates]) -> Tensor:
            step, drawn = batch
            role = JOB if drawn.jobs_are_candidates else MEMBER
            slates = torch.from_numpy(drawn.slates).to(self.device)
            logits = score_bags(decoder, drawn.contexts, drawn.candidates, slates, role)
            teacher, grades = self._target(step, drawn.grades, slice(None))
            return student_loss(logits, teacher, grades, self.s.temperature, self.s.truth_share)

        metrics = self._train_student(
            "bags", decoder, [weight, *rest], groups, self.slates_of, loss_of
        )
        handle.remove()
        return metrics

    def packed_of(self, step: int) -> tuple[int, slice, np.ndarray, tuple[Any, ...]]:
        """Half of a labelled step's slates, packed for the whole decoder."""
        labelled, drawn = self.slates_of(step // 2)
        half = self.s.bag_slates // 2
        rows = slice(half * (step % 2), half * (step % 2) + half)
        slates = [[drawn.candidates[index] for index in row] for row in drawn.slates[rows]]
        batch = SlateBatch.pack(drawn.contexts[rows], slates)
        return labelled, rows, drawn.grades, as_arrays(batch)

    def _score(self, decoder: Decoder, packed: tuple[Any, ...]) -> Tensor:
        tensors = [torch.from_numpy(array).to(self.device) for array in packed[:-1]]
        with self.device:
            return score_slates(decoder, SlateBatch(*tensors, packed[-1]), LABELS)

    def train_students(self) -> None:
        """The whole decoder, with three layers and with four."""
        assert self.student is not None
        for layers in (3, 4):
            torch.manual_seed(self.s.seed)
            shape = StudentShape(layers=layers)
            decoder = deepened(self.student, shape).to(self.device)
            source = copy.deepcopy(decoder)
            self.log(
                "full start", layers=layers, **self.valid.metrics(self.student_scores(decoder))
            )
            metrics = self._train_full(decoder)
            self.log("full best", layers=layers, **metrics)
            best = self._blended(decoder, source, layers)
            self._save_student(f"layers{layers}", best)
        (self.out / "student_bags.tar.gz").unlink()  # what comes back has a limit

    def _train_full(self, decoder: Decoder) -> dict[str, float]:
        weight = decoder.model.embed_tokens.weight
        rest = [other for other in decoder.parameters() if other is not weight]
        groups = [
            {"params": [weight], "lr": 2e-4, "weight_decay": 0.0},
            {"params": rest, "lr": 7e-4, "weight_decay": 0.01},
        ]

        def loss_of(batch: tuple[int, slice, np.ndarray, tuple[Any, ...]]) -> Tensor:
            step, rows, grades, packed = batch
            teacher, truth = self._target(step, grades, rows)
            logits = self._score(decoder, packed)
            return student_loss(logits, teacher, truth, self.s.temperature, self.s.truth_share)

        return self._train_student(
            "full", decoder, [weight, *rest], groups, self.packed_of, loss_of
        )

    def _train_student(
        self,
        name: str,
        decoder: Decoder,
        weights: list[nn.Parameter],
        groups: list[dict[str, Any]],
        batch_of: Callable[[int], Any],
        loss_of: Callable[[Any], Tensor],
    ) -> dict[str, float]:
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=self.device.type == "cuda")
        self.labels = self.labels.to(self.device)
        return train_timed(
            weights,
            optimizer,
            self._batches(batch_of),
            loss_of,
            Clock(self.seconds(name), 30, self.s.evaluate_every),
            lambda: self.valid.metrics(self.student_scores(decoder)),
            lambda row: self.log(name, **row),
        )

    def _blended(self, trained: Decoder, source: Decoder, layers: int) -> Decoder:
        best, kept = -1.0, trained
        for share in (1.0, 0.75, 0.5, 0.25):
            blend = copy.deepcopy(trained)
            with torch.no_grad():
                for weight, origin in zip(blend.parameters(), source.parameters(), strict=True):
                    weight.lerp_(origin, 1 - share)
            metrics = self.valid.metrics(self.student_scores(blend))
            self.log("blend", layers=layers, share=share, **metrics)
            if metrics["select"] > best:
                best, kept = metrics["select"], blend
        return kept

    @torch.no_grad()
    def student_scores(self, decoder: Decoder) -> np.ndarray:
        """The student's raw logits of `valid`."""
        return torch.cat(
            [self._score(decoder, batch).cpu() for batch in self._valid_slates]
        ).numpy()

    @cached_property
    def _valid_slates(self) -> list[tuple[Any, ...]]:
        batches = []
        for start in range(0, len(self.valid.requests), 64):
            part: list[Request] = self.valid.requests[start : start + 64]
            contexts = self._framed([r.context for r in part], MEMBER_CONTEXT, ())
            slates = [self._framed(list(r.candidates), JOB_CANDIDATE, (MATCH,)) for r in part]
            batches.append(as_arrays(SlateBatch.pack(contexts, slates)))
        return batches

    def _framed(self, texts: list[str], head: int, tail: tuple[int, ...]) -> list[Any]:
        encodings = self.student_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [np.array([head, *encoding.ids, *tail]) for encoding in encodings]

    def _save_student(self, name: str, decoder: Decoder) -> None:
        directory = Path(tempfile.mkdtemp()) / name
        directory.mkdir()
        path = directory / TOKENIZER_NAME
        self.student_tokenizer.save(str(path))
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
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_float32_matmul_precision("high")
    given.out.mkdir(parents=True, exist_ok=True)
    settings = replace(Settings(given.seconds), **(TINY if given.tiny else {}))
    run = Rehearsal(given.encoder, given.data, given.out, settings)
    run.run()


if __name__ == "__main__":
    main()
