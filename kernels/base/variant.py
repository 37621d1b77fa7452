"""What a kernel declares of itself for tools: compilations and costs. Knows nothing of kernels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel at one choice of operand types and compile-time sizes, for one real shape."""

    kernel: Any
    signature: dict[
        str, str
    ]  # argument name to Triton's type; "constexpr" for those in `constants`
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    shape: str = ""  # a label for people, such as "H=1024 bf16"
    maxnreg: int | None = None  # registers a thread may take at most, on sm_90 alone
    spilled: int = 0  # bytes it may spill, where that was measured to be faster


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call must do at the least: useful bytes moved, floating-point operations."""

    bytes: int
    flops: int
