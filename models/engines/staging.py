"""Carries pass inputs to the device and logits back without waiting. Knows nothing of models.

Host buffers are pinned where there is a GPU, so that copies overlap with passes already launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.engines.pass_inputs import PassInputs, PassShape

SLOTS = 4  # passes in flight before the host waits to write the next one's inputs


@dataclass(slots=True)
class _Slot:
    """One host buffer, and when the copy out of it is done."""

    buffer: Tensor
    views: dict[PassShape, PassInputs]
    copied: torch.cuda.Event | None

    def wait(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()

    def mark_copied(self) -> None:
        if self.copied is not None:
            self.copied.record()


class Staging:
    """Inputs of one pass after another through a few host buffers into one device buffer."""

    def __init__(self, shapes: Sequence[PassShape], device: torch.device) -> None:
        self._device = device
        size = max(shape.buffer_size for shape in shapes)
        self._buffer = torch.zeros(size, dtype=torch.int32, device=device)
        self.device_inputs = {shape: PassInputs.within(self._buffer, shape) for shape in shapes}
        self._slots = [self._slot(shapes, size) for _ in range(SLOTS)]
        self._next = 0
        self._logits = self._host(1024, torch.float32)
        self._waiting = 0

    def host_inputs(self, shape: PassShape) -> PassInputs:
        """Views to fill; the next `send` copies them."""
        slot = self._slots[self._next]
        slot.wait()
        return slot.views[shape]

    def send(self, shape: PassShape) -> None:
        """Starts the copy of what was filled last."""
        slot, size = self._slots[self._next], shape.buffer_size
        self._buffer[:size].copy_(slot.buffer[:size], non_blocking=True)
        slot.mark_copied()
        self._next = (self._next + 1) % SLOTS

    def receive(self, logits: Tensor) -> None:
        """Starts the copy of some logits to the host, behind those asked for before."""
        stop = self._waiting + len(logits)
        if stop > len(self._logits):
            grown = self._host(2 * stop, torch.float32)
            self._synchronize()
            grown[: self._waiting] = self._logits[: self._waiting]
            self._logits = grown
        self._logits[self._waiting : stop].copy_(logits, non_blocking=True)
        self._waiting = stop

    def collect(self) -> list[float]:
        """Waits, and returns all logits asked for since the last call."""
        self._synchronize()
        received, self._waiting = self._logits[: self._waiting].tolist(), 0
        return received

    def _slot(self, shapes: Sequence[PassShape], size: int) -> _Slot:
        buffer = self._host(size, torch.int32)
        views = {shape: PassInputs.within(buffer, shape) for shape in shapes}
        on_gpu = self._device.type == "cuda"
        event = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        return _Slot(buffer, views, event)

    def _host(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=dtype, pin_memory=self._device.type == "cuda")

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
