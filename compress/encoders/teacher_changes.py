"""A trained encoder as its difference from the one it started from, a quarter of its size.

Every row's change is stored in int8 steps of its own largest one: a change is small beside the
weight, so what rounding loses is smaller than fp16 would lose of the whole. Knows no training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress.encoders.encoder import Encoder
from compress.encoders.pair_encoder import PairEncoder

STEPS = 127
SCALE = ".scale"


def write_changes(path: Path, model: PairEncoder, start: Encoder) -> None:
    """Of every weight that may be trained; `start` is what the model's encoder was."""
    base = {f"encoder.{name}": x for name, x in start.state_dict().items()}
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            change = weight.detach().cpu() - base.get(name, torch.zeros(()))
            if change.ndim < 2:
                arrays[name] = change.numpy()
                continue
            scale = change.abs().amax(1, keepdim=True).clamp(min=1e-12) / STEPS
            arrays[name] = (change / scale).round().to(torch.int8).numpy()
            arrays[name + SCALE] = scale.numpy()
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_changes(path: Path, start: Encoder, joint: bool) -> PairEncoder:
    """The trained model; `start` becomes its encoder."""
    model = PairEncoder(start, joint)
    state = model.state_dict()
    with np.load(path) as arrays:
        for name in arrays.files:
            if not name.endswith(SCALE):
                change = torch.from_numpy(arrays[name]).float()
                if name + SCALE in arrays.files:
                    change = change * torch.from_numpy(arrays[name + SCALE])
                state[name] = change + _start_of(name, state)
    model.load_state_dict(state)
    return model


def _start_of(name: str, state: dict[str, Tensor]) -> Tensor:
    """A head starts from nothing, whatever its first values were."""
    return state[name] if name.startswith("encoder.") else torch.zeros_like(state[name])
