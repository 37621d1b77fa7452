"""What an encoder's pass runs in; its parameters stay in fp32. Knows no encoder and no stage."""

from __future__ import annotations

import torch

from compress.stages.stage import CPU, RecipeError

WIDE, NARROW = "float32", "bfloat16"
PASSES = {WIDE: torch.float32, NARROW: torch.bfloat16}


def pass_dtype(device: torch.device, on_cpu: str = WIDE) -> torch.dtype:
    """on_cpu: one of PASSES; a GPU takes bfloat16 whatever it says."""
    return PASSES[on_cpu] if device.type == CPU else torch.bfloat16


def refuse_other_passes(stage: str, asked: str) -> None:
    """Raises RecipeError for none of PASSES."""
    if asked not in PASSES:
        raise RecipeError(
            f"{stage}: cpu_passes is {asked!r}; use one of {', '.join(PASSES)}, the latter where "
            "the CPU multiplies it (avx512_bf16 in /proc/cpuinfo)"
        )
