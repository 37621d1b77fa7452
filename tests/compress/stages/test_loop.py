"""The training loop: its schedule, and resuming after it was cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.stages.loop import LOSSES_NAME, Checkpoints, Schedule, run_steps
from compress.stages.stage import StageError


class _KilledError(Exception):
    """Stands for a power cut in the middle of a step."""


def _train(path: Path, killed_at: int | None = None, average: float = 0.0) -> dict[str, Tensor]:
    torch.manual_seed(1)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def loss_of_step(step: int) -> Tensor:
        if step == killed_at:
            raise _KilledError
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss: Tensor = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        return loss

    checkpoints, sharded = Checkpoints(path, 4), not average
    run_steps(
        model, optimizer, loss_of_step, Schedule(20, 3), checkpoints, "test", sharded, average
    )
    return model.state_dict()


def test_a_resumed_run_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    straight = _train(tmp_path / "straight.pt")
    with pytest.raises(_KilledError):
        _train(tmp_path / "cut.pt", killed_at=14)
    resumed = _train(tmp_path / "cut.pt")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_averages_too_end_the_very_same_and_are_not_the_last_weights(tmp_path: Path) -> None:
    straight = _train(tmp_path / "straight.pt", average=0.9)
    with pytest.raises(_KilledError):
        _train(tmp_path / "cut.pt", killed_at=14, average=0.9)
    resumed = _train(tmp_path / "cut.pt", average=0.9)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    last = _train(tmp_path / "last.pt")
    assert not any(torch.equal(straight[name], last[name]) for name in straight)


def test_a_loss_is_made_on_the_device_of_its_model(tmp_path: Path) -> None:
    seen = []

    def loss_of_step(step: int) -> Tensor:
        seen.append(torch.zeros(1).device.type)
        raise _KilledError

    for device in ("meta", "cpu"):
        model = nn.Linear(1, 1, device=device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        checkpoints = Checkpoints(tmp_path / "none.pt", 1)
        with pytest.raises(_KilledError):
            run_steps(model, optimizer, loss_of_step, Schedule(1, 1), checkpoints, "test")
    assert seen == ["meta", "cpu"]


def test_a_resumed_run_repeats_only_the_steps_since_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(_KilledError):
        _train(tmp_path / "state.pt", killed_at=14)
    with pytest.raises(_KilledError):
        _train(tmp_path / "state.pt", killed_at=12)
    _train(tmp_path / "state.pt", killed_at=11)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04half", None])
def test_a_damaged_checkpoint_is_named_with_what_to_do(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "state.pt"
    _train(path)
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    said = f"{path}: cannot be read .* remove it and give the same"
    with pytest.raises(StageError, match=said) as caught:
        _train(path)
    assert "weights_only" not in str(caught.value)
    assert "Weights only" not in str(caught.value)
    path.unlink()
    _train(path)


def test_a_flipped_bit_of_a_checkpoint_is_not_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    weight = _train(path)["weight"].numpy().tobytes()
    whole = path.read_bytes()
    place = whole.index(weight)
    for flipped in (place, place + len(weight) - 1):
        content = bytearray(whole)
        content[flipped] ^= 1
        path.write_bytes(content)
        with pytest.raises(StageError, match=r"checksum\); .* remove it .* from the first"):
            _train(path)
    path.write_bytes(whole)
    _train(path)


@pytest.mark.parametrize("state", [{"other": 1}, [1], {"model": {}, "optimizer": {}}], ids=str)
def test_a_checkpoint_of_something_else_is_named_too(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(StageError, match=r"state\.pt: cannot be read"):
        _train(tmp_path / "state.pt")


def test_losses_that_a_kill_kept_from_their_file_are_there_after_the_next_start(
    tmp_path: Path,
) -> None:
    _train(tmp_path / "state.pt")
    losses = tmp_path / LOSSES_NAME
    written = losses.read_text()
    losses.write_text("")
    _train(tmp_path / "state.pt")
    assert losses.read_text() == written
    assert len(json.loads(written)) == 20


def test_the_rate_warms_up_and_decays_to_its_floor() -> None:
    schedule = Schedule(steps=100, warmup=10, floor=0.1)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[:9] == sorted(factors[:9])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.1 <= factors[-1] < 0.101


@pytest.mark.parametrize("lengths", [(30, 70), (1, 98, 1)])
def test_trainings_of_one_decay_take_it_up_where_the_last_one_left(
    lengths: tuple[int, ...],
) -> None:
    whole = Schedule(steps=100, warmup=1, floor=0.1)
    factors, before = [], 0
    for steps in lengths:
        part = Schedule(steps, 1, 0.1, before=before, after=100 - before - steps)
        factors += [part.factor(step) for step in range(steps)]
        before += steps
    assert factors == [whole.factor(step) for step in range(100)]
    later = Schedule(30, warmup=10, before=70)
    assert later.factor(0) == pytest.approx(Schedule(100, 1).factor(70) / 10)
