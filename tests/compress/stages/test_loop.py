"""The training loop: its schedule, and resuming after it was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.stages.loop import Checkpoints, Schedule, run_steps


class _KilledError(Exception):
    """Stands for a power cut in the middle of a step."""


def _train(path: Path, killed_at: int | None = None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def loss_of_step(step: int) -> Tensor:
        if step == killed_at:
            raise _KilledError
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss: Tensor = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        return loss

    run_steps(model, optimizer, loss_of_step, Schedule(20, 3), Checkpoints(path, 4), "test")
    return model.state_dict()


def test_a_resumed_run_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    straight = _train(tmp_path / "straight.pt")
    with pytest.raises(_KilledError):
        _train(tmp_path / "cut.pt", killed_at=14)
    resumed = _train(tmp_path / "cut.pt")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_resumed_run_repeats_only_the_steps_since_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(_KilledError):
        _train(tmp_path / "state.pt", killed_at=14)
    with pytest.raises(_KilledError):
        _train(tmp_path / "state.pt", killed_at=12)
    _train(tmp_path / "state.pt", killed_at=11)


def test_the_rate_warms_up_and_decays_to_its_floor() -> None:
    schedule = Schedule(steps=100, warmup=10, floor=0.1)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[:9] == sorted(factors[:9])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.1 <= factors[-1] < 0.101
