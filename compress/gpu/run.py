"""What all phases of the GPU run share: data, worlds, time and log. Knows no model's training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from compress.data.worlds import TokenWorld, WorldSource
from compress.encoders.pair_encoder import PairEncoder
from compress.encoders.pair_slates import (
    Marks,
)
from compress.encoders.pair_teacher import encoder_tokenizer
from compress.gpu.settings import Settings
from compress.gpu.valid_scores import ValidScores
from compress.stages.timed import Clock
from compress.students.student_steps import (
    is_mixed,
)
from compress.students.word_table import vocabulary_of

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


class GpuRun:
    """Shared state of one run."""

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
