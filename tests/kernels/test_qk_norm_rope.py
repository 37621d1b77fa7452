"""Normed and turned heads against fp64, and their way into pages. Knows nothing of attention."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kernels.layers import qk_norm_rope_kernel
from kernels.norm import rms_norm
from kernels.qk_norm_rope import PageStore, qk_norm_rope, qk_norm_rope_reference
from kernels.rope import rope
from tests.kernels.planted import each_caught
from tests.kernels.test_rope import SHAPES, operands, tables, truth
from tests.kernels.truth import (
    BACKENDS,
    DTYPES,
    assert_accurate,
    assert_guard_untouched,
    draw,
    guarded,
    spread,
    surrounded,
)

EPS = 1e-6
# RMS of the error over RMS of the truth; the worst measured are 9.1e-8, 3.2e-4 and 2.2e-3
TOLERANCE = {torch.float32: 1.8e-7, torch.float16: 6.3e-4, torch.bfloat16: 4.4e-3}


def weights(width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    q_weight, k_weight = (draw(width, seed=seed) + 1 for seed in (3, 4))
    return q_weight.to(dtype), k_weight.to(dtype)


def normed_truth(x: Tensor, weight: Tensor, *where: Tensor) -> Tensor:
    wide = x.double()
    normed = wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
    return truth(normed, *where)


def eager(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """The two operations in turn, each rounded."""
    normed = rms_norm(x, weight, EPS, backend="torch")
    return rope(normed, normed, cos, sin, positions, backend="torch")[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_formula_in_fp64(
    shape: tuple[int, int, int, int], dtype: torch.dtype, backend: str
) -> None:
    q, k, positions = operands(shape, dtype)
    q_weight, k_weight = weights(shape[-1], dtype)
    cos, sin = tables(shape[-1])
    turned = qk_norm_rope(q, k, q_weight, k_weight, EPS, cos, sin, positions, backend=backend)
    for name, x, weight, ours in zip("qk", (q, k), (q_weight, k_weight), turned, strict=True):
        assert ours.dtype == dtype
        expected = normed_truth(x, weight, cos, sin, positions)
        same = eager(x, weight, cos, sin, positions)
        assert_accurate(name, ours, expected, TOLERANCE[dtype], same)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_strides_and_tables_give_the_same_bits(backend: str) -> None:
    q, k, positions = operands((6, 4, 2, 16), torch.float32)
    scale, (cos, sin) = weights(16, torch.float32), tables(16)
    expected = qk_norm_rope(q, k, *scale, EPS, cos, sin, positions, backend=backend)
    for change in (spread, surrounded):
        heads, by = (change(q), change(k)), (change(scale[0]), change(scale[1]))
        turned = qk_norm_rope(*heads, *by, EPS, cos[:, :8], sin[:, :8], positions, backend=backend)
        assert all(map(torch.equal, turned, expected))
    batch = [x.view(2, 3, -1, 16).transpose(1, 2) for x in (q, k)]
    rows = [table[positions.view(2, 3)] for table in (cos, sin)]
    turned = qk_norm_rope(batch[0], batch[1], *scale, EPS, rows[0], rows[1], backend=backend)
    for ours, packed in zip(turned, expected, strict=True):
        assert torch.equal(ours, packed.view(2, 3, -1, 16).transpose(1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_tokens(backend: str) -> None:
    q, k, positions = operands((1, 4, 2, 16), torch.float32)
    scale = weights(16, torch.float32)
    turned = qk_norm_rope(q[:0], k[:0], *scale, EPS, *tables(16), positions[:0], backend=backend)
    assert [tuple(x.shape) for x in turned] == [(0, 4, 16), (0, 2, 16)]


def page_store(k: Tensor) -> PageStore:
    """Pages for six tokens, the second without a slot, between two that are nobody's."""
    pages = torch.full((2, 5, 4, *k.shape[1:]), -7.0)
    slots = torch.tensor([9, -1, 0, 11, 4, 5], dtype=torch.int32)
    return PageStore(surrounded(draw(*k.shape, seed=9)), pages[0, 1:4], pages[1, 1:4], slots)


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_and_values_go_to_their_cells_and_nowhere_else(backend: str) -> None:
    q, k, positions = operands((6, 4, 2, 16), torch.float32)
    scale, (cos, sin), store = weights(16, torch.float32), tables(16), page_store(k)
    turned = qk_norm_rope(q, k, *scale, EPS, cos, sin, positions, store=store, backend=backend)
    assert_stored(store, turned[1])


