"""Tensors that autograd would keep are computed again when the backward pass asks. Knows no layer.

    with recomputed(inner, partial(swiglu, gate.detach(), up.detach())):
        out = down_proj(inner)

down_proj keeps a recipe instead of `inner`. Worth it where a tensor is large, the operands of its
recipe are kept anyway, and computing it costs one pass over them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["recomputed"]


def recomputed(
    tensor: Tensor, make: Callable[[], Tensor]
) -> contextlib.AbstractContextManager[object]:
    """Within, autograd keeps `make` in place of `tensor` and of views of all its values.

    `make` gives the same values in the same layout and must hold none of `tensor`'s memory; what
    it gives is kept until everyone who saved `tensor` has read it once. Does nothing where others
    decide what is kept, as activation checkpointing does.
    """
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    theirs = top is not None and not isinstance(getattr(top[0], "__self__", None), _Recipe)
    if theirs or not (torch.is_grad_enabled() and tensor.requires_grad):
        return contextlib.nullcontext()
    recipe = _Recipe(tensor, make)
    return torch.autograd.graph.saved_tensors_hooks(recipe.pack, recipe.unpack)


class _Recipe:
    """The hooks of one tensor; `pack` runs while it lives, so its address tells it from others."""

    def __init__(self, tensor: Tensor, make: Callable[[], Tensor]) -> None:
        self._address, self._count = tensor.data_ptr(), tensor.numel()
        self._make, self._waiting = make, 0
        self._made: Tensor | None = None

    def pack(self, saved: Tensor) -> Any:
        """What is kept for `saved`: itself, or the form of the tensor that is recomputed."""
        alike = saved.data_ptr() == self._address and saved.numel() == self._count
        if not (alike and saved.is_contiguous()):
            return saved
        self._waiting += 1
        return saved.shape

    def unpack(self, kept: Any) -> Tensor:
        """The tensor in the form it was saved in."""
        if isinstance(kept, Tensor):
            return kept
        made = self._made
        if made is None:
            with torch.no_grad():
                made = self._make()
        self._waiting -= 1
        self._made = made if self._waiting > 0 else None
        return made.view(kept)
