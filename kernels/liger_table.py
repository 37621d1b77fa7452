"""Liger's counterpart of each operation, called with our operands. Knows nothing of figures.

Liger Kernel need not be installed; without it nothing has a counterpart.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from kernels.catalogue import Function

RMS_LIKE_LLAMA = (0.0, "llama")


def liger_function(name: str) -> Function | None:
    """A function of the operation's operands, or None."""
    try:
        importlib.import_module("liger_kernel.transformers.functional")
    except ImportError:
        return None
    return COUNTERPARTS.get(name)


def _functional() -> Any:
    return importlib.import_module("liger_kernel.transformers.functional")


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Any:
    return _functional().liger_rms_norm(x, weight, eps)


def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Any:
    return _functional().liger_fused_add_rms_norm(x, residual, weight, eps)


COUNTERPARTS: dict[str, Function] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
}
