"""Opens what can score requests: a served model directory, or a teacher of another kind.

A teacher that the native engine does not serve names, in `scorer.json`, the module of ours whose
`open_scorer(directory)` reads it. Knows nothing of metrics or training.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from compress.data.requests import Request
from compress.measure.intervals import Scored
from models.checkpoint import ModelDirectory, load_model_directory
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine
from models.errors import ModelDirectoryError, NonFiniteLogitError
from models.quantization import INT

SCORER_NAME = "scorer.json"
CACHE_BYTES = 64 << 20
JOBS_PER_BATCH = 4


class Scorer(Protocol):
    """Scores requests one by one or many at once, the same either way."""

    @property
    def digest(self) -> str:
        """Names what scores exactly."""
        ...

    def raw_logits(self, requests: Sequence[Request]) -> list[list[float]]:
        """One finite number a candidate, in order; higher is better."""
        ...

    def probability(self, raw_logit: float) -> float:
        """The calibrated probability of relevance that a raw logit stands for."""
        ...


class DirectoryScorer:
    """A model directory, scored by the engine that serves it and the head that ranks.

    In fp32, or in int8 where its weights are stored so. backend: "torch" repeats anywhere bit for
    bit, "auto" is as fast as this machine can.
    """

    def __init__(
        self, directory: ModelDirectory, prompt: str | None = None, backend: str = "torch"
    ) -> None:
        self._directory, self._prompt = directory, prompt
        self._engine = FairslateEngine(
            directory, CACHE_BYTES, dtype=served_dtype(directory), backend=backend
        )
        self._calibration = next(iter(directory.card.scoring_heads.values())).calibration
        self._mass: list[float] = []

    @property
    def digest(self) -> str:
        """That of the model directory."""
        return self._directory.digest

    def raw_logits(self, requests: Sequence[Request]) -> list[list[float]]:
        """Of every request's candidates; samples the label mass beside."""
        answers: list[list[float]] = []
        starts = range(0, len(requests), JOBS_PER_BATCH)
        alone = len(starts) == 1  # as in a measurement of speed, slate by slate
        for start in tqdm(starts, "score", mininterval=5, file=sys.stderr, disable=alone):
            jobs = [self._job(request) for request in requests[start : start + JOBS_PER_BATCH]]
            answers += [list(scores.of_head(0)) for scores in self._engine.score(jobs)]
            self._mass += self._engine.drain_label_mass()
        return answers

    def probability(self, raw_logit: float) -> float:
        """As the service answers it."""
        return self._calibration.calibrate(raw_logit)

    def drain_label_mass(self) -> list[float]:
        """What was sampled since the last call; nothing of a classifier."""
        drained, self._mass = self._mass, []
        return drained

    def _job(self, request: Request) -> ScoreJob:
        builder = self._directory.prompt
        context = builder.encode_context(request.context, self._prompt).ids
        candidates = builder.encode_candidates(request.candidates, self._prompt)
        hashes = builder.block_hashes(context, self._directory.card.block_size)
        return ScoreJob(context, hashes, tuple(candidate.ids for candidate in candidates))


def served_dtype(directory: ModelDirectory) -> str:
    """What linear layers compute in when this directory is measured."""
    quantization = directory.config.quantization
    return "int8" if quantization is not None and quantization.form == INT else "float32"


def open_scorer(path: Path) -> Scorer:
    """Raises ModelDirectoryError for a directory that holds neither a card nor a scorer."""
    path = Path(path)
    if not (path / SCORER_NAME).exists():
        return DirectoryScorer(load_model_directory(path))
    try:
        name = json.loads((path / SCORER_NAME).read_text(encoding="utf-8"))["module"]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelDirectoryError(
            f"{path / SCORER_NAME}: names no module ({error}); write the teacher again"
        ) from error
    if not str(name).startswith("compress."):
        raise ModelDirectoryError(
            f"{path / SCORER_NAME}: {name!r} is none of our modules; write the teacher again"
        )
    scorer: Scorer = importlib.import_module(name).open_scorer(path)
    return scorer


def scored_by(scorer: Scorer, requests: Sequence[Request]) -> list[Scored]:
    """Requests with their calibrated probabilities. Raises NonFiniteLogitError."""
    answers = scorer.raw_logits(requests)
    if not all(np.isfinite(values).all() for values in answers):
        raise NonFiniteLogitError(f"{scorer.digest}: a raw logit is not finite; train it again")
    return [
        Scored(request, np.array([scorer.probability(value) for value in values]))
        for request, values in zip(requests, answers, strict=True)
    ]
