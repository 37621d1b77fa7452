"""Writes a starting circuit into a decoder's weights. Knows nothing of data, losses or steps.

The circuit is a two-tower ranker: layer 0 marks every token with its role (member or job text), the
layers between pass everything on, and in the last layer the answer token pools both texts and its
MLP compares the pools. Training starts there and not from noise; every weight stays free to move.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import RMSNorm

from compress.data.tokenizer import MARKERS
from models.config import DecoderConfig
from models.decoder import Decoder, DecoderLayer, SelfAttention

CONSTANT, CONTEXT_OPENER, CANDIDATE_OPENER, ROLE = range(4)  # reserved residual dimensions
RESERVED = 4
ANSWER = MARKERS.index("<match>")
LABELS = MARKERS.index("<yes>"), MARKERS.index("<no>")
MEMBER, JOB = 1.0, -1.0
OPENERS = {
    MARKERS.index("<member>"): (CONTEXT_OPENER, MEMBER),
    MARKERS.index("<job>"): (CONTEXT_OPENER, JOB),
    MARKERS.index("<candidate_job>"): (CANDIDATE_OPENER, JOB),
    MARKERS.index("<candidate_member>"): (CANDIDATE_OPENER, MEMBER),
}
ROLE_SIZE = 4.0  # of the role mark beside embeddings of unit variance
POOL_GAIN = 6.0  # a mean of about forty unit vectors comes back to about unit size
PRODUCT_GAIN = 0.2
SHARPNESS = 1.6  # q and k norm weight of the role dimension


def layers_of(decoder: Decoder) -> list[DecoderLayer]:
    """The decoder's layers, typed."""
    return [layer for layer in decoder.model.layers if isinstance(layer, DecoderLayer)]


def norms_of(attention: SelfAttention) -> tuple[RMSNorm, RMSNorm]:
    """The norms of queries and of keys, which the circuit needs."""
    assert attention.q_norm is not None
    assert attention.k_norm is not None
    return attention.q_norm, attention.k_norm


def slow_dimensions(config: DecoderConfig) -> Tensor:
    """(head_dim,) bool: the half of a head that positions barely rotate; content lives there."""
    half = config.head_dim // 2
    return torch.arange(config.head_dim) % half >= half // 2


def movable_embeddings(weight: Tensor) -> Tensor:
    """Mask (vocab, hidden): 0 where role marking reads fixed values, 1 where words are learned."""
    mask = torch.ones_like(weight)
    mask[:, :RESERVED] = 0
    mask[list(OPENERS)] = 0
    return mask


@torch.no_grad()
def wire(decoder: Decoder) -> None:
    """Overwrites embeddings and projections in place; draws from torch's global random state."""
    _embed(decoder)
    for layer in layers_of(decoder)[:-1]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    _mark_roles(decoder)
    _part_roles(decoder)
    _compare_pools(decoder)


def _embed(decoder: Decoder) -> None:
    weight = decoder.model.embed_tokens.weight
    weight.normal_()
    weight[:, :RESERVED] = 0
    weight[:, CONSTANT] = 2
    for token, (kind, role) in OPENERS.items():
        weight[token] = 0
        weight[token, CONSTANT] = 2
        weight[token, kind] = 16
        weight[token, ROLE] = 8 * role


def _mark_roles(decoder: Decoder) -> None:
    """Layer 0, head 0: every token looks for the last opener and copies its role."""
    attention, size = layers_of(decoder)[0].self_attn, decoder.config.head_dim
    match, rest = size - 1, size // 2 - 1  # the slowest rotary pair
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:size] = 0
    attention.q_proj.weight[match, CONSTANT] = 1
    attention.k_proj.weight[rest, CONSTANT] = 1
    attention.k_proj.weight[match, CONTEXT_OPENER] = 0.08
    attention.k_proj.weight[match, CANDIDATE_OPENER] = 1
    attention.v_proj.weight[0, ROLE] = 1
    for norm in norms_of(attention):
        norm.weight[match] = SHARPNESS
    # The norm divides a context opener, (2, 16, 0, 8) and zeros, by this.
    opener_rms = ((16**2 + 8**2 + 2**2) / decoder.config.hidden_size) ** 0.5
    attention.o_proj.weight[ROLE, 0] = ROLE_SIZE * opener_rms / 8


def _part_roles(decoder: Decoder) -> None:
    """Last layer: even heads look at member text, odd heads at job text; positions play no part."""
    attention, size = layers_of(decoder)[-1].self_attn, decoder.config.head_dim
    fast = ~slow_dimensions(decoder.config)
    queries = attention.q_proj.weight.view(-1, size, decoder.config.hidden_size)
    keys = attention.k_proj.weight.view(-1, size, decoder.config.hidden_size)
    queries[:, fast] = 0
    keys[:, fast] = 0
    queries[:, size - 1] = keys[:, size - 1] = 0
    keys[:, size - 1, ROLE] = 1
    signs = torch.tensor([MEMBER, JOB]).repeat(len(queries) // 2)
    queries[:, size - 1, CONSTANT] = 1.5 * signs
    for norm in norms_of(attention):
        norm.weight[size - 1] = SHARPNESS


def _compare_pools(decoder: Decoder) -> None:
    """Last layer: the answer token holds both pools; SwiGLU pairs multiply them exactly.

    silu(a) b + silu(-a) (-b) = a b (sigmoid(a) + sigmoid(-a)) = a b.
    """
    hidden, layer = decoder.config.hidden_size, layers_of(decoder)[-1]
    basis = torch.linalg.qr(torch.randn(hidden, hidden)).Q
    basis[:RESERVED] = 0
    torch.nn.init.orthogonal_(layer.self_attn.v_proj.weight)
    width = decoder.config.num_attention_heads * decoder.config.head_dim
    layer.self_attn.o_proj.weight.copy_(POOL_GAIN * basis[:, :width])
    columns = torch.arange(width).view(-1, 2, decoder.config.head_dim)
    member, job = (basis[:, columns[:, side].flatten()].T for side in (0, 1))
    direction = torch.nn.functional.normalize(torch.randn(hidden), dim=0)
    products = 2 * len(member)
    layer.mlp.gate_proj.weight[:products] = torch.cat((member, -member))
    layer.mlp.up_proj.weight[:products] = torch.cat((job, -job))
    layer.mlp.down_proj.weight.mul_(0.1)
    layer.mlp.down_proj.weight[:, :products] = PRODUCT_GAIN * direction[:, None]
    embedding = decoder.model.embed_tokens.weight
    embedding[ANSWER, RESERVED:] *= 0.05
    embedding[LABELS[0]], embedding[LABELS[1]] = direction, -direction
