"""Makes the runner of a CPU: loads weights for whom the probe chose. Knows no jobs."""

from __future__ import annotations

import torch
from torch import Tensor

from models.checkpoint import ModelDirectory, load_decoder
from models.engines.cpu_probe import AUTO, CpuChoice, choose_cpu
from models.engines.native_runner import NativeRunner, NativeSettings
from models.engines.packed_runner import PackedRunner
from models.native.library import native_library


def new_cpu_runner(
    directory: ModelDirectory,
    cache_bytes: int,
    dtype: str = AUTO,
    backend: str = AUTO,
    deterministic: bool = False,
    vectors: Tensor | None = None,
) -> NativeRunner | PackedRunner:
    """Runs on as many threads as torch has in this process.

    dtype: float32, bfloat16, int8 or auto. backend: native, torch or auto. deterministic: a score
    has the same bits in any batch, cold or warm; native ones have anyhow, torch pays in speed.
    vectors: (tokens, hidden) bfloat16 of a catalogue; tokens of candidates beyond the vocabulary.
    Raises PrecisionUnavailableError, and ModelDirectoryError as `load_decoder` says.
    """
    choice = choose_cpu(directory.config, directory.card.block_size, dtype, backend)
    if choice.backend == "native":
        return _native(directory, cache_bytes, choice, vectors)
    return PackedRunner(
        load_decoder(directory),
        directory.prompt.heads,
        directory.card.block_size,
        cache_bytes,
        choice,
        deterministic,
        vectors,
    )


def _native(
    directory: ModelDirectory, cache_bytes: int, choice: CpuChoice, vectors: Tensor | None
) -> NativeRunner:
    settings = NativeSettings(
        choice,
        directory.card.block_size,
        directory.card.truncation.max_context_tokens,
        torch.get_num_threads(),
    )
    decoder, heads = load_decoder(directory), directory.prompt.heads
    return NativeRunner(decoder, heads, cache_bytes, native_library(), settings, vectors)
