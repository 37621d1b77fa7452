"""Compiles every Triton kernel for GPUs that need not be here. Knows nothing of correct results.

A result is wrong that does not compile, takes more shared memory than the target has, spills on
sm_90 more than it says, or multiplies matrices without the tensor cores.
"""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from kernels.base.dispatch import triton
from kernels.base.variant import Variant
from kernels.catalogue.discovery import all_variants

WARP_SIZE = 32
# Bytes of shared memory one block may use, CUDA programming guide, table of compute capabilities.
SHARED_LIMIT = {80: 166_912, 90: 232_448, 100: 232_448}
MAIN = 90  # what the kernels were made for: all variants, and none may spill
FP8_FROM = 89
TENSOR_CORES = re.compile(r"\b(wgmma\.mma_async|mma\.sync|tcgen05\.mma)\b")
# Launches are compiled for aligned addresses, and for strides and sizes that are multiples of 16.
ALIGNED_NAMES = ("_ptr", "_stride", "_size")
# A product of 8 or 16 bit operands in Triton's own language; fp32 ones keep to the fp32 units.
NARROW_PRODUCT = re.compile(r"tt\.dot .* : tensor<[\dx]+x(?:bf16|f16|i8|f8\w+)\b")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of one variant for one target, and what is wrong with it."""

    kernel: str
    target: str
    shape: str
    registers: int
    shared_kb: float
    spills: int  # bytes stored and loaded for want of registers
    seconds: float
    problem: str = ""


def compile_variant(variant: Variant, capability: int) -> Compiled:
    """Compiles anew, cache or not: only the compiler's log tells registers and spills."""
    started = time.perf_counter()
    name, target = variant.kernel.__name__.strip("_"), f"sm_{capability}"
    try:
        built, log = _compile(variant, capability)
    except Exception as error:  # whatever the compiler raises is the finding
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Compiled(
            name, target, variant.shape, 0, 0.0, 0, 0.0, f"does not compile: {lines[0]}"
        )
    registers, spills = _resources(log)
    return Compiled(
        name,
        target,
        variant.shape,
        registers,
        built.metadata.shared / 1024,
        spills,
        round(time.perf_counter() - started, 2),
        _problem(capability, built, spills, variant.spilled),
    )


def _compile(variant: Variant, capability: int) -> tuple[Any, str]:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: variant.signature[name] for name in variant.kernel.arg_names}
    source = ASTSource(variant.kernel, signature, variant.constants, _alignment(signature))
    options = {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "maxnreg": variant.maxnreg if capability == MAIN else None,
        "enable_fp_fusion": True,
    }
    log = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as cache,
        triton.knobs.cache.scope(),
        triton.knobs.nvidia.scope(),
        contextlib.redirect_stdout(log),
    ):
        triton.knobs.cache.dir = cache
        triton.knobs.nvidia.dump_ptxas_log = True
        target = GPUTarget("cuda", capability, WARP_SIZE)
        built = triton.compile(source, target=target, options=options)
    return built, log.getvalue()


def _alignment(signature: dict[str, str]) -> dict[tuple[int], list[list[Any]]]:
    return {
        (position,): [["tt.divisibility", 16]]
        for position, (name, kind) in enumerate(signature.items())
        if kind != "constexpr" and name.endswith(ALIGNED_NAMES) and not kind.startswith("fp")
    }


def _resources(log: str) -> tuple[int, int]:
    """Registers and spilled bytes in what `ptxas -v` printed."""
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    return max(registers, default=0), sum(map(int, spills))


def _problem(capability: int, built: Any, spills: int, allowed: int = 0) -> str:
    if built.metadata.shared > SHARED_LIMIT[capability]:
        return f"{built.metadata.shared} bytes of shared memory; {SHARED_LIMIT[capability]} exist"
    if capability == MAIN and spills > allowed:
        return f"{spills} bytes spilled"
    if NARROW_PRODUCT.search(built.asm["ttir"]) and not TENSOR_CORES.search(built.asm["ptx"]):
        return "no tensor core instruction in the PTX"
    return ""


def supported(variant: Variant, capability: int) -> bool:
    """fp8 came with sm_89; everything else runs on all targets."""
    eight_bits = any("fp8" in str(kind) for kind in variant.signature.values())
    return capability >= FP8_FROM or not eight_bits


def telling(variants: list[Variant]) -> list[Variant]:
    """Of each kernel and its choice of flags the largest tile, in bf16 where it has that.

    What is compiled beside sm_90: the flags decide the code, the tile how tight it gets.
    """
    narrow = {v.kernel.__name__ for v in variants if "*bf16" in v.signature.values()}
    largest: dict[tuple[object, ...], Variant] = {}
    for variant in sorted(variants, key=_tile_size):
        if variant.kernel.__name__ not in narrow or "*bf16" in variant.signature.values():
            flags = [(name, v) for name, v in variant.constants.items() if type(v) is not int]
            types = sorted(set(variant.signature.values()))
            largest[variant.kernel.__name__, str(flags), str(types)] = variant
    return list(largest.values())


def _tile_size(variant: Variant) -> int:
    return math.prod(value for value in variant.constants.values() if type(value) is int)


def compile_all(capabilities: list[int], kernels: str = "") -> Iterator[Compiled]:
    """Rows as they are ready, from as many processes as this one may use cores."""
    variants = all_variants()
    jobs = [
        (variant, capability)
        for capability in capabilities
        for variant in (variants if capability == MAIN else telling(variants))
        if supported(variant, capability) and re.search(kernels, variant.kernel.__name__)
    ]
    positions = range(len(jobs))
    # Forked, so that no process imports torch again; kernels cannot be pickled, positions can.
    _JOBS[:] = jobs
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
        yield from pool.map(_compile_job, positions)


_JOBS: list[tuple[Variant, int]] = []


def _compile_job(position: int) -> Compiled:
    return compile_variant(*_JOBS[position])
