"""Slates, recorded or generated, that calibrate pruning and quantization. Knows no method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.data.requests import TABLES, Request, load_requests, request_files
from compress.data.text_slates import GeneratedSlates
from compress.decoders.slates import SlateBatch
from compress.layers.gram import CalibrationDataError
from compress.stages.costs import CANDIDATE_TOKENS, CONTEXT_TOKENS, pass_cost
from compress.stages.stage import Cost, Shape
from models.directory import ModelDirectory

GENERATED = "generated"
SPLITS = ("train", "valid", GENERATED)
SLATES_PER_BATCH = 4
BATCHES_PER_WORLD = 8  # of generated members and postings
INVERTED_SHARE = 0.25  # of generated batches that rank members for a job
PASSES = 2


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """Which slates: `slates` requests of `split`, drawn by seed, `candidates` of each at most.

    A split of "generated" has them made anew from the tables, in both of the card's directions.
    """

    slates: int = 128
    candidates: int = 12
    split: str = "train"

    @property
    def reads(self) -> Sequence[str]:
        """Files of the data folder. Raises CalibrationDataError for none of SPLITS."""
        _refuse_split(self)
        return TABLES if self.split == GENERATED else request_files(self.split)

    def refuse(self, data: Path, widths: Mapping[str, int]) -> None:
        """Before anything starts. widths: inputs of products that are read at the answers alone.

        Raises CalibrationDataError for fewer requests than asked for, or fewer answers than inputs.
        """
        rows = self.slates * self.candidates
        if self.split != GENERATED:
            counts = sorted((len(one.candidates) for one in _requests(data, self)), reverse=True)
            rows = sum(min(count, self.candidates) for count in counts[: self.slates])
        for name, width in widths.items():
            if rows < width:
                raise CalibrationDataError(
                    f"{name} of the last layer reads {rows} answers at most, fewer than its "
                    f"{width} inputs; ask for more slates or candidates"
                )

    def cost(self, shape: Shape, decoders: int) -> Cost:
        """Of streaming: each half of a layer runs once for its sums and once to go on."""
        tokens = self.slates * (CONTEXT_TOKENS + self.candidates * CANDIDATE_TOKENS)
        one = pass_cost(tokens, shape)
        passes, memory = PASSES * decoders, one.memory * decoders
        return Cost(1, tokens * passes, one.operations * passes, memory)


def calibration_slates(
    directory: ModelDirectory, data: Path, options: CalibrationOptions, seed: int
) -> Iterator[SlateBatch]:
    """Tokenized as served, one batch at a time.

    Raises CalibrationDataError for fewer requests than asked for, and for `test`.
    """
    _refuse_split(options)
    if options.split == GENERATED:
        yield from _generated(directory, data, options, seed)
        return
    requests = _requests(data, options)
    drawn = np.random.default_rng([seed, 3]).permutation(len(requests))[: options.slates]
    for start in range(0, len(drawn), SLATES_PER_BATCH):
        chosen = [requests[index] for index in drawn[start : start + SLATES_PER_BATCH]]
        yield _batch(directory, chosen, options.candidates)


def _refuse_split(options: CalibrationOptions) -> None:
    if options.split not in SPLITS:
        raise CalibrationDataError(
            f"split is {options.split!r}; calibrate on {' or '.join(SPLITS)}: test stays unseen"
        )
    if not options.slates:
        raise CalibrationDataError("0 slates calibrate nothing; ask for at least one")


def _requests(data: Path, options: CalibrationOptions) -> list[Request]:
    """All of the split."""
    requests = load_requests(data, options.split)
    if len(requests) < options.slates:
        raise CalibrationDataError(
            f"{data} has {len(requests)} requests of {options.split}, but {options.slates} slates "
            "are asked for; ask for fewer or name another split"
        )
    return requests


def _generated(
    directory: ModelDirectory, data: Path, options: CalibrationOptions, seed: int
) -> Iterator[SlateBatch]:
    source = GeneratedSlates.load(data, seed, BATCHES_PER_WORLD, INVERTED_SHARE)
    for step, start in enumerate(range(0, options.slates, SLATES_PER_BATCH)):
        count = min(SLATES_PER_BATCH, options.slates - start)
        drawn = source.draw(step, count, options.candidates)
        yield _packed(directory, drawn.contexts, drawn.candidates, drawn.prompt)


def _batch(directory: ModelDirectory, requests: list[Request], candidates: int) -> SlateBatch:
    """All slates of a batch are as wide as the narrowest of them."""
    width = min(candidates, *(len(request.candidates) for request in requests))
    contexts = [request.context for request in requests]
    return _packed(directory, contexts, [request.candidates[:width] for request in requests], None)


def _packed(
    directory: ModelDirectory,
    contexts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    name: str | None,
) -> SlateBatch:
    """In the card's prompt `name`, None being its default."""
    prompt = directory.prompt
    return SlateBatch.pack(
        [np.array(prompt.encode_context(text, name).ids) for text in contexts],
        [
            [np.array(item.ids) for item in prompt.encode_candidates(list(texts), name)]
            for texts in candidates
        ],
    )
