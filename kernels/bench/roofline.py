"""Measures what this device moves and multiplies at best. Knows no kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.base.variant import Cost
from kernels.bench.timing import time_side_by_side


@dataclass(frozen=True, slots=True)
class Roofline:
    """Bytes per second of a large copy, read and written both counted; FLOP/s of a bf16 GEMM."""

    copy_rate: float
    gemm_rate: float

    def columns(self) -> dict[str, float]:
        """For each row of a CSV, so that its share can be checked."""
        return {
            "copy_gb_per_s": round(self.copy_rate / 1e9, 1),
            "gemm_tflop_per_s": round(self.gemm_rate / 1e12, 2),
        }

    def share(self, cost: Cost, median_us: float) -> tuple[float, str]:
        """Share of the measured best, and of what: "copy" or "gemm", whichever limits the call."""
        moving, multiplying = cost.bytes / self.copy_rate, cost.flops / self.gemm_rate
        limit = "copy" if moving >= multiplying else "gemm"
        return max(moving, multiplying) * 1e6 / median_us, limit


def measure(device: torch.device, window_ms: float = 100.0) -> Roofline:
    """At sizes that keep the device busy and, on a CPU, take no second."""
    size, width = (1 << 30, 8192) if device.type == "cuda" else (1 << 26, 1024)
    source = torch.randint(127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(width, width, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(a)
    calls = {
        "copy": lambda: target.copy_(source),
        "gemm": lambda: torch.mm(a, b, out=product),
    }
    # A graph hands a copy of this size to an engine that is slower than the GPU's own cores.
    timings = time_side_by_side(calls, device, window_ms, short_us=0.0)
    return Roofline(
        2 * size / timings["copy"].median_us * 1e6,
        2 * width**3 / timings["gemm"].median_us * 1e6,
    )
