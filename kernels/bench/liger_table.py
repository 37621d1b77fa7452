"""Liger's counterparts of the operations, called with our operands. Knows nothing of figures.

Liger Kernel need not be installed; without it nothing has a counterpart.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from kernels.catalogue.operation import Function, Operation

FUNCTIONAL = "liger_kernel.transformers.functional"


def liger_functions(operation: Operation) -> dict[str, Function]:
    """Functions of the operation's operands by provider; none where Liger is not installed."""
    try:
        importlib.import_module(FUNCTIONAL)
    except ImportError:
        return {}
    return COUNTERPARTS.get(operation.label, COUNTERPARTS.get(operation.name, {}))


def _call(name: str, *operands: Any, **options: Any) -> Any:
    return getattr(importlib.import_module(FUNCTIONAL), name)(*operands, **options)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Any:
    return _call("liger_rms_norm", x, weight, eps)


def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Any:
    return _call("liger_fused_add_rms_norm", x, residual, weight, eps)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
    return _call("liger_layer_norm", x, weight, bias, eps)


def _rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:
    return _call("liger_rope", q, k, cos, sin)


def _swiglu(gate: Tensor, up: Tensor) -> Any:
    return _call("liger_swiglu", gate, up)


def _geglu(gate: Tensor, up: Tensor) -> Any:
    return _call("liger_geglu", gate, up)


def _cross_entropy(logits: Tensor, targets: Tensor, inplace: bool = False) -> Any:
    return _call("liger_cross_entropy", logits, targets)


def _linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Any:
    return _call("liger_fused_linear_cross_entropy", hidden, weight, targets)


def _linear_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    kind: str,
) -> Any:
    operands = (student_hidden, student_weight, teacher_hidden, teacher_weight)
    return _call("liger_fused_linear_jsd", *operands)


def _chunked_distillation(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    kind: str,
) -> Any:
    module = importlib.import_module("liger_kernel.chunked_loss.jsd_loss")
    targets = student_hidden.new_zeros(student_hidden.shape[0], dtype=int)  # type: ignore[call-overload]
    operands = (student_hidden, student_weight, teacher_hidden, teacher_weight, targets)
    # No hard loss; the last three are ignore_index, temperature and torch.compile.
    return module.LigerFusedLinearJSDFunction.apply(
        *operands, None, None, 0.0, 1.0, 0.5, -100, 1.0, True
    )


def _forward_kl(student_logits: Tensor, teacher_logits: Tensor, kind: str) -> Any:
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return _call("liger_kl_div", log_q, log_p, reduction="batchmean", log_target=True)


def _jsd(student_logits: Tensor, teacher_logits: Tensor, kind: str) -> Any:
    return _call("liger_jsd", student_logits.log_softmax(-1), teacher_logits.log_softmax(-1))


COUNTERPARTS: dict[str, dict[str, Function]] = {
    "rms_norm": {"liger": _rms_norm},
    "add_rms_norm": {"liger": _add_rms_norm},
    "layer_norm": {"liger": _layer_norm},
    "rope": {"liger": _rope},
    "swiglu": {"liger": _swiglu},
    "geglu": {"liger": _geglu},
    "cross_entropy": {"liger": _cross_entropy},
    "linear_cross_entropy": {"liger": _linear_cross_entropy},
    "linear_distillation jsd": {
        "liger": _linear_distillation,
        "liger chunked": _chunked_distillation,
    },
    "divergence forward_kl": {"liger": _forward_kl},
    "divergence jsd": {"liger": _jsd},
}
