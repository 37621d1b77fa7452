"""Inputs arrive as they were filled, pass by pass, and logits in the order they were asked for.

On a GPU the tests of the device's runner go through it.
"""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.engines.pass_inputs import TENSOR_FIELDS, PassInputs, PassShape
from models.engines.staging import SLOTS, Staging

SMALL = PassShape(tokens=8, items=2, groups=1, pages=2, tile_tokens=4)
LARGE = PassShape(tokens=40, items=5, groups=3, pages=9, tile_tokens=4)
CPU = torch.device("cpu")


def tensors(inputs: PassInputs) -> dict[str, Tensor]:
    return {name: getattr(inputs, name) for name in TENSOR_FIELDS}


def fill(inputs: PassInputs, first: int) -> dict[str, list[int]]:
    """Gives every field other numbers; returns them."""
    numbers: dict[str, list[int]] = {}
    for name, field in tensors(inputs).items():
        field.copy_(torch.arange(first, first + len(field)))
        numbers[name] = field.tolist()
        first += len(field)
    return numbers


def test_each_pass_finds_its_own_inputs_on_the_device() -> None:
    staging = Staging([SMALL, LARGE], CPU)
    for number in range(3 * SLOTS):
        shape = (SMALL, LARGE, LARGE)[number % 3]
        numbers = fill(staging.host_inputs(shape), 1_000 * number)
        staging.send(shape)
        found = tensors(staging.device_inputs[shape])
        assert {name: field.tolist() for name, field in found.items()} == numbers
        assert tuple(map(len, found.values())) == shape.field_sizes


def test_inputs_are_written_into_another_buffer_while_those_before_are_on_their_way() -> None:
    staging = Staging([SMALL, LARGE], CPU)
    buffers: list[int] = []
    for _ in range(2 * SLOTS):
        buffers.append(staging.host_inputs(LARGE).token_ids.data_ptr())
        assert staging.host_inputs(SMALL).token_ids.data_ptr() == buffers[-1]
        staging.send(LARGE)
    assert len(set(buffers)) == SLOTS
    assert buffers[:SLOTS] == buffers[SLOTS:]


def test_what_a_captured_pass_reads_stays_where_it_is() -> None:
    staging = Staging([SMALL], CPU)
    before = staging.device_inputs[SMALL].page_ids.data_ptr()
    for _ in range(SLOTS + 1):
        staging.send(SMALL)
    assert staging.device_inputs[SMALL].page_ids.data_ptr() == before


@given(st.lists(st.lists(st.integers(0, 900), max_size=5), min_size=1, max_size=5))
def test_logits_come_back_in_order_however_many_there_are(batches: list[list[int]]) -> None:
    staging = Staging([SMALL], CPU)
    for sizes in batches:
        parts = torch.split(torch.arange(sum(sizes), dtype=torch.float32), sizes)
        for part in parts:
            staging.receive(part)
            part.fill_(-1.0)  # the next pass writes its own there
        assert staging.collect() == list(range(sum(sizes)))
        assert staging.collect() == []
