"""Rotary embedding against multiplication of complex numbers in fp64. Knows nothing of models."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.layers import rope_kernel
from kernels.rope import rope, rope_reference
from tests.kernels.planted import each_caught
from tests.kernels.truth import (
    BACKENDS,
    DTYPES,
    assert_accurate,
    assert_guard_untouched,
    draw,
    gradients_of,
    guarded,
    spread,
    surrounded,
)

# tokens, heads, kv_heads, d: grouped queries, heads and halves that fill no power of two, one value
SHAPES = [(5, 4, 2, 16), (3, 3, 1, 12), (1, 14, 2, 64), (1, 1, 1, 2)]
MAX_POSITIONS = 40
# RMS of the error over RMS of the truth; the worst measured are 3.9e-8, 2.7e-4 and 2.4e-3
TOLERANCE = {torch.float32: 7.8e-8, torch.float16: 5.4e-4, torch.bfloat16: 4.8e-3}


def operands(shape: tuple[int, int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """q, k and the positions of the tokens, in no order."""
    tokens, heads, kv_heads, width = shape
    positions = torch.arange(tokens).mul(17).add(3).remainder(MAX_POSITIONS)
    q, k = draw(tokens, heads, width, seed=1), draw(tokens, kv_heads, width, seed=2)
    return [q.to(dtype), k.to(dtype), positions]


def tables(width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """cos and sin, (MAX_POSITIONS, d) as Hugging Face lays them out."""
    frequencies = 100.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(MAX_POSITIONS), frequencies).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def truth(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Each pair as a complex number, turned by its angle; x is packed."""
    half = x.shape[-1] // 2
    low, high = x.double().chunk(2, dim=-1)
    turn = torch.complex(cos.double(), sin.double())[positions, None, :half]
    return torch.view_as_real(torch.complex(low, high) * turn).mT.flatten(-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_complex_multiplication_in_fp64(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backend: str
) -> None:
    q, k, positions = operands(shape, dtype)
    cos, sin = tables(shape[-1])
    turned = rope(q, k, cos, sin, positions, backend=backend)
    eager = rope_reference(q, k, cos, sin, positions)
    for name, x, ours, same in zip("qk", (q, k), turned, eager, strict=True):
        assert ours.dtype == dtype
        assert_accurate(name, ours, truth(x, cos, sin, positions), TOLERANCE[dtype], same)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_way_to_say_the_same_gives_the_same_bits(backend: str) -> None:
    q, k, positions = operands((6, 4, 2, 16), torch.float32)
    cos, sin = tables(16)
    expected = rope(q, k, cos, sin, positions, backend=backend)

    ways: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]] = [
        (q, k, cos[:, :8], sin[:, :8], positions),
        (q, k, cos, sin, positions.int()),
        (q, k, cos[positions], sin[positions], None),
        (spread(q), spread(k), spread(cos), spread(sin), spread(positions)),
        (surrounded(q), surrounded(k), surrounded(cos), surrounded(sin), positions),
    ]
    for arguments in ways:
        assert all(map(torch.equal, rope(*arguments, backend=backend), expected))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [True, False])
