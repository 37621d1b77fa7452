"""Forwards of a Hugging Face decoder's modules that call these kernels. Binds none of them.

A maker takes a module and a backend and gives a function to bind to the module as its forward, or
the reason why there is none. The functions hold no module: a copied model's run on the copy. What
norms and gated products give is not kept for the backward pass but computed again from what is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kernels.cross_entropy import cross_entropy
from kernels.layers.recomputed import recomputed
from kernels.linear_cross_entropy import linear_cross_entropy
from kernels.norm import add_rms_norm, rms_norm
from kernels.rope import rope
from kernels.swiglu import geglu, swiglu

Forward = Callable[..., Any]
IGNORED = -100
LOSS_OPTIONS = ("num_items_in_batch", "ignore_index", "shift_labels")


@dataclass(frozen=True, slots=True)
class Replacement:
    """The classes an operation is for, by the end of their names, and the maker of its forward."""

    suffix: str
    make: Callable[[Any, str], Forward | str]


def norm_forward(module: Any, backend: str) -> Forward | str:
    """RMSNorm; q_norm and k_norm, whose rows are heads, too."""
    if problem := _norm_problem(module):
        return problem

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != self.weight.dtype:  # mixed precision, as autocast makes it
            normed: Tensor = type(self).forward(self, hidden_states)
            return normed
        return rms_norm(hidden_states, self.weight, self.variance_epsilon, backend=backend)

    return forward


def _norm_problem(module: Any) -> str:
    """Others, such as Gemma's, add one to their weight; they name their epsilon differently."""
    if getattr(module, "weight", None) is None or not hasattr(module, "variance_epsilon"):
        return f"{type(module).__name__} is no norm of Llama's form"
    return ""


def layer_forward(module: Any, backend: str) -> Forward | str:
    """The residual after attention is added and normed at once; the one after the MLP stays."""
    parts = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
    missing = [name for name in parts if not hasattr(module, name)]
    if missing:
        return f"{type(module).__name__} has no {', '.join(missing)}"
    if problem := _norm_problem(module.post_attention_layernorm):
        return problem

    def forward(self: Any, hidden_states: Tensor, **options: Any) -> Tensor:
        norm = self.post_attention_layernorm
        normed = self.input_layernorm(hidden_states)
        with recomputed(normed, partial(self.input_layernorm, hidden_states.detach())):
            attended, _ = self.self_attn(hidden_states=normed, **options)
        if attended.dtype == hidden_states.dtype == norm.weight.dtype:
            normed, total = add_rms_norm(
                attended, hidden_states, norm.weight, norm.variance_epsilon, backend=backend
            )
        else:  # mixed precision, as autocast makes it
            total = hidden_states + attended
            normed = norm(total)
        with recomputed(normed, partial(norm, total.detach())):
            return total + self.mlp(normed)  # type: ignore[no-any-return]

    return forward


def rope_forward(module: Any, backend: str) -> Forward | str:
    """The module's own forward, in whose view of the world our rotation has the usual name."""
    original = type(module).forward
    if not isinstance(original, FunctionType):
        return f"{type(module).__name__}.forward is no plain function"
    if "apply_rotary_pos_emb" not in original.__code__.co_names:
        return f"{type(module).__name__} rotates by another function"

    def rotate(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        if unsqueeze_dim != 1:
            raise ValueError(f"unsqueeze_dim is {unsqueeze_dim}; only 1 is supported")
        return rope(q, k, cos, sin, backend=backend)

    names = original.__globals__ | {"apply_rotary_pos_emb": rotate}
    rebound = FunctionType(
        original.__code__, names, original.__name__, original.__defaults__, original.__closure__
    )
    rebound.__kwdefaults__ = original.__kwdefaults__
    return rebound


def mlp_forward(module: Any, backend: str) -> Forward | str:
    """SwiGLU for SiLU, GeGLU for the tanh form of GELU."""
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    missing = [name for name in parts if not hasattr(module, name)]
    if missing:
        return f"{type(module).__name__} has no {', '.join(missing)}"
    gated = {"SiLUActivation": swiglu, "SiLU": swiglu, "GELUTanh": geglu}.get(
        type(module.act_fn).__name__
    )
    if gated is None:
        return f"activation {type(module.act_fn).__name__} has no kernel"

    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        inner = gated(gate, up, backend=backend)
        with recomputed(inner, partial(gated, gate.detach(), up.detach(), backend=backend)):
            return self.down_proj(inner)  # type: ignore[no-any-return]

    return forward


def loss_forward(module: Any, backend: str) -> Forward | str:
    """The loss of all logits, which are computed and returned as ever."""

    def forward(self: Any, *operands: Any, labels: Tensor | None = None, **options: Any) -> Any:
        if labels is None:
            return type(self).forward(self, *operands, **options)
        loss_options = {n: options.pop(n) for n in LOSS_OPTIONS if n in options}
        outputs = type(self).forward(self, *operands, **options)
        targets, scale, ignored = _shifted(labels, **loss_options)
        logits = (outputs.logits if hasattr(outputs, "logits") else outputs[0]).flatten(0, -2)
        reduction = "mean" if scale is None else "sum"
        loss = cross_entropy(
            logits, targets, ignore_index=ignored, reduction=reduction, backend=backend
        )
        loss = loss if scale is None else loss / scale
        if isinstance(outputs, tuple):
            return (loss, *outputs)
        outputs["loss"] = loss
        return outputs

    return forward


def linear_loss_forward(module: Any, backend: str) -> Forward | str:
    """In training with labels the loss alone, without logits; else the module's own forward."""
    if not hasattr(module, "lm_head") or not hasattr(module, "model"):
        return f"{type(module).__name__} has no lm_head beside its model"

    def forward(self: Any, *operands: Any, labels: Tensor | None = None, **options: Any) -> Any:
        whole = labels is None or not self.training or options.get("return_dict") is False
        if whole:
            return type(self).forward(self, *operands, labels=labels, **options)
        assert labels is not None
        loss_options = {n: options.pop(n) for n in LOSS_OPTIONS if n in options}
        options.pop("logits_to_keep", None)
        outputs = self.model(*operands, **options)
        targets, scale, ignored = _shifted(labels, **loss_options)
        loss = linear_cross_entropy(
            outputs.last_hidden_state.flatten(0, -2),
            self.lm_head.weight,
            targets,
            bias=self.lm_head.bias,
            ignore_index=ignored,
            reduction="mean" if scale is None else "sum",
            backend=backend,
        )
        return _outputs(loss if scale is None else loss / scale, outputs)

    return forward


def _shifted(
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORED,
    shift_labels: Tensor | None = None,
) -> tuple[Tensor, Tensor | int | None, int]:
    """(N,) targets, each the token after; the number of items to divide by; what is ignored."""
    if shift_labels is None:
        shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(labels.device)
    return shift_labels.flatten(), num_items_in_batch, ignore_index


def _outputs(loss: Tensor, outputs: Any) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    return CausalLMOutputWithPast(
        loss=loss,
        past_key_values=outputs.past_key_values,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


REPLACEMENTS = {
    "rms_norm": Replacement("RMSNorm", norm_forward),
    "add_rms_norm": Replacement("DecoderLayer", layer_forward),
    "rope": Replacement("Attention", rope_forward),
    "gated_mlp": Replacement("MLP", mlp_forward),
    "cross_entropy": Replacement("ForCausalLM", loss_forward),
    "linear_cross_entropy": Replacement("ForCausalLM", linear_loss_forward),
}
