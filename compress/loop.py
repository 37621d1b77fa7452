"""Runs seeded training steps with a progress bar, and resumes them after a kill, bit for bit.

Step n draws its randomness from (seed, n) alone, so weights, optimizer state and n are all there is
to keep. Knows nothing of models' insides or of what a step does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, then cosine decay to `floor` of the peak, in steps."""

    steps: int
    warmup: int
    floor: float = 0.02

    def factor(self, step: int) -> float:
        """Multiplier of the peak learning rate at `step`, counted from 0."""
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where the state goes, and every how many steps."""

    path: Path
    every: int


def run_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of_step: Callable[[int], Tensor],
    schedule: Schedule,
    checkpoints: Checkpoints,
    title: str,
) -> None:
    """Trains `model` in place until `schedule.steps`, from the last checkpoint if there is one."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    start = _resume(model, optimizer, checkpoints.path)
    progress = tqdm(
        range(start, schedule.steps), title, schedule.steps, initial=start, mininterval=5
    )
    for step in progress:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step)
        loss = loss_of_step(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
        if (step + 1) % checkpoints.every == 0:
            _save(model, optimizer, step + 1, checkpoints.path)


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, path: Path) -> None:
    """Written beside and renamed, so that a kill leaves the old state or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".writing")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, beside)
    beside.replace(path)