def test_the_layout_of_hugging_face(shared: bool, backend: str) -> None:
    q, k, positions = operands((6, 4, 2, 16), torch.float32)
    cos, sin = tables(16)
    if shared:
        positions = positions[:3].repeat(2)
    expected = rope(q, k, cos, sin, positions, backend=backend)
    entries = positions[:3][None] if shared else positions.view(2, 3)
    batch = [x.view(2, 3, -1, 16).transpose(1, 2) for x in (q, k)]
    apart = [x.contiguous() for x in batch]
    for turned in (
        rope(batch[0], batch[1], cos, sin, entries, backend=backend),
        rope(batch[0], batch[1], cos[entries], sin[entries], backend=backend),
        rope(apart[0], apart[1], cos, sin, entries, backend=backend),
    ):
        for ours, packed in zip(turned, expected, strict=True):
            assert torch.equal(ours, packed.view(2, 3, -1, 16).transpose(1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_queries_and_keys_may_be_turned_in_place_in_a_wider_buffer(backend: str) -> None:
    q, k, positions = operands((5, 4, 2, 16), torch.float32)
    cos, sin = tables(16)
    expected = rope(q, k, cos, sin, positions, backend=backend)
    buffer, view = guarded(5, 8 * 16)
    slots = view.view(5, 8, 16)
    q_view, k_view = slots[:, :4], slots[:, 5:7]
    q_view.copy_(q)
    k_view.copy_(k)
    turned = rope(q_view, k_view, cos, sin, positions, out=(q_view, k_view), backend=backend)
    assert turned[0] is q_view
    assert torch.equal(q_view, expected[0])
    assert torch.equal(k_view, expected[1])
    for inner in (q_view, k_view):
        inner.fill_(buffer[0, 0].item())
    assert_guard_untouched(buffer, q_view)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens(backend: str) -> None:
    q, k, positions = operands((5, 4, 2, 16), torch.float32)
    turned = rope(q[:0], k[:0], *tables(16), positions[:0], backend=backend)
    assert [tuple(x.shape) for x in turned] == [(0, 4, 16), (0, 2, 16)]


@settings(max_examples=15, deadline=None)
@given(shift=st.integers(0, 30), first=st.integers(0, 5), second=st.integers(0, 5))
def test_scores_depend_on_the_distance_alone(shift: int, first: int, second: int) -> None:
    q, k, _ = operands((1, 1, 1, 16), torch.float32)
    cos, sin = tables(16)

    def score(q_position: int, k_position: int) -> float:
        turned_q, _ = rope(q, k, cos, sin, torch.tensor([q_position]), backend="triton")
        _, turned_k = rope(q, k, cos, sin, torch.tensor([k_position]), backend="triton")
        return float((turned_q * turned_k).sum())

    near, far = score(first, second), score(first + shift, second + shift)
    assert near == pytest.approx(far, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_agree_with_fp64(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backend: str
) -> None:
    q, k, positions = operands(shape, dtype)
    cos, sin = tables(shape[-1])
    upstream = [draw(*x.shape, dtype=dtype, seed=7) for x in (q, k)]

    def gradients(backend: str) -> list[Tensor]:
        return gradients_of(
            lambda a, b: rope(a, b, cos, sin, positions, backend=backend), (q, k), upstream
        )

    expected = gradients_of(
        lambda a, b: (truth(a, cos, sin, positions), truth(b, cos, sin, positions)),
        (q.double(), k.double()),
        [gradient.double() for gradient in upstream],
    )
    eager = gradients("torch")
    for name, *compared in zip("qk", gradients(backend), expected, eager, strict=True):
        assert_accurate(f"d{name}", compared[0], compared[1], TOLERANCE[dtype], compared[2])


def test_gradients_of_any_stride_in_the_layout_of_hugging_face() -> None:
    q, k, _ = operands((6, 4, 2, 16), torch.float32)
    cos, sin = (table[None, :3] for table in tables(16))
    batch = [x.view(2, 3, -1, 16).transpose(1, 2) for x in (q, k)]
    upstream = [draw(2, 4, 3, 16, seed=7), spread(draw(2, 2, 3, 16, seed=8))]
    compared = [
        gradients_of(partial(rope, cos=cos, sin=sin, backend=name), batch, upstream)
        for name in BACKENDS
    ]
    for ours, eager in zip(*compared, strict=True):
        torch.testing.assert_close(ours, eager)


def test_the_reference_has_the_gradients_of_the_formula() -> None:
    q, k, positions = operands((3, 2, 1, 4), torch.float32)
    leaves = [x.double().requires_grad_() for x in (q, k)]
    cos, sin = tables(4, torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: rope_reference(a, b, cos, sin, positions), leaves)


def test_the_operator_is_sound_for_torch_compile() -> None:
    q, k, positions = operands((3, 4, 2, 16), torch.float32)
    batch = [x.transpose(0, 1)[None] for x in (q, k)]
    cos, sin = tables(16)
    torch.library.opcheck(rope_kernel.turn.twin, (*batch, cos, sin, positions, False))
    torch.library.opcheck(rope_kernel.turn.twin, (*batch, cos[:3], sin[:3], None, True))


def test_compiles_without_a_graph_break() -> None:
    q, k, positions = operands((3, 4, 2, 16), torch.float32)
    cos, sin = tables(16)

    def turned(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return rope(q, k, cos, sin, positions, backend="triton")

    upstream = [draw(*x.shape, seed=7) for x in (q, k)]
    compiled = torch.compile(turned, fullgraph=True, backend="aot_eager")
    expected = gradients_of(turned, (q, k), upstream)
    for ours, eager in zip(gradients_of(compiled, (q, k), upstream), expected, strict=True):
        assert torch.equal(ours, eager)


Q, K, TABLE = torch.ones(3, 4, 8), torch.ones(3, 2, 8), torch.ones(3, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Q[0], K, TABLE, TABLE), ValueError, r"q has shape \(4, 8\); it must be \(T, heads, d\)"),
        ((Q[..., :7], K, TABLE, TABLE), ValueError, "d even"),
        ((Q, K[:2], TABLE, TABLE), ValueError, r"k has shape .* \(3, kv_heads, 8\)"),
        ((Q, K[:, :0], TABLE, TABLE), ValueError, "4 and 0 heads"),
        ((Q.int(), K, TABLE, TABLE), TypeError, "q is int32"),
        ((Q, K.half(), TABLE, TABLE), TypeError, r"k is torch\.float16"),
        ((Q, K, TABLE.int(), TABLE), TypeError, "cos is int32"),
        ((Q, K, TABLE, TABLE[:2]), ValueError, r"sin has shape \(2, 8\); it must be \(3, 8\)"),
        ((Q, K, TABLE[:, :6], TABLE[:, :6]), ValueError, "rows must be 8 or half wide"),
        (
            (Q, K, TABLE[:2], TABLE[:2]),
            ValueError,
            r"cos is for tokens \(2,\); .* \(3,\)",
        ),
        (
            (Q, K, TABLE, TABLE, torch.zeros(2).long()),
            ValueError,
            "positions is for tokens",
        ),
        ((Q, K, TABLE, TABLE, torch.zeros(3)), TypeError, "positions is float32; pass int64 or"),
        ((Q, K, TABLE.to("meta"), TABLE), ValueError, "cos is on meta, but q"),
    ],
)
def test_bad_operands_are_named(
    arguments: tuple[Tensor, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rope(*arguments)


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "turned the other way": ("low * cos - high * sin", "low * cos + high * sin"),
    "upper half left": ("high * cos + low * sin", "high * cos"),
    "heads unmasked": (
        "inside = (head < heads)[:, None] &",
        "inside = (head < 1 << 30)[:, None] &",
    ),
    "halves unmasked": ("(column < half_size)[None, :]", "(column < 1 << 30)[None, :]"),
    "entry of the sequence": ("(program % entries)", "(program // tokens)"),
    "positions ignored": ("row = tl.load(positions_ptr + row)", "row = row"),
    "token's stride for the batch": ("batch * k_batch_stride", "batch * k_token_stride"),
    "inverse forgotten": ("sin = -sin", "sin = sin"),
}


def check(module: ModuleType) -> None:
    """Two sequences of three tokens, heads and halves that fill no block, there and back."""
    q, k, positions = operands((6, 3, 1, 12), torch.float32)
    cos, sin = tables(12)
    frames = [guarded(2, 3, 8 * 12) for _ in (0, 1)]
    there, back = ([frame[1].view(2, 3, 8, 12) for _ in (0, 1)] for frame in frames)
    for views in (there, back):
        views[0], views[1] = views[0][:, :, :3].transpose(1, 2), views[1][:, :, 5:6].transpose(1, 2)
    inputs = [surrounded(x.view(2, 3, -1, 12)).transpose(1, 2) for x in (q, k)]
    angles = surrounded(cos), surrounded(sin), positions
    module.launch_rope(there, inputs, *angles, False)
    module.launch_rope(back, there, *angles, True)
    for x, turned, again in zip((q, k), there, back, strict=True):
        expected = truth(x, cos, sin, positions).view(2, 3, -1, 12).transpose(1, 2)
        assert_accurate("turned", turned, expected, 1e-7)
        assert_accurate("back", again, x.double().view(2, 3, -1, 12).transpose(1, 2), 2e-7)
    for (buffer, _), views in zip(frames, (there, back), strict=True):
        for view in views:
            view.fill_(buffer[0, 0, 0].item())
        assert_guard_untouched(buffer, views[0])


test_planted_bugs_are_caught = each_caught(rope_kernel, PLANTED_BUGS, check)
