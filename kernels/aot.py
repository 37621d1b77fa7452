"""Compiles every Triton kernel for GPUs that need not be here. Knows nothing of correct results.

`python -m kernels.aot` prints one JSON line per kernel and architecture and fails if one does not
compile or asks for more shared memory than the architecture has.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from kernels.dispatch import triton
from kernels.score_head import _score_head_kernel, block_sizes

WARP_SIZE = 32
# Bytes of shared memory one block may use, CUDA programming guide, table of compute capabilities.
SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448}


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel at one choice of operand types and compile-time sizes."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of a Variant for one compute capability."""

    kernel: str
    capability: int
    dtype: str
    shared_bytes: int
    cubin_bytes: int


def score_head_variant(dtype: str, hidden_size: int, label_count: int) -> Variant:
    """`dtype` is Triton's: "fp32", "bf16" or "fp16"."""
    operand, sizes = f"*{dtype}", block_sizes(hidden_size, label_count)
    signature = {
        "output_ptr": "*fp32",
        "output_row_stride": "i32",
        "hidden_ptr": operand,
        "hidden_row_stride": "i32",
        "norm_weight_ptr": operand,
        "label_rows_ptr": operand,
        "label_row_stride": "i32",
        "eps": "fp32",
        "hidden_size": "i32",
        "label_count": "i32",
    }
    return Variant(_score_head_kernel, signature | dict.fromkeys(sizes, "constexpr"), sizes)


def variants() -> list[Variant]:
    """Every kernel at the shapes it meets: the demo ranker, a 0.6 B model, the label limit."""
    shapes = ((192, 2), (1024, 2), (4096, 128))
    return [score_head_variant(d, h, k) for d in ("fp32", "bf16", "fp16") for h, k in shapes]


def compile_variant(variant: Variant, capability: int) -> Compiled:
    """Raises Triton's CompilationError, or MemoryError when shared memory does not suffice."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(variant.kernel, variant.signature, variant.constants)
    target = GPUTarget("cuda", capability, WARP_SIZE)
    built = triton.compile(source, target=target, options={"enable_fp_fusion": True})
    shared, name = built.metadata.shared, variant.kernel.__name__
    if shared > SHARED_LIMIT[capability]:
        raise MemoryError(f"{name}: {shared} bytes of shared memory on sm_{capability}")
    dtype = variant.signature["hidden_ptr"].removeprefix("*")
    return Compiled(name, capability, dtype, shared, len(built.asm["cubin"]))


def main() -> None:
    """Compiles all variants for the capabilities named on the command line (default: all known)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("capability", type=int, nargs="*", default=list(SHARED_LIMIT))
    for capability in parser.parse_args().capability:
        for variant in variants():
            print(json.dumps(asdict(compile_variant(variant, capability))))


if __name__ == "__main__":
    main()
