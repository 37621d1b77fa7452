"""One forward pass over a flat row of tokens. Knows nothing of slates, caches or batches:

who attends to whom is the caller's `Attention`, so training, serving and tests share these weights.
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import DecoderConfig
from models.rotary import Rotary


class Attention(Protocol):
    """Mixes values between tokens for one layer.

    q: (T, heads, head_dim), k and v: (T, kv_heads, head_dim), rotated and normalised.
    Returns (T, heads, head_dim). Which token sees which is the implementation's whole job.
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class SelfAttention(nn.Module):
    """Projections, rotation and, where the family has them, q/k norms around the Attention."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        queries, keys = heads * config.head_dim, kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.output_bias)
        self.q_norm = self._norm(config)
        self.k_norm = self._norm(config)

    @staticmethod
    def _norm(config: DecoderConfig) -> nn.RMSNorm | None:
        return nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        layer: int,
        positions: Tensor,
        rotary: Rotary,
        attention: Attention,
        rows: Tensor | None = None,
    ) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        mixed = attention(layer, rotary(q, positions), rotary(k, positions), v).flatten(1)
        return self.o_proj(mixed if rows is None else mixed[rows])  # type: ignore[no-any-return]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, intermediate, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.up_proj = nn.Linear(hidden, intermediate, bias=bias)
        self.down_proj = nn.Linear(intermediate, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP with residuals; parameter names are Hugging Face's."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = SwiGLU(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        layer: int,
        positions: Tensor,
        rotary: Rotary,
        attention: Attention,
        rows: Tensor | None = None,
    ) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), layer, positions, rotary, attention, rows)
        x = (x if rows is None else x[rows]) + mixed
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class DecoderBody(nn.Module):
    """Embedding, layers and final norm: the `model.` half of the Hugging Face state dict."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Decoder(nn.Module):
    """A decoder whose state dict is Hugging Face's, name for name.

    `score` exists in a classifier, `lm_head` in a language model whose embeddings are not tied.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderBody(config)
        self.rotary = Rotary(config)
        if config.num_labels:
            self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        elif not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @property
    def output_embedding(self) -> Tensor:
        """(outputs, hidden): rows whose product with a hidden state is a logit.

        One a token of the vocabulary, or one a label of a classifier.
        """
        if self.config.num_labels:
            return self.score.weight
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.weight
        return self.lm_head.weight

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: Attention,
        rows: Tensor | None = None,
    ) -> Tensor:
        """token_ids, positions: (T,) int64. Returns (T, hidden), before the final norm.

        `rows` (R,) int64 asks for those tokens only: the last layer computes no others' MLP, and
        the answer is (R, hidden).
        """
        x = self.model.embed_tokens(token_ids)
        last = len(self.model.layers) - 1
        for layer, block in enumerate(self.model.layers):
            wanted = rows if layer == last else None
            x = block(x, layer, positions, self.rotary, attention, wanted)
        return x  # type: ignore[no-any-return]
