"""What tests of the C++ decoder share: whether it runs here, decoders of every kind, and jobs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from models.config import DecoderConfig
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.cpu_probe import DTYPES, CpuChoice, available
from models.engines.fairslate import RunnerEngine
from models.engines.native_runner import NativeRunner, NativeSettings
from models.engines.packed_runner import PackedRunner
from models.head_card import yes_no
from models.native.library import native_library
from models.prompt import block_hashes

TokenIds = tuple[int, ...]
VOCABULARY, BLOCK, LABELS = 300, 16, yes_no((3, 11))
PLAIN = DecoderConfig(VOCABULARY, 64, 96, 2, 4, 2, 32, max_position_embeddings=1024)
# One of each part that C++ treats apart; widths that are no multiples of anything.
CONFIGS = {
    "plain": PLAIN,
    "odd widths": replace(
        PLAIN, hidden_size=72, intermediate_size=100, head_dim=10, rms_norm_eps=1e-3
    ),
    "biased": replace(PLAIN, attention_bias=True, output_bias=True, mlp_bias=True),
    "no head norms": replace(PLAIN, model_type="llama", head_dim=16),
    "every head its own keys": replace(PLAIN, num_key_value_heads=4),
    "one key head of wide ones": replace(PLAIN, num_key_value_heads=1, head_dim=64),
    "one layer": replace(PLAIN, num_hidden_layers=1),
}
RUNS = {o.dtype: o.runs for o in available(PLAIN, BLOCK) if o.backend == "native"}
NARROW_AND_WIDE = [
    pytest.param(dtype, marks=pytest.mark.skipif(not RUNS[dtype], reason="does not run here"))
    for dtype in DTYPES
]
needs_native = pytest.mark.skipif(not RUNS["float32"], reason="the C++ decoder does not run here")


def random_decoder(config: DecoderConfig, seed: int = 7) -> Decoder:
    """Wide enough that attention and scores are far from uniform, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(config).eval().requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        spread = 0.15 if parameter.ndim > 1 else 0.3
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        if "norm" in name:
            parameter.add_(1)
    return decoder


def native_engine(
    decoder: Decoder,
    dtype: str = "float32",
    cache_bytes: int = 1 << 22,
    threads: int = 2,
    vectors: torch.Tensor | None = None,
) -> RunnerEngine:
    settings = NativeSettings(CpuChoice(dtype, "native", "test"), BLOCK, 640, threads)
    library = native_library()
    return RunnerEngine(NativeRunner(decoder, LABELS, cache_bytes, library, settings, vectors))


def torch_engine(
    decoder: Decoder,
    dtype: str = "float32",
    cache_bytes: int = 1 << 22,
    deterministic: bool = False,
    vectors: torch.Tensor | None = None,
) -> RunnerEngine:
    choice = CpuChoice(dtype, "torch", "test")
    return RunnerEngine(
        PackedRunner(decoder, LABELS, BLOCK, cache_bytes, choice, deterministic, vectors)
    )


def job(context: TokenIds, candidates: Sequence[TokenIds]) -> ScoreJob:
    return ScoreJob(context, block_hashes(context, BLOCK), tuple(candidates))


def drawn(rng: random.Random, count: int) -> TokenIds:
    return tuple(rng.randrange(VOCABULARY) for _ in range(count))


def drawn_jobs(seed: int = 5) -> list[ScoreJob]:
    """Contexts from none to several chunks of keys, candidates from one token to several pages."""
    rng = random.Random(seed)
    lengths = [(44, [9, 33, 1, 70]), (16, [12]), (0, [5, 17]), (555, [24] * 6), (300, [2, 300])]
    jobs = [job(drawn(rng, n), [drawn(rng, m) for m in sizes]) for n, sizes in lengths]
    longer = jobs[0].context_ids + drawn(rng, 21)  # its first blocks are another job's
    return [*jobs, job(longer, [drawn(rng, 8)])]


def logits(engine: RunnerEngine, jobs: Sequence[ScoreJob]) -> list[float]:
    return [logit for scores in engine.score(jobs) for logit in scores.raw_logits]