def assert_stored(store: PageStore, k: Tensor) -> None:
    for pages, rows in ((store.key_pages, k), (store.value_pages, store.values)):
        expected = torch.full((20, *k.shape[1:]), -7.0)
        for token, slot in enumerate(store.slots.tolist()):
            if slot >= 0:
                expected[4 + slot] = rows[token]
        # From the page before the first to the one after the last.
        around = pages.as_strided(
            expected.shape, pages.stride()[1:], pages.storage_offset() - 4 * k[0].numel()
        )
        assert torch.equal(around, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_heads_may_be_turned_in_place(backend: str) -> None:
    q, k, positions = operands((5, 4, 2, 16), torch.float32)
    scale, (cos, sin) = weights(16, torch.float32), tables(16)
    expected = qk_norm_rope(q, k, *scale, EPS, cos, sin, positions, backend=backend)
    fused = torch.cat((q, k), dim=1)
    views = fused[:, :4], fused[:, 4:]
    turned = qk_norm_rope(*views, *scale, EPS, cos, sin, positions, out=views, backend=backend)
    assert turned is views
    assert torch.equal(fused, torch.cat(expected, dim=1))


def test_the_operator_is_sound_for_torch_compile() -> None:
    q, k, positions = operands((6, 4, 2, 16), torch.float32)
    scale, (cos, sin) = weights(16, torch.float32), tables(16)
    store = page_store(k)
    heads = [x.transpose(0, 1)[None] for x in (q, k)]
    outputs = [torch.zeros_like(x) for x in heads]
    where = (EPS, cos, sin, positions)
    operator = qk_norm_rope_kernel.norm_and_turn.twin
    pages = store.values.clone(), store.key_pages.clone(), store.value_pages.clone(), store.slots
    torch.library.opcheck(operator, (*outputs, *heads, *scale, *where, *pages))
    torch.library.opcheck(operator, (*outputs, *heads, *scale, *where, None, None, None, None))


def test_compiles_without_a_graph_break() -> None:
    q, k, positions = operands((6, 4, 2, 16), torch.float32)
    scale, (cos, sin), store = weights(16, torch.float32), tables(16), page_store(k)

    def turned(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        where = (cos, sin, positions)
        return qk_norm_rope(q, k, *scale, EPS, *where, store=store, backend="triton")

    compiled = torch.compile(turned, fullgraph=True, backend="aot_eager")(q, k)
    assert_stored(store, compiled[1])
    assert all(map(torch.equal, compiled, turned(q, k)))


def test_bad_weights_and_stores_are_named() -> None:
    q, k, positions = operands((6, 4, 2, 16), torch.float32)
    scale, (cos, sin) = weights(16, torch.float32), tables(16)
    where = (EPS, cos, sin, positions)
    with pytest.raises(ValueError, match=r"q_weight has shape \(8,\); it must be \(16,\)"):
        qk_norm_rope(q, k, scale[0][:8], scale[1], *where)
    with pytest.raises(TypeError, match="k_weight is int32"):
        qk_norm_rope(q, k, scale[0], scale[1].int(), *where)
    good = page_store(k)
    bad: list[tuple[dict[str, Tensor], type[Exception], str]] = [
        ({"values": good.values[:5]}, ValueError, r"store\.values has shape"),
        ({"slots": good.slots[:5]}, ValueError, r"store\.slots has shape"),
        ({"slots": good.slots.float()}, TypeError, r"store\.slots is float32"),
        ({"key_pages": good.key_pages.mT}, ValueError, r"store\.key_pages has shape"),
        ({"value_pages": good.value_pages[:, ::2]}, ValueError, "must be contiguous"),
        ({"key_pages": good.key_pages.half()}, TypeError, r"key_pages is torch\.float16"),
    ]
    for change, error, message in bad:
        with pytest.raises(error, match=message):
            qk_norm_rope(q, k, *scale, EPS, cos, sin, positions, store=replace(good, **change))


# Each is a plausible slip; the checks below must catch every one of them.
PLANTED_BUGS = {
    "one half squared": ("low * low + high * high", "low * low"),
    "mean over half a head": ("squares / (2 * half_size)", "squares / half_size"),
    "eps forgotten": ("(2 * half_size) + eps", "(2 * half_size)"),
    "lower weights for both": ("weight_ptr + half_size + column", "weight_ptr + column"),
    "queries' weight for keys": ("k_high, k_weight_ptr", "k_high, q_weight_ptr"),
    "tokens without a slot stored": ("if slot >= 0:", "if slot >= -1:"),
    "values stored as keys": (
        "store_halves(value_pages_ptr, to",
        "store_halves(key_pages_ptr, to",
    ),
    "slot of the head": ("slot * kv_heads * width", "slot * width"),
    "positions ignored": ("row = tl.load(positions_ptr + row)", "row = row"),
}


def check(module: ModuleType) -> None:
    """Guarded heads that fill no block, tiny ones among them, and pages between unused ones."""
    q, k, positions = operands((6, 3, 2, 12), torch.float32)
    k[2] *= 1e-4
    scale, (cos, sin) = weights(12, torch.float32), tables(12)
    buffer, view = guarded(6, 8 * 12)
    slots = view.view(6, 8, 12)
    outputs = slots[:, :3], slots[:, 5:7]
    store = page_store(k)
    module.norm_and_turn.function(
        *(x.transpose(0, 1)[None] for x in (*outputs, surrounded(q), surrounded(k))),
        *(surrounded(weight) for weight in scale),
        *(EPS, surrounded(cos), surrounded(sin), positions),
        *(store.values, store.key_pages, store.value_pages, store.slots),
    )
    for x, weight, turned in zip((q, k), scale, outputs, strict=True):
        expected = normed_truth(x, weight, cos, sin, positions)
        assert_accurate("turned", turned, expected, TOLERANCE[torch.float32])
        assert_accurate("tiny", turned[2], expected[2], TOLERANCE[torch.float32])
    assert_stored(store, outputs[1])
    for output in outputs:
        output.fill_(buffer[0, 0].item())
    assert_guard_untouched(buffer, outputs[0])


def test_the_reference_keeps_double_precision() -> None:
    q, k, positions = operands((3, 2, 1, 4), torch.float32)
    scale = [weight.double() for weight in weights(4, torch.float32)]
    cos, sin = tables(4, torch.float64)
    q, k = q.double(), k.double()
    turned = qk_norm_rope_reference(q, k, scale[0], scale[1], EPS, cos, sin, positions)
    for x, weight, ours in zip((q, k), scale, turned, strict=True):
        torch.testing.assert_close(ours, normed_truth(x, weight, cos, sin, positions))


test_planted_bugs_are_caught = each_caught(qk_norm_rope_kernel, PLANTED_BUGS, check)
