"""Writes a decoder as two ONNX graphs, of a context and of its candidates. Knows no files.

context     token_ids (1, P) -> keys, values (layers, kv_heads, P, head_dim)
candidates  token_ids (B, T) padded at the end, lengths (B,), keys and values of the context,
            of which P may be 0 -> label_logits (B, labels)

Every candidate sees the context and itself: one softmax over both, where the keys of the context
are shared by the batch and never expanded. Padding comes last, so causality alone hides it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from torch import Tensor

from models.decoder import Decoder
from models.export_graph import GraphWriter, array
from models.export_weights import WeightFile

HIDDEN_SCORE = -1e30  # of a token out of sight; with infinity a row could become NaN


def context_graph(decoder: Decoder, weights: WeightFile, int8: bool) -> onnx.ModelProto:
    """Its last layer stops at keys and values."""
    graph = _DecoderGraph(decoder, weights, int8)
    x = graph.open(past=None)
    kept: list[tuple[str, str]] = []
    for layer in range(decoder.config.num_hidden_layers):
        normed = graph.norm(x, f"model.layers.{layer}.input_layernorm")
        kept.append(graph.keys_values(normed, layer))
        if layer + 1 < decoder.config.num_hidden_layers:
            mixed = graph.attend(graph.queries(normed, layer), kept[-1], None)
            x = graph.finish_layer(x, mixed, layer)
    writer = graph.writer
    for name, parts in zip(("keys", "values"), zip(*kept, strict=True), strict=True):
        writer.rename(writer.op("Concat", *parts, axis=0), name)
    inputs: dict[str, tuple[int, list[Any]]] = {"token_ids": (TensorProto.INT64, [1, "P"])}
    return writer.model("context", inputs, {"keys": graph.held, "values": graph.held})


def candidate_graph(
    decoder: Decoder, label_rows: Tensor, weights: WeightFile, int8: bool
) -> onnx.ModelProto:
    """label_rows: (labels, hidden), whose product with the last token's state is a logit."""
    graph = _DecoderGraph(decoder, weights, int8)
    x, last = graph.open(past="keys"), decoder.config.num_hidden_layers - 1
    for layer in range(decoder.config.num_hidden_layers):
        normed = graph.norm(x, f"model.layers.{layer}.input_layernorm")
        own = graph.keys_values(normed, layer)
        mixed = graph.attend(graph.queries(normed, layer), own, graph.past(layer))
        if layer == last:
            x, mixed = graph.last_tokens(x), graph.last_tokens(mixed)
        x = graph.finish_layer(x, mixed, layer)
    writer = graph.writer
    rows = writer.weight("label_rows", array(label_rows).T)
    writer.rename(writer.op("MatMul", graph.norm(x, "model.norm"), rows), "label_logits")
    inputs: dict[str, tuple[int, list[Any]]] = {
        "token_ids": (TensorProto.INT64, ["B", "T"]),
        "lengths": (TensorProto.INT64, ["B"]),
        "keys": (TensorProto.FLOAT, graph.held),
        "values": (TensorProto.FLOAT, graph.held),
    }
    return writer.model("candidates", inputs, {"label_logits": ["B", "labels"]})


