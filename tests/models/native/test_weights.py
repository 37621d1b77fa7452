"""Weights as the C++ side reads them, unpacked by its own rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import Decoder
from models.linear import attach_row_scales
from models.native.weights import PANEL, Rows, pack_panels, pack_weights, quantize_weight

CONFIG = DecoderConfig(50, 40, 70, 2, 4, 2, 10)


def unpacked(panels: Tensor) -> Tensor:
    """Unit u of column c of a panel stands at panel[u * 16 + c]."""
    panel, units, columns, values = panels.shape
    flat = panels.flatten()
    rows = torch.empty(panel * columns, units * values, dtype=panels.dtype)
    for output in range(panel * columns):
        for value in range(units * values):
            unit = value // values * PANEL + output % PANEL
            start = output // PANEL * units * PANEL
            rows[output, value] = flat[(start + unit) * values + value % values]
    return rows


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
def test_panels_hold_every_weight_in_its_place(dtype: torch.dtype) -> None:
    weight = torch.randint(-100, 100, (48, 32)).to(dtype)
    assert torch.equal(unpacked(pack_panels(weight)), weight)


def test_int8_weights_are_within_half_a_step() -> None:
    weight = torch.randn(20, 33) * torch.logspace(-3, 3, 20)[:, None]
    values, scales = quantize_weight(weight)
    assert values.abs().amax(1).eq(127).all()
    assert (values * scales[:, None] - weight).abs().le(scales[:, None] * 0.501).all()
    zeros, _ = quantize_weight(torch.zeros(2, 3))
    assert not zeros.any()


def test_layouts_state_padded_widths() -> None:
    packed = pack_weights(Decoder(CONFIG), torch.int8)
    layout, layer = packed.layout, packed.layout.layer[1]
    assert (layout.hidden, layout.true_hidden, layout.intermediate) == (64, 40, 96)
    assert (layout.head_dim, layout.true_head_dim) == (32, 10)
    assert (layer.qkv.outputs, layer.qkv.inputs) == (8 * 32, 64)
    assert (layer.output.outputs, layer.output.inputs) == (64, 4 * 32)
    assert (layer.gate_up.outputs, layer.gate_up.inputs) == (2 * 96, 64)
    assert (layer.down.outputs, layer.down.inputs) == (64, 96)


def test_what_a_model_lacks_is_null() -> None:
    plain = pack_weights(Decoder(replace(CONFIG, model_type="llama")), torch.float32)
    layer = plain.layout.layer[0]
    assert (layer.q_norm, layer.k_norm, layer.qkv.bias, layer.qkv.scales) == (None,) * 4
    biased = pack_weights(Decoder(replace(CONFIG, attention_bias=True)), torch.int8)
    assert biased.layout.layer[0].qkv.bias
    assert biased.layout.layer[0].qkv.scales
    assert biased.layout.layer[0].output.bias is None


def test_eight_bits_take_a_quarter_of_the_memory() -> None:
    config = replace(CONFIG, vocab_size=2, hidden_size=512, intermediate_size=1024)
    config = replace(config, max_position_embeddings=8)
    wide, narrow = (
        pack_weights(Decoder(config), dtype).nbytes for dtype in (torch.float32, torch.int8)
    )
    assert narrow < wide * 0.27


def test_stored_codes_and_their_scales_are_taken_as_they_are() -> None:
    decoder = Decoder(CONFIG).requires_grad_(False)
    mlp = decoder.model.layers[0].mlp
    scales, codes = torch.rand(40) / 100 + 0.01, torch.randint(-90, 90, (40, 70))
    mlp.down_proj.weight.copy_(codes * scales[:, None])  # type: ignore[union-attr, operator]
    attach_row_scales(mlp.down_proj, scales)  # type: ignore[union-attr, arg-type]
    down = Rows.of(mlp.down_proj)  # type: ignore[union-attr, arg-type]
    values, found = quantize_weight(down.weight, down.scales)
    assert torch.equal(values[:40], codes.to(torch.int8))
    assert torch.equal(found[:40], scales)
    assert not values[40:].any()


def test_neurons_that_no_output_reads_are_left_out() -> None:
    decoder = Decoder(CONFIG).requires_grad_(False)
    decoder.get_parameter("model.layers.0.mlp.down_proj.weight")[:, 20:60] = 0
    layers = pack_weights(decoder, torch.float32).layout.layer
    assert (layers[0].down.inputs, layers[0].gate_up.outputs) == (32, 64)
    assert (layers[1].down.inputs, layers[1].gate_up.outputs) == (96, 192)
