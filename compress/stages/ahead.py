"""Batches of one step after another, made by other processes while this one computes.

Knows nothing of what a batch holds; it must be a function of the step alone, made without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from compress.stages.stage import ON_CPU

Batch = TypeVar("Batch")
ENDLESS = 1 << 40
KEPT_READY = 3  # batches a process may be ahead


class Ahead(Generic[Batch]):
    """`batch_of` for consecutive steps; the first one asked for may be any. No workers: on demand.

    Processes are forked at the first step, so that they share what `batch_of` has read until then.
    """

    def __init__(self, batch_of: Callable[[int], Batch], workers: int) -> None:
        self._steps, self._workers = _Steps(batch_of), workers
        self._made: Iterator[tuple[int, Batch]] | None = None

    def __call__(self, step: int) -> Batch:
        if not self._workers:
            return self._steps[step][1]
        with ON_CPU:
            if self._made is None:
                self._made = self._from(step)
            number, batch = next(self._made)
        assert number == step, f"step {step} was asked for when {number} came next"
        return batch

    def _from(self, start: int) -> Iterator[tuple[int, Batch]]:
        return iter(
            DataLoader(
                self._steps,
                batch_size=None,
                sampler=range(start, ENDLESS),
                num_workers=self._workers,
                collate_fn=_whole,
                prefetch_factor=KEPT_READY,
                multiprocessing_context="fork",
            )
        )


class _Steps(Dataset[tuple[int, Batch]]):
    """Batches by step."""

    def __init__(self, batch_of: Callable[[int], Batch]) -> None:
        self._batch_of = batch_of

    def __getitem__(self, step: int) -> tuple[int, Batch]:
        # The loop's device must not reach here: what is forked from a process cannot use its GPU.
        with ON_CPU:
            return step, self._batch_of(step)


def _whole(batch: Batch) -> Batch:
    """Batches arrive as they were made."""
    return batch
