"""Runs seeded training steps with a progress bar, and resumes them after a kill, bit for bit.

Step n draws its randomness from (seed, n) alone, so weights, optimizer state and n are all there is
to keep. Under torchrun the model is sharded and each process computes its share of a step.
Knows nothing of models' insides or of what a step does.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from compress.stages import parallel
from compress.stages.averages import Averages
from compress.stages.sharding import Sharded, Whole
from compress.stages.stage import StageError
from compress.stages.whole_files import write_text

LOSSES_NAME = "losses.json"
DAMAGED = (  # what reading half a checkpoint, or one of something else, raises
    *(OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
    *(ValueError, KeyError, IndexError, TypeError, AttributeError),
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, then cosine decay to `floor` of the peak, in steps.

    The decay may be one of several trainings: `before` steps of it were taken by earlier ones, and
    `after` of it are left to later ones. Each warms up by itself.
    """

    steps: int
    warmup: int
    floor: float = 0.02
    before: int = 0
    after: int = 0

    def factor(self, step: int) -> float:
        """Multiplier of the peak learning rate at `step`, counted from 0."""
        share = (self.before + step) / (self.before + self.steps + self.after)
        cosine = (1 + math.cos(math.pi * share)) / 2
        return min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where the state goes, and every how many steps; it goes there after the last one too."""

    path: Path
    every: int


def run_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of_step: Callable[[int], Tensor],
    schedule: Schedule,
    checkpoints: Checkpoints,
    title: str,
    sharded: bool = True,
    average: float = 0.0,
) -> None:
    """Trains `model` in place until `schedule.steps`, from the last checkpoint if there is one.

    A loss is computed with the model's device as that of every tensor it makes.
    sharded: False has every process of torchrun compute the same whole step, for small models.
    average: decay of the averaged weights that the model has in the end, 0 for the last ones; for
    models that are not sharded. The losses of all steps lie in LOSSES_NAME beside the checkpoint.
    Raises StageError when a loss is not finite or the state cannot be read or written.
    """
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    assert not (sharded and average)
    kind = Sharded if sharded and parallel.world() > 1 else Whole
    training = kind(model, optimizer, loss_of_step)
    averages = Averages(model, average)
    losses = _resume(training, averages, checkpoints.path)
    start = len(losses)
    bar = tqdm(
        range(start, schedule.steps),
        title,
        schedule.steps,
        initial=start,
        mininterval=5,
        disable=parallel.rank() > 0,
    )
    for step in bar:
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step)
        losses.append(_step(training, model, optimizer, step, title))
        averages.follow(step)
        bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
        if (step + 1) % checkpoints.every == 0 or step + 1 == schedule.steps:
            _save(training, averages, losses, checkpoints.path)
    training.finish()
    averages.put()


def _step(
    training: Whole | Sharded,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    title: str,
) -> float:
    with _on_device_of(model):
        loss = training.loss(step)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    value = training.mean(loss)
    if not math.isfinite(value):
        raise StageError(f"{title}: the loss of step {step} is {value}; lower the rates")
    return value


def _on_device_of(model: nn.Module) -> AbstractContextManager[Any]:
    """Nothing for a CPU: the context costs each call into torch a little."""
    device = next(model.parameters()).device
    return nullcontext() if device.type == "cpu" else device


def _resume(training: Whole | Sharded, averages: Averages, path: Path) -> list[float]:
    """The losses until the last checkpoint, whose state `training` and `averages` then have."""
    with _refused(path):
        found = parallel.first(lambda: _read(path))
        if found is None:
            return []
        training.load(found)
        averages.load(found.get("averages", []))
        losses: list[float] = found["losses"]
    # A kill may have come between the checkpoint and its losses.
    parallel.first(lambda: write_text(path.with_name(LOSSES_NAME), json.dumps(losses)))
    return losses


def _read(path: Path) -> Any:
    """Raises one of DAMAGED also where a bit has flipped: torch itself reads over checksums."""
    if not path.exists():
        return None
    with zipfile.ZipFile(path) as parts:
        if (damaged := parts.testzip()) is not None:
            raise ValueError(f"{damaged} differs from its checksum")
    return torch.load(path, weights_only=True)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:  # which says nothing against the file
        raise
    except DAMAGED as error:
        # Of what is no checkpoint at all torch says how to read it nevertheless.
        unreadable = isinstance(error, pickle.UnpicklingError) or not str(error)
        said = type(error).__name__ if unreadable else str(error).splitlines()[0]
        raise StageError(
            f"{path}: cannot be read ({said}); if it is damaged, remove it and give the same "
            "command again, which then starts these steps from the first"
        ) from error


def _save(training: Whole | Sharded, averages: Averages, losses: list[float], path: Path) -> None:
    """Written beside and renamed, so that a kill leaves the old state or the new one."""
    state = training.state() | {"averages": averages.state(), "losses": losses}
    parallel.first(lambda: _write(state, losses, path))


def _write(state: dict[str, Any], losses: list[float], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".writing")
    try:
        torch.save(state, beside)
        beside.replace(path)
        write_text(path.with_name(LOSSES_NAME), json.dumps(losses))
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        beside.unlink(missing_ok=True)
        raise StageError(
            f"{path}: cannot be written ({error}); make room and give the same command again"
        ) from error
