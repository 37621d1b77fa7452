"""The slates a scorer is measured on, and random ones like them. Knows no engine and no clock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from models.config import DecoderConfig
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.packing import TokenIds
from models.prompt import block_hashes

BLOCK_SIZE = 16
LABEL_IDS = (9693, 2152)  # " yes" and " no" of Qwen's tokenizer; any two tokens would do

QWEN3_06B = DecoderConfig(
    vocab_size=151_936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    rope_theta=1e6,
    max_position_embeddings=40_960,
)
# 155.6 M of embeddings and 14 layers of 15.7 M: 376 M parameters, as many as LinkedIn's ranker.
QWEN3_376M = replace(QWEN3_06B, num_hidden_layers=14)
QWEN3_27M = DecoderConfig(4096, 512, 1536, 8, 8, 4, 64, rope_theta=1e6)
TINY = DecoderConfig(512, 64, 96, 2, 4, 2, 16)


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of slate; lengths are drawn evenly between their bounds."""

    name: str
    config: DecoderConfig
    context_tokens: tuple[int, int]
    candidates: int
    candidate_tokens: tuple[int, int]

    def jobs(self, seed: int, same_context: bool) -> Iterator[ScoreJob]:
        """Endless jobs with fresh candidates each, and one context or a fresh one each."""
        rng = random.Random(seed)
        context = self._draw(rng, self.context_tokens)
        while True:
            if not same_context:
                context = self._draw(rng, self.context_tokens)
            candidates = [self._draw(rng, self.candidate_tokens) for _ in range(self.candidates)]
            yield ScoreJob(context, block_hashes(context, BLOCK_SIZE), tuple(candidates))

    def _draw(self, rng: random.Random, bounds: tuple[int, int]) -> TokenIds:
        return tuple(rng.choices(range(self.config.vocab_size), k=rng.randint(*bounds)))


SLATE_16 = Shape("16", QWEN3_06B, (200, 300), 16, (24, 50))
SHAPE_A = Shape("A", QWEN3_27M, (205, 205), 64, (24, 24))
SHAPE_B = Shape("B", QWEN3_06B, (205, 205), 64, (24, 24))
SHAPE_D = Shape("D", QWEN3_376M, (50, 50), 50, (150, 150))
SHAPE_L = Shape("L", QWEN3_06B, (12_000, 12_000), 50, (150, 150))
TINY_SLATE = Shape("tiny", TINY, (20, 40), 4, (3, 9))
SHAPES = {shape.name: shape for shape in (SLATE_16, SHAPE_A, SHAPE_B, SHAPE_D, SHAPE_L, TINY_SLATE)}


def random_decoder(config: DecoderConfig, device: torch.device, seed: int = 0) -> Decoder:
    """Normal weights of spread 0.02, each exactly a bf16 value, so that every provider has them."""
    with device:
        torch.manual_seed(seed)
        decoder = Decoder(config).eval().requires_grad_(False)
        for parameter in decoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02)
            parameter.copy_(parameter.bfloat16())
    return decoder


def linear_operations(config: DecoderConfig, job: ScoreJob, warm: bool) -> int:
    """Floating-point operations of the linear layers that scoring the job cannot do without.

    The last layer mixes all tokens but computes output projection and MLP for last ones only.
    """
    hidden, queries = config.hidden_size, config.num_attention_heads * config.head_dim
    qkv = hidden * (queries + 2 * config.num_key_value_heads * config.head_dim)
    rest = hidden * queries + 3 * hidden * config.intermediate_size
    tokens = sum(map(len, job.candidates)) + (0 if warm else len(job.context_ids))
    layers = config.num_hidden_layers
    return 2 * (tokens * (layers * qkv + (layers - 1) * rest) + len(job.candidates) * rest)
