"""Passes are short on a GPU, and on a CPU only where they are asked to be."""

from __future__ import annotations

import torch

from compress.stages.passes import NARROW, pass_dtype


def test_passes_are_short_on_a_gpu_or_where_a_cpu_is_told_so() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pass_dtype(cpu) == torch.float32
    assert pass_dtype(cpu, NARROW) == torch.bfloat16
    assert pass_dtype(cuda) == torch.bfloat16
