"""Compares candidates sent as text with stored ones. Knows nothing of how vectors are trained.

python -m compress.benches.bench_items MODEL --data DIR --json - [--csv FILE]
Compares quality and speed. Shape C is the model on the slates of its `test` split, shape A a random
one of 27 M parameters with 64 candidates of 24 tokens. Text and vectors take turns on each slate,
its context warm.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.data.requests import Request, load_requests
from compress.items.stored_candidates import StoredItems, job_of, new_engine, quality, raw_logits
from models.benches.quality import kendall_tau
from models.benches.random_models import save_random_model
from models.benches.rows import conditions, keep_rows, usable_cores
from models.benches.shapes import SHAPE_A, Shape
from models.checkpoint import ModelDirectory, load_model_directory
from models.engines.base import Engine, ScoreJob
from models.engines.cpu_runner import new_cpu_runner
from models.engines.fairslate import RunnerEngine
from models.item_encoder import ENCODER_PATH

CACHE_BYTES = 256 << 20
WARM_UP = 3  # slates that nobody times
DTYPES = ("int8", "float32")


@dataclass(frozen=True, slots=True)
class Row:
    """Candidates of one kind on one shape; intervals are of 95 %, over groups of requests.

    tokens: of a candidate on average, template included. kendall_tau: to the order of the texts in
    the same dtype, mean over slates. Random weights have no quality.
    """

    shape: str
    candidates: str  # "text" or "stored"
    dtype: str
    tokens: float
    items_per_s: float
    items_p20: float
    items_p80: float
    slates: int
    ndcg_10: float | None = None
    ndcg_10_low: float | None = None
    ndcg_10_high: float | None = None
    gauc: float | None = None
    gauc_low: float | None = None
    gauc_high: float | None = None
    kendall_tau: float | None = None


Pair = tuple[ScoreJob, ScoreJob]  # a slate as text, and stored


def random_rows(shape: Shape, slates: int, dtype: str) -> list[Row]:
    """A random model of the shape: candidates of its length beside one vector in a template."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = load_model_directory(save_random_model(Path(scratch) / "model", shape))
        vectors = torch.randn(slates * shape.candidates, shape.config.hidden_size) * 0.02
        runner = new_cpu_runner(directory, CACHE_BYTES, dtype, vectors=vectors.bfloat16())
    return _timed(shape.name, dtype, RunnerEngine(runner), list(random_pairs(shape, slates)))


def random_pairs(shape: Shape, slates: int) -> Iterator[Pair]:
    """Fresh candidates of one context; a stored one keeps its first and last token."""
    fresh = shape.config.vocab_size
    for job in islice(shape.jobs(seed=5, same_context=True), slates):
        rows = range(fresh, fresh + len(job.candidates))
        fresh = rows.stop
        stored = [(ids[0], row, ids[-1]) for ids, row in zip(job.candidates, rows, strict=True)]
        yield job, ScoreJob(job.context_ids, job.block_hashes, tuple(stored))


def graded_rows(
    directory: ModelDirectory, requests: Sequence[Request], stored: StoredItems, dtype: str
) -> list[Row]:
    """The requests' slates, each candidate as its text and as the entry that it became."""
    engine = new_engine(directory, stored, dtype)
    pairs = [
        (
            job_of(directory, request, stored.prompt),
            job_of(directory, request, stored.prompt, stored),
        )
        for request in requests
    ]
    rows = _timed("C", dtype, engine, pairs)
    texts, vectors = (list(raw_logits(engine, jobs)) for jobs in zip(*pairs, strict=True))
    tau = float(np.mean([kendall_tau(*both) for both in zip(texts, vectors, strict=True)]))
    return [
        _with_quality(row, quality(directory, requests, logits), tau if logits is vectors else 1.0)
        for row, logits in zip(rows, (texts, vectors), strict=True)
    ]


def _timed(shape: str, dtype: str, engine: Engine, pairs: Sequence[Pair]) -> list[Row]:
    """Rows of texts and of vectors; who comes first changes from slate to slate."""
    rates: tuple[list[float], list[float]] = ([], [])
    for number, pair in enumerate(pairs):
        context, hashes = pair[0].context_ids, pair[0].block_hashes
        engine.score([ScoreJob(context, hashes, ())])
        for kind in (number % 2, 1 - number % 2):
            started = time.perf_counter()
            engine.score([pair[kind]])
            rates[kind].append(len(pair[kind].candidates) / (time.perf_counter() - started))
    kinds = zip(("text", "stored"), rates, zip(*pairs, strict=True), strict=True)
    return [_row(shape, kind, dtype, own[WARM_UP:], jobs) for kind, own, jobs in kinds]


def _row(
    shape: str, kind: str, dtype: str, rates: Sequence[float], jobs: Sequence[ScoreJob]
) -> Row:
    p20, p50, p80 = (round(value, 1) for value in np.percentile(rates, (20, 50, 80)).tolist())
    tokens = float(np.mean([len(ids) for job in jobs for ids in job.candidates]))
    return Row(shape, kind, dtype, round(tokens, 1), p50, p20, p80, len(rates))


def _with_quality(row: Row, found: dict[str, Any], tau: float) -> Row:
    content = asdict(row)
    for name, field in (("ndcg@10", "ndcg_10"), ("gauc", "gauc")):
        value, low, high = (round(found[name][bound], 4) for bound in ("value", "low", "high"))
        content |= {field: value, f"{field}_low": low, f"{field}_high": high}
    return Row(**content | {"kendall_tau": round(tau, 4)})


def main() -> None:
    """The command line; see the module's first lines."""
    parser = argparse.ArgumentParser(prog="python -m compress.benches.bench_items")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help=f"by default MODEL/{ENCODER_PATH}")
    parser.add_argument("--slates", type=int, default=40, help="of the random model")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", default="-", help="file for the lines, - prints them")
    parser.add_argument("--csv", type=Path, help="file that keeps the rows")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    directory, stated = load_model_directory(given.model), conditions()
    requests = load_requests(given.data, "test")
    encoder = given.encoder or given.model / ENCODER_PATH
    with tempfile.TemporaryDirectory() as scratch:
        stored = StoredItems.encode(directory, encoder, given.data, Path(scratch) / "catalogue")
        rows = [row for d in DTYPES for row in graded_rows(directory, requests, stored, d)]
    rows += [row for dtype in DTYPES for row in random_rows(SHAPE_A, given.slates, dtype)]
    text = "".join(json.dumps(asdict(row) | stated) + "\n" for row in rows)
    if given.json == "-":
        print(text, end="")
    else:
        Path(given.json).write_text(text, encoding="utf-8")
    if given.csv:
        keep_rows(given.csv, rows, stated)


if __name__ == "__main__":
    main()
