"""The interpreter rounds as torch and GPUs do. Knows nothing of the kernels."""

from __future__ import annotations

import pytest
import torch

from kernels.base.dispatch import jit, tl
from tests.kernels.truth import draw

NARROW = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@jit
def _cast_kernel(narrow_ptr: tl.tensor, wide_ptr: tl.tensor, size: tl.constexpr) -> None:
    offsets = tl.arange(0, size)
    wide = tl.load(wide_ptr + offsets)
    tl.store(narrow_ptr + offsets, wide.to(narrow_ptr.dtype.element_ty))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_casts_to_narrow_floats_round_to_the_nearest_even_value(dtype: torch.dtype) -> None:
    wide = torch.cat((draw(1000).mul(20), torch.zeros(8), torch.linspace(-2, 2, 16)))
    narrow = torch.empty(1024, dtype=dtype)
    _cast_kernel[(1,)](narrow, wide, 1024)
    assert torch.equal(narrow.float(), wide.to(dtype).float())
