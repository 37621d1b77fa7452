"""The wired decoder over bags of words: what all of it computes before it learns word order.

While the lower layers only mark roles, keys and values depend on the token alone, so attention's
pools are sums over a vocabulary table, and a slate costs one MLP row per candidate. Knows
nothing of data or optimizers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.decoders import wiring
from models.decoder import Decoder

Bag = npt.NDArray[np.int64]


def score_bags(
    decoder: Decoder,
    contexts: Sequence[Bag],
    candidates: Sequence[Bag],
    slates: Tensor,
    candidate_role: float,
) -> Tensor:
    """Raw logits (S, C) of slates (S, C) int64, indices into `candidates`; bags hold markers."""
    answer, query = _answer(decoder, candidate_role)
    near = _pool(_table(decoder, query, candidate_role), candidates)
    far = _pool(_table(decoder, query, -candidate_role), contexts)
    sums = far[:, None] + near[slates]  # (S, C, heads * (head_dim + 1))
    heads = decoder.config.num_attention_heads
    values, weights = sums[..., :-heads], sums[..., -heads:]
    pooled = values.view(*slates.shape, heads, -1) / weights[..., None]
    layer = wiring.layers_of(decoder)[-1]
    x = answer + layer.self_attn.o_proj(pooled.flatten(-2))
    x = x + layer.mlp(layer.post_attention_layernorm(x))
    yes, no = decoder.output_embedding[list(wiring.LABELS)]
    return decoder.model.norm(x) @ (yes - no)  # type: ignore[no-any-return]


def _with_role(embeddings: Tensor, role: float) -> Tensor:
    mark = embeddings.new_zeros(embeddings.shape[-1])
    mark[wiring.ROLE] = role * wiring.ROLE_SIZE
    return embeddings + mark


def _answer(decoder: Decoder, role: float) -> tuple[Tensor, Tensor]:
    """The answer token's residual (hidden,) and its queries (heads, head_dim)."""
    x = _with_role(decoder.model.embed_tokens.weight[wiring.ANSWER], role)
    layer, size = wiring.layers_of(decoder)[-1], decoder.config.head_dim
    query_norm, _ = wiring.norms_of(layer.self_attn)
    query = query_norm(layer.self_attn.q_proj(layer.input_layernorm(x)).view(-1, size))
    return x, query * wiring.slow_dimensions(decoder.config).to(x.device)


def _table(decoder: Decoder, query: Tensor, role: float) -> Tensor:
    """(vocab, heads * head_dim + heads): every token's weighted value and its weight, per head."""
    layer, size = wiring.layers_of(decoder)[-1], decoder.config.head_dim
    n = layer.input_layernorm(_with_role(decoder.model.embed_tokens.weight, role))
    _, key_norm = wiring.norms_of(layer.self_attn)
    keys = key_norm(layer.self_attn.k_proj(n).unflatten(-1, (-1, size)))
    values = layer.self_attn.v_proj(n).unflatten(-1, (-1, size))
    groups = len(query) // keys.shape[1]
    grouped = query.view(-1, groups, size)  # (kv_heads, groups, head_dim)
    weights = (torch.einsum("vkd,kgd->vkg", keys, grouped) * size**-0.5).exp()
    return torch.cat(((weights[..., None] * values[:, :, None]).flatten(1), weights.flatten(1)), 1)


def _pool(table: Tensor, bags: Sequence[Bag]) -> Tensor:
    lengths = np.array([len(bag) for bag in bags])
    starts = torch.from_numpy(lengths.cumsum() - lengths).to(table.device)
    tokens = torch.from_numpy(np.concatenate(bags)).to(table.device)
    return F.embedding_bag(tokens, table, starts, mode="sum")
