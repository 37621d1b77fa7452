"""What overflows within a pass shows in its logits, at every precision: no part rounds it away."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch

from models.decoder import Decoder
from models.engines.fairslate import RunnerEngine
from tests.models.engines.native import (
    NARROW_AND_WIDE,
    PLAIN,
    drawn_jobs,
    logits,
    native_engine,
    needs_native,
    random_decoder,
    torch_engine,
)

LARGEST = 3e38  # finite, so that the model loads
LAYER = "model.layers.0."
PARTS = [name for name, _ in random_decoder(PLAIN).named_parameters() if name.startswith(LAYER)]
MakeEngine = Callable[[Decoder], RunnerEngine]


@pytest.fixture(params=NARROW_AND_WIDE)
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["torch", pytest.param("native", marks=needs_native)])
def make(request: pytest.FixtureRequest, dtype: str) -> MakeEngine:
    return partial({"torch": torch_engine, "native": native_engine}[request.param], dtype=dtype)


@pytest.mark.parametrize("part", PARTS)
def test_what_overflows_at_full_precision_has_no_score(make: MakeEngine, part: str) -> None:
    decoder = random_decoder(PLAIN)
    weight = decoder.get_parameter(part)
    weight.div_(weight.abs().max()).mul_(LARGEST)
    assert weight.isfinite().all()
    overflown = ~torch.tensor(logits(torch_engine(deepcopy(decoder)), drawn_jobs())).isfinite()
    assert overflown.any()
    found = torch.tensor(logits(make(decoder), drawn_jobs()))
    assert not found[overflown].isfinite().any()
