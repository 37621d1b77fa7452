"""Wires a decoder to find two facts that share a rare word. Knows nothing of data or losses.

Layer 0 notes at every token its role, the kind of its field and whether a fact starts there, layer
1 the first token of its fact. In layer 2 a job's token finds a member's token of the same stem, in
a fact that a sentence may name beside its own, and notes that fact's first token, its kind, and how
rare the stem is. In layer 3 the tokens that have to choose look at the rarest of these and write
how either fact begins. Copying (compress.decoders.copy_wiring) does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.decoders.fact_layout import (
    CONSTANT,
    FLAG,
    KINDS,
    LISTS,
    MARKS,
    STEM_SIZE,
    WORD_SIZE,
    Layout,
    TokenMarks,
    input_rms,
)
from compress.decoders.wiring import layers_of, norms_of
from models.decoder import Decoder, DecoderLayer

JOB_KINDS = ("duty", "tool", "title")
FIELD_PAIR, FACT_PAIR = 11, 10  # rotary pairs that turn less than once in a text or field
PHASE = 0.6  # where they start, so that nearer is always better
NEAREST, UNFLAGGED = 4.7, 1.1  # q and k norm weight of these pairs; the flag's share of a query
STEM_SHARPNESS, GATE_SHARPNESS = 2.4, 3.6
RAREST, NO_MATCH = 5.5, 0.15  # sharpness, and the share of a query that asks for nothing
NOTED = 0.7  # about what undoes an input norm
SHORT = {"tool": 0.4, "title": 0.2}  # facts of few words, of which one counts for more
SAID = 4.0  # size of what the last layer writes


class Head:
    """Queries, keys, values and outputs of one group's first head, all zero."""

    def __init__(self, decoder: Decoder, layer: DecoderLayer, group: int) -> None:
        config, attention = decoder.config, layer.self_attn
        size = config.head_dim
        head = group * (config.num_attention_heads // config.num_key_value_heads)
        self.query = attention.q_proj.weight[head * size : (head + 1) * size].zero_()
        self.key = attention.k_proj.weight[group * size : (group + 1) * size].zero_()
        self.value = attention.v_proj.weight[group * size : (group + 1) * size].zero_()
        self.output = attention.o_proj.weight[:, head * size : (head + 1) * size].zero_()


@torch.no_grad()
def wire_matching(decoder: Decoder, marks: TokenMarks, projection: Tensor) -> None:
    """Overwrites in place, after copying is wired; needs four layers, groups and wide states."""
    layout, layers = Layout.of(decoder.config), layers_of(decoder)
    _embed(decoder, layout, marks)
    _note_fields(decoder, layers[0])
    _note_starts(layers[0], input_rms(decoder.config))
    _note_first(decoder, layers[1], layout, projection)
    _find_stems(decoder, layers[2], layout, marks)
    _say_rarest(decoder, layers[3], layout, marks)


def _embed(decoder: Decoder, layout: Layout, marks: TokenMarks) -> None:
    weight = decoder.model.embed_tokens.weight
    drawn = torch.randn(int(marks.stems.max()) + 1, STEM_SIZE)
    weight[:, layout.stem] = STEM_SIZE**0.5 * F.normalize(drawn, dim=1)[marks.stems]
    weight[:, MARKS["rarity"]] = marks.rarity
    for name, tokens in marks.marks.items():
        weight[list(tokens), MARKS[name]] = FLAG
    for named in (layout.read, layout.write):  # who finds nothing looks there and reads nothing
        weight[list(marks.marks["member"]), named] = 0


def _nearest(head: Head, pair: int, flags: Sequence[str], flag: float) -> None:
    """Looks at the last token that carries one of the flags, whose size is `flag`."""
    half = len(head.query) // 2
    head.query[pair, CONSTANT] = math.cos(PHASE)
    head.query[half + pair, CONSTANT] = math.sin(PHASE)
    head.query[-1, CONSTANT] = -UNFLAGGED
    head.key[-1, CONSTANT] = 1
    for name in flags:
        head.key[pair, MARKS[name]] = 40 / flag


def _sharpen(layer: DecoderLayer, dimensions: Iterable[int], sharpness: float) -> None:
    for norm in norms_of(layer.self_attn):
        norm.weight[list(dimensions)] = sharpness


def _carry(head: Head, row: int, source: str, note: str, gain: float = 1.0) -> None:
    head.value[row, MARKS[source]] = 1
    head.output[MARKS[note], row] = gain


def _note_fields(decoder: Decoder, layer: DecoderLayer) -> None:
    """Layer 0: the last field's kind, the last opener's role, what parts facts one place back."""
    gain, size = input_rms(decoder.config) / FLAG, decoder.config.head_dim
    kinds, roles = Head(decoder, layer, 2), Head(decoder, layer, 3)
    _nearest(kinds, FIELD_PAIR, ["field"], FLAG)
    _nearest(roles, FIELD_PAIR, ["member", "job", "ask"], FLAG)
    for row, kind in enumerate(KINDS):
        _carry(kinds, row, f"is_{kind}", f"of_{kind}", 1.15 * gain)
    for row, role in enumerate(("member", "job", "ask")):
        _carry(roles, row, role, f"in_{role}", gain)
    attention = layer.self_attn
    for row, parting in enumerate(("strong", "comma"), start=WORD_SIZE):
        attention.v_proj.weight[row, MARKS[parting]] = 1
        attention.o_proj.weight[MARKS[f"after_{parting}"], row] = gain
    _sharpen(layer, (FIELD_PAIR, size // 2 + FIELD_PAIR, size - 1), NEAREST)


def _note_starts(layer: DecoderLayer, scale: float) -> None:
    """Layer 0: a fact starts after a colon or semicolon, and in a list after a comma."""
    sharp, conditions = 20.0, [["after_strong"], ["after_comma", *(f"of_{x}" for x in LISTS)]]
    for neuron, needed in enumerate(conditions):
        needs = 1 if neuron == 0 else 2
        gate = layer.mlp.gate_proj.weight[neuron].zero_()
        gate[[MARKS[name] for name in needed]] = sharp
        gate[CONSTANT] = -sharp * (needs - 0.5) / 2
        layer.mlp.up_proj.weight[neuron].zero_()[CONSTANT] = 1
        # silu(sharp / 2 / rms) 2 / rms = sharp / rms^2
        layer.mlp.down_proj.weight[:, neuron] = 0
        layer.mlp.down_proj.weight[MARKS["start"], neuron] = 1.75 * scale**2 / sharp


def _note_first(decoder: Decoder, layer: DecoderLayer, layout: Layout, projection: Tensor) -> None:
    """Layer 1: the first token of the fact that a token stands in."""
    head, size = Head(decoder, layer, 2), decoder.config.head_dim
    _nearest(head, FACT_PAIR, ["start"], 1.0)
    head.value[:WORD_SIZE, layout.read] = projection
    head.output[layout.first, :WORD_SIZE] = NOTED * torch.eye(WORD_SIZE)
    _sharpen(layer, (FACT_PAIR, size // 2 + FACT_PAIR, size - 1), NEAREST)


def _find_stems(decoder: Decoder, layer: DecoderLayer, layout: Layout, marks: TokenMarks) -> None:
    """Layer 2: a job's token looks for its stem in the member's facts that go with its own."""
    half = decoder.config.head_dim // 2
    places = [*range(half // 2, half - 2), *range(half + half // 2, 2 * half - 2)]
    gate, *kinds = half - 2, half - 1, 2 * half - 2, 2 * half - 1
    heads = Head(decoder, layer, 0), Head(decoder, layer, 1)
    for head in heads:
        for matrix in (head.query, head.key):
            matrix[places, layout.stem] = torch.eye(STEM_SIZE)
        head.query[gate, CONSTANT] = 0.6
        for role in ("member", "ask"):
            head.query[gate, MARKS[f"in_{role}"]] = 30
        for role in ("job", "ask"):
            head.key[gate, MARKS[f"in_{role}"]] = -30
        head.key[gate, MARKS["of_level"]] = -30
        head.key[gate, MARKS["member"]] = 10
        for place, job_kind in zip(kinds, JOB_KINDS, strict=True):
            head.query[place, MARKS[f"of_{job_kind}"]] = 3
            for kind in KINDS:
                if (kind, job_kind) not in marks.pairs:
                    head.key[place, MARKS[f"of_{kind}"]] = -3
    first, told = heads
    first.value[:WORD_SIZE, layout.first] = torch.eye(WORD_SIZE)
    first.output[layout.matched, :WORD_SIZE] = NOTED * torch.eye(WORD_SIZE)
    _carry(told, 0, "rarity", "score", 4 * NOTED)
    for row, kind in enumerate(KINDS, start=1):
        _carry(told, row, f"of_{kind}", f"matched_{kind}", NOTED)
    _sharpen(layer, places, STEM_SHARPNESS)
    _sharpen(layer, (gate, *kinds), GATE_SHARPNESS)


def _say_rarest(decoder: Decoder, layer: DecoderLayer, layout: Layout, marks: TokenMarks) -> None:
    """Layer 3: whoever chooses looks at the rarest match and writes what it noted."""
    size, words = decoder.config.head_dim, decoder.model.embed_tokens.weight[:, layout.write]
    heads = [Head(decoder, layer, group) for group in range(3)]
    for head, flag in zip(heads, ("open", "open", "choice"), strict=True):
        head.query[size - 1, MARKS[flag]] = 5
        head.query[size - 2, CONSTANT] = NO_MATCH * 10
        head.key[size - 1, MARKS["score"]] = 1
        for kind, gain in SHORT.items():
            head.key[size - 1, MARKS[f"of_{kind}"]] = gain
        head.key[size // 2 - 1, CONSTANT] = 1
        head.key[size - 2, MARKS["member"]] = 10
    for head, note in zip(heads, (layout.matched, layout.first), strict=False):
        head.value[:WORD_SIZE, note] = torch.eye(WORD_SIZE)
        head.output[layout.write, :WORD_SIZE] = SAID * torch.eye(WORD_SIZE)
    names = [(f"matched_{kind}", marks.openings[kind]) for kind in marks.openings]
    names += [(f"of_{kind}", marks.middles[kind]) for kind in marks.middles]
    for row, (name, tokens) in enumerate(names):
        heads[2].value[row, MARKS[name]] = 1
        heads[2].output[layout.write, row] = SAID * words[list(tokens)].sum(0)
    _sharpen(layer, (size - 1, size - 2, size // 2 - 1), RAREST)
