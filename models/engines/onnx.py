"""Scores slates with the graphs of `models.export` on ONNX Runtime. Knows no decoder and no torch.

`share` runs a context once and all candidates behind it; without, every pair of context and
candidate is a prompt of its own, one after another, as scorers of pairs are commonly deployed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from models.engines.base import ScoreJob

Floats = npt.NDArray[np.float32]
TOKENS_PER_CALL = 2048
PROVIDERS = ["CPUExecutionProvider"]


class OnnxScorer:
    """One precision's directory of graphs; one caller at a time.

    cache_bytes: of the keys and values of contexts that are kept, least recently used out first.
    threads: of one product, None leaves the choice to the runtime.
    """

    def __init__(
        self, graphs: Path, cache_bytes: int, threads: int | None = None, share: bool = True
    ) -> None:
        self._candidates = _session(graphs / "candidates.onnx", threads)
        self._share = share
        layers, heads, _, width = self._candidates.get_inputs()[2].shape
        self._nothing = np.zeros((layers, heads, 0, width), np.float32)
        if share:
            self._contexts = _session(graphs / "context.onnx", threads)
        self._cache_bytes = cache_bytes
        self._held: OrderedDict[tuple[int, ...], list[Floats]] = OrderedDict()

    def label_logits(self, job: ScoreJob) -> Floats:
        """(candidates, labels), in order."""
        if not self._share:
            pairs = ((job.context_ids + ids,) for ids in job.candidates)
            keys_values = [self._nothing, self._nothing]
            return np.concatenate([self._run(pair, keys_values) for pair in pairs])
        keys_values = self._context(job.context_ids)
        answers: list[Floats] = [np.empty(0, np.float32)] * len(job.candidates)
        for indices in _batches([len(ids) for ids in job.candidates]):
            rows = self._run([job.candidates[index] for index in indices], keys_values)
            for index, row in zip(indices, rows, strict=True):
                answers[index] = row
        return np.stack(answers)

    def raw_logits(self, job: ScoreJob) -> list[float]:
        """Of the first label less the second."""
        logits = self.label_logits(job)
        return (logits[:, 0] - logits[:, 1]).tolist()  # type: ignore[no-any-return]

    def _context(self, ids: tuple[int, ...]) -> list[Floats]:
        """Keys and values of the context, kept as far as the budget goes."""
        if ids not in self._held:
            self._held[ids] = self._contexts.run(None, {"token_ids": np.array([ids], np.int64)})
        self._held.move_to_end(ids)
        found = self._held[ids]
        while sum(k.nbytes + v.nbytes for k, v in self._held.values()) > self._cache_bytes:
            self._held.popitem(last=False)
        return found

    def _run(self, items: Sequence[tuple[int, ...]], keys_values: Sequence[Floats]) -> Floats:
        lengths = np.array([len(ids) for ids in items], np.int64)
        token_ids = np.zeros((len(items), lengths.max()), np.int64)
        for row, ids in zip(token_ids, items, strict=True):
            row[: len(ids)] = ids
        keys, values = keys_values
        inputs = {"token_ids": token_ids, "lengths": lengths, "keys": keys, "values": values}
        (logits,) = self._candidates.run(None, inputs)
        return logits  # type: ignore[no-any-return]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices by length, so that little is padded, at most TOKENS_PER_CALL a batch if it can."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > TOKENS_PER_CALL:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _session(path: Path, threads: int | None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    return onnxruntime.InferenceSession(str(path), options, providers=PROVIDERS)
