"""Norms, rotations and gated units where only a GPU can show it. Knows nothing of speed.

Real shapes, capture into a CUDA graph, the same bits on every run, offsets beyond 2^31 values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.layer_norm import layer_norm
from kernels.norm import add_rms_norm, rms_norm
from kernels.norm_quantize import add_rms_norm_quantize
from kernels.qk_norm_rope import qk_norm_rope
from kernels.rope import rope
from kernels.swiglu import geglu, swiglu, swiglu_packed
from kernels.swiglu_quantize import swiglu_quantize
from tests.kernels.truth import assert_accurate, gradients_of, max_error

pytestmark = pytest.mark.gpu
EPS = 1e-6
TOKENS, WIDE = 1000, 2**31
Case = tuple[Callable[..., Any], list[Tensor]]
# RMS of the difference from the same formula in fp32; rounding to bf16 alone leaves 1.7e-3
TOLERANCE = 5e-3


def cuda(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, device="cuda", dtype=dtype)


def angles(tokens: int, width: int) -> tuple[Tensor, Tensor]:
    frequencies = 1e6 ** (-torch.arange(0, width, 2, device="cuda") / width)
    table = torch.outer(torch.arange(tokens, device="cuda"), frequencies)
    return table.cos(), table.sin()


def trained_cases() -> dict[str, Case]:
    """The operations that are trained, at widths of Qwen3-0.6B and 1.7B and of Llama-3.2-1B."""
    rows, residual, weight = cuda(TOKENS, 1024), cuda(TOKENS, 1024, seed=1), cuda(1024)
    heads, keys = cuda(TOKENS, 32, 64), cuda(TOKENS, 8, 64)
    gate, up = cuda(TOKENS, 6144), cuda(TOKENS, 6144, seed=1)
    cos, sin = angles(TOKENS, 64)
    return {
        "rms_norm": (partial(rms_norm, eps=EPS), [rows, weight]),
        "rms_norm of heads": (partial(rms_norm, eps=EPS), [cuda(TOKENS, 16, 128), cuda(128)]),
        "wide rms_norm": (partial(rms_norm, eps=EPS), [cuda(40, 8192), cuda(8192)]),
        "add_rms_norm": (partial(add_rms_norm, eps=EPS), [rows, residual, weight]),
        "layer_norm": (partial(layer_norm, eps=EPS), [rows, weight, cuda(1024, seed=1)]),
        "rope": (partial(rope, cos=cos, sin=sin), [heads, keys]),
        "swiglu": (swiglu, [gate, up]),
        "geglu": (geglu, [gate, up]),
        "swiglu_packed": (swiglu_packed, [cuda(TOKENS, 2 * 8192)]),
    }


def inference_cases() -> dict[str, Case]:
    fused = cuda(TOKENS, 32, 128)
    cos, sin = angles(TOKENS, 128)
    turned = partial(qk_norm_rope, eps=EPS, cos=cos, sin=sin)
    norm = partial(add_rms_norm_quantize, eps=EPS, dtype=torch.int8)
    rows = [cuda(TOKENS, 1024), cuda(TOKENS, 1024, seed=1), cuda(1024)]
    return {
        "qk_norm_rope": (turned, [fused[:, :16], fused[:, 16:24], cuda(128), cuda(128, seed=1)]),
        "add_rms_norm_quantize": (norm, rows),
        "swiglu_quantize": (partial(swiglu_quantize, dtype=torch.int8), [cuda(TOKENS, 6144)]),
    }


TRAINED = list(trained_cases()) if torch.cuda.is_available() else ["no GPU"]
INFERENCE = list(inference_cases()) if torch.cuda.is_available() else ["no GPU"]


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", TRAINED)
def test_outputs_and_gradients_at_real_shapes(name: str) -> None:
    run, leaves = trained_cases()[name]
    outputs = outputs_of(run(*leaves))
    wide = [leaf.float() for leaf in leaves]
    expected = outputs_of(run(*wide, backend="torch"))
    for ours, true in zip(outputs, expected, strict=True):
        assert_accurate(name, ours, true, TOLERANCE)
    upstream = [cuda(*output.shape, seed=9) for output in outputs]
    gradients = gradients_of(run, leaves, upstream)
    true_gradients = gradients_of(
        partial(run, backend="torch"), wide, [gradient.float() for gradient in upstream]
    )
    for ours, true in zip(gradients, true_gradients, strict=True):
        assert_accurate(f"gradient of {name}", ours, true, TOLERANCE)
    for _ in range(5):
        assert all(map(torch.equal, gradients_of(run, leaves, upstream), gradients))


@pytest.mark.parametrize("name", INFERENCE)
def test_what_only_inference_uses_at_real_shapes(name: str) -> None:
    run, operands = inference_cases()[name]
    for ours, eager in zip(run(*operands), run(*operands, backend="torch"), strict=True):
        if ours.dtype == torch.int8:
            # A sum in another order may carry a value over a rounding's edge.
            assert max_error(ours, eager) <= 1
            assert (ours != eager).float().mean() <= 1e-2
        else:
            assert_accurate(name, ours, eager.double(), TOLERANCE)


@pytest.mark.parametrize("name", [*TRAINED, *INFERENCE])
def test_a_captured_launch_replays_on_new_values(name: str) -> None:
    run, operands = (trained_cases() | inference_cases())[name]
    expected = [output.clone() for output in outputs_of(run(*operands))]
    values = [operand.clone() for operand in operands]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = outputs_of(run(*operands))
    for operand in operands:
        operand.zero_()
    graph.replay()
    for operand, value in zip(operands, values, strict=True):
        operand.copy_(value)
    graph.replay()
    assert all(map(torch.equal, captured, expected))


@pytest.mark.parametrize("width", [1024, 64])
def test_rows_beyond_two_to_the_31_values(width: int) -> None:
    x = torch.empty(WIDE // width + 3, width, device="cuda", dtype=torch.bfloat16)
    x[-3:] = cuda(3, width)
    weight = cuda(width)
    assert torch.equal(rms_norm(x, weight, EPS)[-3:], rms_norm(x[-3:], weight, EPS))
    assert torch.equal(swiglu(x, x, out=x)[-3:], swiglu(*[cuda(3, width)] * 2))


def test_heads_beyond_two_to_the_31_values() -> None:
    tokens = WIDE // 4096 + 3
    q = torch.empty(tokens, 64, 64, device="cuda", dtype=torch.bfloat16)
    k = cuda(tokens, 8, 64)
    q[-3:] = cuda(3, 64, 64)
    cos, sin = angles(tokens, 64)
    expected = rope(q[-3:], k[-3:], cos[-3:], sin[-3:])
    turned = rope(q, k, cos, sin, out=(q, k))
    assert all(map(torch.equal, (turned[0][-3:], turned[1][-3:]), expected))


def test_fp8_where_the_gpu_has_it() -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs float8_e4m3fn")
    operands = [cuda(TOKENS, 1024), cuda(TOKENS, 1024, seed=1), cuda(1024)]
    run = partial(add_rms_norm_quantize, eps=EPS, dtype=torch.float8_e4m3fn)
    for ours, eager in zip(run(*operands), run(*operands, backend="torch"), strict=True):
        assert (ours.float() != eager.float()).float().mean() <= 1e-2