class _DecoderGraph:
    """The parts of a layer, as both graphs need them; strings are names of results."""

    def __init__(self, decoder: Decoder, weights: WeightFile, int8: bool) -> None:
        self.writer = GraphWriter(weights, int8)
        self._config = config = decoder.config
        self._state = decoder.state_dict()
        self._tables = {"cos": decoder.rotary.cos, "sin": decoder.rotary.sin}
        self._kv_heads, self._head_dim = config.num_key_value_heads, config.head_dim
        self.held: list[Any] = [config.num_hidden_layers, self._kv_heads, "P", self._head_dim]
        self._group = config.num_attention_heads // config.num_key_value_heads

    def open(self, past: str | None) -> str:
        """Embeds (B, T) tokens, which follow the context whose keys `past` names, if any."""
        op, number = self.writer.op, self.writer.constant
        tokens = op("Shape", "token_ids", start=1)
        before = number([0]) if past is None else op("Shape", past, start=2, end=3)
        self._sizes = op("Concat", before, tokens, axis=0)
        first, count = (op("Squeeze", length) for length in (before, tokens))
        offsets = op("Range", number(np.int64(0)), count, number(np.int64(1)))
        positions = op("Add", offsets, first)
        # (T, 1, head_dim), against queries and keys (B, T, heads, head_dim)
        self._cos, self._sin = (self._table(name, positions) for name in ("cos", "sin"))
        self._mask = self._causal_mask(tokens)
        name = "model.embed_tokens.weight"
        return op("Gather", self.writer.weight(name, array(self._state[name])), "token_ids")

    def norm(self, x: str, name: str) -> str:
        """RMS norm over the last axis, by the weight of that name."""
        weight = array(self._state[f"{name}.weight"])
        return self.writer.norm(x, f"{name}.weight", weight, self._config.rms_norm_eps)

    def queries(self, x: str, layer: int) -> str:
        """(B, kv_heads, group * T, head_dim), divided by sqrt(head_dim)."""
        op = self.writer.op
        rotated = self._rotate(self._heads(x, layer, "q"))
        scaled = op("Mul", rotated, self.writer.constant(np.float32(self._head_dim**-0.5)))
        return self._reshape(
            op("Transpose", scaled, perm=[0, 2, 1, 3]), 0, self._kv_heads, -1, self._head_dim
        )

    def keys_values(self, x: str, layer: int) -> tuple[str, str]:
        """Each (B, kv_heads, T, head_dim)."""
        keys, values = self._rotate(self._heads(x, layer, "k")), self._heads(x, layer, "v")
        transposed = (self.writer.op("Transpose", y, perm=[0, 2, 1, 3]) for y in (keys, values))
        return next(transposed), next(transposed)

    def past(self, layer: int) -> tuple[str, str]:
        """The context's keys and values, each (1, kv_heads, P, head_dim)."""
        index = self.writer.constant([layer])
        return self.writer.op("Gather", "keys", index), self.writer.op("Gather", "values", index)

    def attend(self, queries: str, own: tuple[str, str], past: tuple[str, str] | None) -> str:
        """(B, T, heads * head_dim) of queries over their own row and the context."""
        op = self.writer.op
        scores = op("Add", self._product(queries, own[0]), self._mask)
        if past is None:
            mixed = op("MatMul", op("Softmax", scores, axis=-1), own[1])
        else:
            both = op("Concat", self._product(queries, past[0]), scores, axis=-1)
            weights = op("Softmax", both, axis=-1)
            of_past, of_own = self.writer.ops("Split", 2, weights, self._sizes, axis=-1)
            mixed = op("Add", op("MatMul", of_past, past[1]), op("MatMul", of_own, own[1]))
        heads = self._kv_heads * self._group
        by_head = self._reshape(mixed, 0, heads, -1, self._head_dim)
        return self._reshape(
            op("Transpose", by_head, perm=[0, 2, 1, 3]), 0, 0, heads * self._head_dim
        )

    def finish_layer(self, x: str, mixed: str, layer: int) -> str:
        """Output projection, residuals and MLP."""
        op, name = self.writer.op, f"model.layers.{layer}"
        x = op("Add", x, self._linear(mixed, f"{name}.self_attn.o_proj"))
        normed = self.norm(x, f"{name}.post_attention_layernorm")
        gate = self._linear(normed, f"{name}.mlp.gate_proj")
        up = self._linear(normed, f"{name}.mlp.up_proj")
        active = op("Mul", op("Mul", gate, op("Sigmoid", gate)), up)
        return op("Add", x, self._linear(active, f"{name}.mlp.down_proj"))

    def last_tokens(self, x: str) -> str:
        """(B, hidden): the row of (B, T, hidden) where each candidate ends."""
        op, number = self.writer.op, self.writer.constant
        rows = op("Unsqueeze", op("Sub", "lengths", number([1])), number([1]))
        return op("GatherND", x, rows, batch_dims=1)

    def _heads(self, x: str, layer: int, kind: str) -> str:
        """(B, T, heads, head_dim), normalised where the family does."""
        name = f"model.layers.{layer}.self_attn.{kind}"
        split = self._reshape(self._linear(x, f"{name}_proj"), 0, 0, -1, self._head_dim)
        return self.norm(split, f"{name}_norm") if f"{name}_norm.weight" in self._state else split

    def _rotate(self, x: str) -> str:
        """x cos + swap(x) sin, as `models.rotary` says of its tables."""
        op = self.writer.op
        left, right = self.writer.ops("Split", 2, x, axis=-1, num_outputs=2)
        swapped = op("Concat", right, left, axis=-1)
        return op("Add", op("Mul", x, self._cos), op("Mul", swapped, self._sin))

    def _product(self, queries: str, keys: str) -> str:
        return self.writer.op(
            "MatMul", queries, self.writer.op("Transpose", keys, perm=[0, 1, 3, 2])
        )

    def _linear(self, x: str, name: str) -> str:
        bias = self._state.get(f"{name}.bias")
        weight = array(self._state[f"{name}.weight"])
        return self.writer.linear(x, name, weight, None if bias is None else array(bias))

    def _table(self, name: str, positions: str) -> str:
        rows = self.writer.op(
            "Gather", self.writer.weight(name, array(self._tables[name])), positions
        )
        return self.writer.op("Unsqueeze", rows, self.writer.constant([1]))

    def _causal_mask(self, tokens: str) -> str:
        """(group * T, T): 0 where a query may look, HIDDEN_SCORE where it may not."""
        op, number = self.writer.op, self.writer.constant
        square = op("Concat", tokens, tokens, axis=0)
        hidden = op("Expand", number(np.float32(HIDDEN_SCORE)), square)
        above = op("Trilu", hidden, number(np.int64(1)), upper=1)
        return op("Tile", above, number([self._group, 1]))

    def _reshape(self, x: str, *shape: int) -> str:
        """0 keeps a dimension, -1 takes the rest."""
        return self.writer.op("Reshape", x, self.writer.constant(list(shape)))
