"""What a reason costs beside a slate, in one core's time and in tokens. Knows no gate and no HTTP.

    python -m service.reason_bench --json loadtest/results/reasons.json

Members of `valid` with eight postings each are written about, their contexts read before, by turns
with slates of the ranker: `batch` postings at a time, as many as go into a batch of the gate.
`fair_output_weight` is the w_q at which a second of either is charged alike:
(reason's time / ranking token's time - extend tokens) / output tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kernels.kept.conditions import conditions
from models.directory import ModelDirectory, load_model_directory
from models.engines.base import JobScores, ReasonJob, ScoreJob, Written
from models.engines.fairslate import FairslateEngine
from models.engines.reason_writer import ReasonWriter
from models.reasons.grammar import ReasonTokens
from service.base.config import Settings
from service.bench import new_engine, read_rows
from service.bodies.schemas import Candidate, RankRequest, ReasonRequest
from service.engines.engine_process import warm_writer
from service.jobs.jobs import decode_job
from service.process.served_models import open_reasoner
from service.slates.reasons import encode_reasons, reason_jobs
from service.slates.slate import Errand, encode_slate, slate_jobs
from service.tenants.tenants import OPEN_TENANT

POSTINGS = 8
ERRAND = Errand("bench", OPEN_TENANT.path(), 0, 600_000, "bench")


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds and tokens of the same work, contexts held, each part by itself."""

    reasons: int
    reason_seconds: float
    extend_tokens: int
    output_tokens: int
    ranking_seconds: float
    ranking_tokens: int

    @property
    def output_weight(self) -> float:
        """w_q at which a second of either kind of work is charged alike."""
        alike = self.reason_seconds / (self.ranking_seconds / self.ranking_tokens)
        return (alike - self.extend_tokens) / self.output_tokens


def main() -> None:
    """Prints the row, and keeps it where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="where the row is kept")
    options = parser.parse_args()
    settings = replace(Settings.from_environment(), threads=1)
    row = measure(settings, options.members, options.rounds, options.batch)
    text = json.dumps(conditions() | row, indent=2) + "\n"
    print(text, end="")
    if options.json:
        options.json.write_text(text, encoding="utf-8")


def measure(settings: Settings, members: int, rounds: int, batch: int) -> dict[str, Any]:
    """Medians over the rounds, and every round."""
    torch.set_num_threads(1)
    directory, reasoner = load_model_directory(settings.model_path), open_reasoner(settings)
    assert reasoner is not None, "FAIRSLATE_REASONER is empty"
    rows = read_rows(settings.model_path / "onet_jobs" / "valid.jsonl.gz")[:members]
    postings = read_rows(settings.model_path / "onet_jobs" / "items.jsonl.gz")
    pairs = [
        (row["prefix"], [one["text"] for one in postings[at * POSTINGS :][:POSTINGS]])
        for at, row in enumerate(rows)
    ]
    reasons = [_reasons(reasoner, *pair) for pair in pairs]
    slates = [_slate(directory, *pair) for pair in pairs]
    engine, writer = new_engine(settings, directory), warm_writer(settings, reasoner)
    found = [_round(engine, writer, slates, reasons, batch) for _ in range(rounds + 1)][1:]
    return {
        "reasons_per_s": statistics.median(one.reasons / one.reason_seconds for one in found),
        "ms_per_reason": statistics.median(
            1000 * one.reason_seconds / one.reasons for one in found
        ),
        "extend_tokens": found[0].extend_tokens / found[0].reasons,
        "output_tokens": found[0].output_tokens / found[0].reasons,
        "fair_output_weight": statistics.median(one.output_weight for one in found),
        "output_weight": settings.output_weight,
        "postings": POSTINGS,
        "batch": batch,
        "members": members,
        "rounds": [asdict(one) for one in found],
    }


def _round(
    engine: FairslateEngine,
    writer: ReasonWriter,
    slates: Sequence[Sequence[ScoreJob]],
    reasons: Sequence[Sequence[ReasonJob]],
    batch: int,
) -> Round:
    reason_seconds = ranking_seconds = 0.0
    written: list[Written] = []
    scores: list[JobScores] = []
    for slate, pairs in zip(slates, reasons, strict=True):
        started = time.perf_counter()
        for at in range(0, len(pairs), batch):
            written += writer.write(pairs[at : at + batch])
        between = time.perf_counter()
        scores += engine.score(slate)
        reason_seconds += between - started
        ranking_seconds += time.perf_counter() - between
    return Round(
        reasons=len(written),
        reason_seconds=reason_seconds,
        extend_tokens=sum(one.extend_tokens for one in written),
        output_tokens=sum(one.output_tokens for one in written),
        ranking_seconds=ranking_seconds,
        ranking_tokens=sum(one.extend_tokens for one in scores),
    )


def _reasons(reasoner: ModelDirectory, context: str, texts: Sequence[str]) -> list[ReasonJob]:
    candidates = [{"id": str(index), "text": text} for index, text in enumerate(texts)]
    request = ReasonRequest.model_validate({"context": context, "candidates": candidates})
    prompt = reasoner.prompt
    slate = encode_reasons(request, reasoner.card, prompt, ReasonTokens(prompt))
    decoded = [
        decode_job(job.payload).job
        for _, job in reason_jobs(slate, ERRAND, reasoner.card.block_size)
    ]
    return [job for job in decoded if isinstance(job, ReasonJob)]


def _slate(directory: ModelDirectory, context: str, texts: Sequence[str]) -> list[ScoreJob]:
    candidates = [Candidate(id=str(index), text=text) for index, text in enumerate(texts)]
    request = RankRequest(context=context, candidates=candidates)
    slate = encode_slate(request, directory.card, directory.prompt)
    jobs = slate_jobs(slate, ERRAND, directory.card.block_size, token_budget=1 << 20)
    decoded = [decode_job(job.payload).job for job in jobs]
    return [job for job in decoded if isinstance(job, ScoreJob)]


if __name__ == "__main__":
    main()
