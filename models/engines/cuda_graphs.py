"""Captures a function of static buffers and replays it as one launch. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Output = TypeVar("Output")  # tensors
WARM_UP_CALLS = 2  # the first compiles kernels and picks algorithms, which a capture must not see


class GraphPool:
    """Graphs that share one memory pool, because no two of them run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(self, function: Callable[[], Output]) -> Callable[[], Output]:
        """`function` as a replay that returns the same tensors every time, overwritten."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_CALLS):
                function()
            self._stream.synchronize()
            # Not `torch.cuda.graph`, which may empty caches and collect garbage for every bucket.
            # Other threads of the process may use CUDA meanwhile; only this one must behave.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = function()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

        def replay() -> Output:
            graph.replay()
            return output

        return replay
