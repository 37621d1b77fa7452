"""Every kernel compiles for GPUs that are not here, within their limits. Knows no results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.aot import compiling
from kernels.catalogue.discovery import all_variants

Rows = list[dict[str, Any]]
ROOT = Path(__file__).parents[3]
DOT = "%2 = tt.dot %a, %b, %c : tensor<64x64xbf16> * tensor<64x64xbf16> -> tensor<64x64xf32>"
PROBE = """
import json, sys
from dataclasses import asdict
from kernels.aot import compiling
from kernels.base.dispatch import jit, tl
from kernels.base.variant import Variant

@jit
def product_kernel(a_ptr, b_ptr, c_ptr, N: tl.constexpr, PRODUCT: tl.constexpr):
    offsets = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    a, b = tl.load(a_ptr + offsets), tl.load(b_ptr + offsets)
    tl.store(c_ptr + offsets, tl.dot(a, b) if PRODUCT else a + b)

pointers = {"a_ptr": "*bf16", "b_ptr": "*bf16", "c_ptr": "*fp32"}
def variant(product, size, warps):
    constants = {"N": size, "PRODUCT": product}
    signature = pointers | dict.fromkeys(constants, "constexpr")
    return Variant(product_kernel, signature, constants, num_warps=warps)

for variant in (variant(True, 64, 4), variant(False, 64, 4)):
    print(json.dumps(asdict(compiling.compile_variant(variant, 90))))
"""


def compiled(arguments: list[str], folder: Path) -> tuple[int, Rows, str]:
    # A process of its own: this one interprets its kernels and cannot compile them.
    ours = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | ours,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def assert_all_compile(capability: int, folder: Path) -> None:
    arguments = ["-m", "kernels.aot", str(capability), "--json", "-"]
    status, rows, problems = compiled(arguments, folder)
    assert status == 0, problems
    assert {row["target"] for row in rows} == {f"sm_{capability}"}
    assert all(row["registers"] > 0 for row in rows)
    variants = [v for v in all_variants() if compiling.supported(v, capability)]
    kernels = {variant.kernel.__name__.strip("_") for variant in variants}
    assert {row["kernel"] for row in rows} == kernels


@pytest.mark.long
@pytest.mark.parametrize("capability", compiling.SHARED_LIMIT)
def test_every_kernel_compiles_for(capability: int, tmp_path: Path) -> None:
    assert_all_compile(capability, tmp_path)


def test_the_compiler_tells_registers_and_shared_memory(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE, "utf-8")
    status, rows, problems = compiled([str(probe)], tmp_path)
    assert status == 0, problems
    product, addition = rows
    assert product["problem"] == addition["problem"] == ""
    assert product["shared_kb"] == 16.0
    assert product["registers"] > addition["registers"] > 0


@pytest.mark.parametrize(
    ("capability", "shared", "spills", "ptx", "problem"),
    [
        (90, 1024, 0, "wgmma.mma_async.sync", ""),
        (90, 232_449, 0, "wgmma.mma_async.sync", "232449 bytes of shared memory; 232448 exist"),
        (80, 166_913, 0, "mma.sync.aligned", "166913 bytes of shared memory; 166912 exist"),
        (90, 1024, 8, "wgmma.mma_async.sync", "8 bytes spilled"),
        (100, 1024, 8, "tcgen05.mma.cta_group::1", ""),
        (90, 1024, 0, "fma.rn.f32", "no tensor core instruction in the PTX"),
    ],
)
def test_limits_are_kept(capability: int, shared: int, spills: int, ptx: str, problem: str) -> None:
    built = SimpleNamespace(metadata=SimpleNamespace(shared=shared), asm={"ttir": DOT, "ptx": ptx})
    assert compiling._problem(capability, built, spills) == problem


def test_a_kernel_may_spill_what_it_says() -> None:
    built = SimpleNamespace(metadata=SimpleNamespace(shared=0), asm={"ttir": "", "ptx": ""})
    assert compiling._problem(90, built, 8, allowed=8) == ""
    assert compiling._problem(90, built, 9, allowed=8) == "9 bytes spilled"


def test_products_and_tensor_cores_are_recognised() -> None:
    assert compiling.NARROW_PRODUCT.search(DOT)
    assert not compiling.NARROW_PRODUCT.search(DOT.replace("bf16", "f32"))
    assert compiling.TENSOR_CORES.search("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16")
    assert not compiling.TENSOR_CORES.search("fma.rn.f32 %f1, %f2, %f3, %f4;")


def test_resources_are_read_from_the_log_of_ptxas() -> None:
    log = "0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\nUsed 40 registers"
    assert compiling._resources(log) == (40, 20)


def test_beside_the_main_target_each_kind_of_a_kernel_is_compiled_at_its_largest_tile() -> None:
    variants = all_variants()
    chosen = compiling.telling(variants)
    assert {v.kernel.__name__ for v in chosen} == {v.kernel.__name__ for v in variants}
    assert len(chosen) < len(variants) / 2
    norms = [v for v in chosen if v.kernel.__name__ == "_rms_norm_kernel"]
    assert all("*bf16" in v.signature.values() for v in norms)
    assert {v.constants["BLOCK_HIDDEN"] for v in norms} == {8192}
