"""The GPU benchmark runs on a CPU with a tiny model, and counts what it says it counts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from models import gpu_bench
from models.benches.peers import TransformersPeer, transformers_model
from models.benches.rounds import Provider, largest_dp, measure
from models.benches.shapes import (
    QWEN3_06B,
    QWEN3_376M,
    SHAPE_D,
    SLATE_16,
    TINY,
    TINY_SLATE,
    Shape,
    linear_operations,
    random_decoder,
)
from models.config import DecoderConfig
from models.engines.base import ScoreJob
from models.engines.fairslate import RunnerEngine
from models.engines.packed_runner import PackedRunner
from models.head_card import yes_no

CPU = torch.device("cpu")


def parameters(config: DecoderConfig) -> int:
    return sum(math.prod(shape) for shape in config.weight_shapes().values())


def test_the_models_are_as_large_as_they_say() -> None:
    assert round(parameters(QWEN3_06B) / 1e6) == 596
    assert round(parameters(QWEN3_376M) / 1e6) == 376


def test_operations_are_those_of_the_linear_layers() -> None:
    job = ScoreJob((1,) * 10, (), ((1,) * 3, (1,) * 4))
    qkv, rest = 64 * (64 + 2 * 32), 64 * 64 + 3 * 64 * 96
    assert linear_operations(TINY, job, warm=True) == 2 * (7 * (2 * qkv + rest) + 2 * rest)
    cold = linear_operations(TINY, job, warm=False) - linear_operations(TINY, job, warm=True)
    assert cold == 2 * 10 * (2 * qkv + rest)


@pytest.mark.parametrize("shape", [SLATE_16, SHAPE_D, TINY_SLATE])
def test_slates_are_of_their_shape_and_fresh(shape: Shape) -> None:
    stream = shape.jobs(seed=1, same_context=True)
    first, second = next(stream), next(stream)
    assert first.context_ids == second.context_ids
    assert not set(first.candidates) & set(second.candidates)
    assert shape.context_tokens[0] <= len(first.context_ids) <= shape.context_tokens[1]
    assert len(first.candidates) == shape.candidates


def test_weights_are_the_same_at_bf16() -> None:
    for parameter in random_decoder(TINY, CPU).parameters():
        assert torch.equal(parameter, parameter.bfloat16().float())


@pytest.mark.parametrize("share", [False, True])
def test_transformers_scores_what_we_score(share: bool) -> None:
    decoder, labels = random_decoder(TINY, CPU), (5, 9)
    peer = TransformersPeer(transformers_model(decoder, CPU, torch.float32), labels, CPU, share)
    engine = RunnerEngine(PackedRunner(decoder, yes_no(labels), 16, 1 << 20))
    stream = TINY_SLATE.jobs(seed=2, same_context=True)
    for job in (next(stream), next(stream)):
        (answer,) = engine.score([job])
        assert peer.score(job) == pytest.approx(answer.raw_logits, abs=2e-6)


def test_a_row_sums_up_its_calls() -> None:
    slates: list[ScoreJob] = []

    def score(jobs: Sequence[ScoreJob]) -> list[list[float]]:
        slates.extend(jobs)
        return [[0.0] * 4] * 2

    provider = Provider("fake", "fp32", score, jobs=2, calls=3)
    (row,) = measure(TINY_SLATE, [provider], "cold", seconds=0, limit=1e12)
    assert (row.calls, row.jobs_per_call, len(slates)) == (15, 2, 2 * 2 + 15 * 2)
    assert len({slate.context_ids for slate in slates}) == len(slates)
    assert row.p50_ms <= row.p95_ms <= row.p99_ms
    assert row.gemm_fraction > 0
    assert row.items_per_s > 0


def test_probabilities_are_compared() -> None:
    assert largest_dp([0.0, 2.0], [0.0, 2.0]) == 0
    assert largest_dp([0.0, 50.0], [math.log(3), 50.0]) == pytest.approx(0.25)
    assert not gpu_bench.Check("tiny", "no numbers", largest_dp([math.nan], [0.0]), 1.0).ok


def test_the_command_writes_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lines"
    options = ["--json", str(file), "--shapes", "tiny", "--seconds", "0", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["gpu_bench", *options])
    monkeypatch.setattr(gpu_bench, "gemm_rate", lambda device: 1e12)
    with pytest.raises(SystemExit) as stopped:
        gpu_bench.main()
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    checks = [line for line in lines if "check" in line]
    assert (stopped.value.code, len(checks)) == (False, 3)
    rows = [line for line in lines if "provider" in line]
    assert len({(row["provider"], row["cache"]) for row in rows}) == len(rows) == 14
    assert all(row["torch"] and row["max_abs_dp"] < 0.02 for row in rows)
