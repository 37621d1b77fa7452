"""Measures a model directory on a split, scored as served: native engine, fp32, calibrated.

python -m compress.evaluate MODEL --data DIR --split NAME --json -
Knows nothing of training.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from compress.data import Request, load_requests
from compress.intervals import Scored, measure
from models.checkpoint import ModelDirectory, load_model_directory
from models.engines.base import ScoreJob
from models.engines.fairslate import FairslateEngine

CACHE_BYTES = 64 << 20
JOBS_PER_BATCH = 4
RESAMPLES = 1000


def raw_logits(
    directory: ModelDirectory, requests: Sequence[Request], prompt: str | None = None
) -> list[list[float]]:
    """Raw logits of every request's candidates, in order, of the head that ranks by default."""
    engine = FairslateEngine(directory, CACHE_BYTES)
    answers: list[list[float]] = []
    starts = range(0, len(requests), JOBS_PER_BATCH)
    for start in tqdm(starts, "score", mininterval=5, file=sys.stderr):
        jobs = [_job(directory, r, prompt) for r in requests[start : start + JOBS_PER_BATCH]]
        answers += [list(scores.of_head(0)) for scores in engine.score(jobs)]
    return answers


def score(directory: ModelDirectory, requests: Sequence[Request]) -> list[Scored]:
    """Calibrated probabilities, as the service answers them."""
    calibrate = next(iter(directory.card.scoring_heads.values())).calibration.calibrate
    return [
        Scored(request, np.array([calibrate(value) for value in values]))
        for request, values in zip(requests, raw_logits(directory, requests), strict=True)
    ]


def evaluate(
    directory: ModelDirectory, requests: Sequence[Request], resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Metrics as {name: {value, low, high}}, and what they were counted on."""
    scored = score(directory, requests)
    report: dict[str, Any] = {
        name: {bound: _or_null(value) for bound, value in asdict(interval).items()}
        for name, interval in measure(scored, resamples).items()
    }
    return report | {
        "requests": len(scored),
        "groups": len({item.request.group for item in scored}),
        "pairs": sum(len(item.scores) for item in scored),
        "positives": int(sum(item.labels.sum() for item in scored)),
        "model": {"name": directory.card.name, "digest": directory.digest},
    }


def _or_null(value: float) -> float | None:
    """JSON has no nan; a metric that the data cannot define is null."""
    return None if math.isnan(value) else value


def _job(directory: ModelDirectory, request: Request, prompt: str | None) -> ScoreJob:
    builder = directory.prompt
    context = builder.encode_context(request.context, prompt).ids
    candidates = builder.encode_candidates(request.candidates, prompt)
    hashes = builder.block_hashes(context, directory.card.block_size)
    return ScoreJob(context, hashes, tuple(candidate.ids for candidate in candidates))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.evaluate")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True, help="reads DATA/SPLIT.jsonl.gz")
    parser.add_argument("--json", required=True, help="file to write, - for standard output")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    requests = load_requests(given.data, given.split)
    report = json.dumps(evaluate(load_model_directory(given.model), requests), indent=2)
    if given.json == "-":
        print(report)
    else:
        Path(given.json).write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
