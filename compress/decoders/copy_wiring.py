"""Writes a copying circuit into a decoder's weights. Knows nothing of data, losses or steps.

A token's embedding names it twice: READ, and WRITE, which is a projection of READ. Layer 0 removes
the current token's WRITE, so that the tied output does not repeat it, and notes at every place
which token stood before (BEFORE). Layer 1 looks for the places whose BEFORE is the current token
and writes the WRITE of what stands there: a token is continued as it was before (an induction head,
Olsson et al. 2022, arXiv 2209.11895). The layers above pass everything on. Training starts there
and not from noise; every weight stays free to move.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.decoders.fact_layout import CONSTANT, MARKS, WORD_SIZE, Layout, input_rms
from compress.decoders.wiring import layers_of, norms_of
from models.config import DecoderConfig
from models.decoder import Decoder
from models.rotary import frequencies

FAST_PAIRS = 8  # rotary pairs that tell one position from the next
POSITION_SHARPNESS = 2.5  # q and k norm weight of these pairs in layer 0
MATCH_SHARPNESS = 1.7  # of the pairs that compare tokens in layer 1
WRITTEN = 1.5  # size of what is copied, beside what embeddings are
OUTPUT_GAIN = 0.1  # norm weight of WRITE before the tied output
HUSH = 0.02  # of everything else there


@torch.no_grad()
def wire_copying(decoder: Decoder) -> Tensor:
    """Overwrites in place; draws from torch's global random state. Needs q/k norms and two layers.

    The heads of the first two groups of keys and values are taken, one each in both layers.
    """
    layout = Layout.of(decoder.config)
    read, write = layout.read, layout.write
    weight = decoder.model.embed_tokens.weight.normal_()
    weight[:, CONSTANT] = 2
    weight[:, CONSTANT + 1 : len(MARKS) + 1] = 0
    for empty in (layout.before, layout.first, layout.matched):
        weight[:, empty] = 0
    projection: Tensor = torch.linalg.qr(torch.randn(read.stop - read.start, WORD_SIZE)).Q.T
    weight[:, write] = weight[:, read] @ projection.T
    for layer in layers_of(decoder):
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    decoder.model.norm.weight.fill_(HUSH)
    decoder.model.norm.weight[write] = OUTPUT_GAIN
    _note_what_stood_before(decoder, projection)
    _continue_as_before(decoder, projection)
    return projection


def _note_what_stood_before(decoder: Decoder, projection: Tensor) -> None:
    """Layer 0: a head one place back to BEFORE, and a head in place that takes WRITE away."""
    config, layer = decoder.config, layers_of(decoder)[0].self_attn
    size, groups = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    layout, words = Layout.of(config), WORD_SIZE
    for head, back in ((0, 1), (groups, 0)):
        _look_back(layer.q_proj.weight[head * size : (head + 1) * size], config, back)
    for head in (0, 1):
        _look_back(layer.k_proj.weight[head * size : (head + 1) * size], config, 0)
    values = layer.v_proj.weight
    values[: 2 * size] = 0
    values[:words, layout.read] = projection
    values[size : size + words, layout.write] = torch.eye(words)
    outputs = layer.o_proj.weight
    outputs[layout.before, :words] = torch.eye(words)
    taken = groups * size
    outputs[layout.write, taken : taken + words] = -input_rms(config) * torch.eye(words)
    for norm in norms_of(layer):
        norm.weight[_fast(config)] = POSITION_SHARPNESS


def _fast(config: DecoderConfig) -> Tensor:
    """(head_dim,) bool: both halves of the fast rotary pairs."""
    return torch.arange(config.head_dim) % (config.head_dim // 2) < FAST_PAIRS


def _look_back(rows: Tensor, config: DecoderConfig, back: int) -> None:
    """A head's queries or keys (head_dim, hidden) from the constant, turned back by positions."""
    half = config.head_dim // 2
    angles = -back * frequencies(config)[:FAST_PAIRS]
    rows.zero_()
    rows[:FAST_PAIRS, CONSTANT] = angles.cos()
    rows[half : half + FAST_PAIRS, CONSTANT] = angles.sin()


def _continue_as_before(decoder: Decoder, projection: Tensor) -> None:
    """Layer 1: two heads, each comparing half of the projected token, both writing WRITE."""
    config, layer = decoder.config, layers_of(decoder)[1].self_attn
    size, groups = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    layout, words = Layout.of(config), WORD_SIZE
    slow = torch.arange(size) % (size // 2) >= size // 4
    places = slow.nonzero().flatten()[: words // 2]
    for group in (0, 1):
        part = slice(group * len(places), (group + 1) * len(places))
        query = layer.q_proj.weight[group * groups * size :][:size].zero_()
        key = layer.k_proj.weight[group * size :][:size].zero_()
        query[places, layout.read] = projection[part]
        key[places, layout.before] = torch.eye(words)[part]
        layer.v_proj.weight[group * size :][:words].zero_()[:, layout.read] = projection
        output = layer.o_proj.weight[:, group * groups * size :][:, :words]
        output[layout.write] = WRITTEN * torch.eye(words)
    for norm in norms_of(layer):
        norm.weight[places] = MATCH_SHARPNESS
