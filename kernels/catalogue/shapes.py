"""The decoders whose sizes the kernels are compiled, checked and timed at. Knows no kernel."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder, named as in the papers; `theta` is the base of its rotary angles."""

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    layers: int
    theta: float = 1e6


QWEN3_06B = ModelShape("Qwen3-0.6B", 1024, 3072, 16, 8, 128, 151_936, 28)
QWEN3_17B = ModelShape("Qwen3-1.7B", 2048, 6144, 16, 8, 128, 151_936, 28)
LLAMA32_1B = ModelShape("Llama-3.2-1B", 2048, 8192, 32, 8, 64, 128_256, 16, 5e5)
MODELS = (QWEN3_06B, QWEN3_17B, LLAMA32_1B)

# Small and odd enough for the interpreter; a GPU is checked at the widths it will serve.
TINY = ModelShape("tiny", 96, 160, 4, 2, 32, 123, 2)
SERVED = ModelShape("served", 1024, 3072, 16, 8, 128, 32_001, 2)
