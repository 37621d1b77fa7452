"""The torch runner with its layers under `torch.compile`, beside which the eager one is measured.

For benchmarks alone: it compiles for most of a minute at its first passes, and the C++ decoder is
faster wherever there is a compiler. Knows no clock.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.checkpoint import load_decoder
from models.decoder import Attention, Decoder
from models.directory import ModelDirectory
from models.engines.cpu_probe import choose_cpu
from models.engines.packed_runner import PackedRunner

MOST_VARIANTS = 64  # of one layer's code: with and without rows, few tokens and many


class CompiledDecoder(Decoder):
    """A decoder whose layers are compiled around their attention, which stays eager.

    Attention's layout is Python's own and another one in every pass.
    """

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
    ) -> Tensor:
        eager = torch.compiler.disable(attention)  # type: ignore[no-untyped-call]
        return super().forward(token_ids, positions, eager, rows)


def compiled_runner(directory: ModelDirectory, cache_bytes: int, dtype: str) -> PackedRunner:
    """dtype: of `models.engines.cpu_probe.DTYPES`."""
    torch._dynamo.config.cache_size_limit = MOST_VARIANTS
    decoder = load_decoder(directory)
    decoder.__class__ = CompiledDecoder
    choice = choose_cpu(directory.config, directory.card.block_size, dtype, "torch")
    runner = PackedRunner(
        decoder, directory.prompt.heads, directory.card.block_size, cache_bytes, choice
    )
    for layer in decoder.model.layers:
        layer.compile(dynamic=True)
    return runner
