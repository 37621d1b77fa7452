"""Batches made ahead are those made on demand, in the order of the steps, wherever one starts."""

from __future__ import annotations

import os

import pytest
import torch

from compress.stages.ahead import Ahead


def _batch(step: int) -> tuple[int, int, str]:
    return step * step, os.getpid(), torch.zeros(1).device.type


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_come_in_order_from_any_start(workers: int) -> None:
    batches = Ahead(_batch, workers)
    made = [batches(step) for step in range(5, 12)]
    assert [batch[0] for batch in made] == [step * step for step in range(5, 12)]
    others = {batch[1] for batch in made} - {os.getpid()}
    assert len(others) == workers


def test_a_step_out_of_order_is_not_handed_over_as_another() -> None:
    batches = Ahead(_batch, 1)
    batches(3)
    with pytest.raises(AssertionError, match="step 7 was asked for when 4 came next"):
        batches(7)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_made_on_the_cpu_whatever_the_loop_runs_on(workers: int) -> None:
    with torch.device("meta"):
        assert Ahead(_batch, workers)(0)[2] == "cpu"
