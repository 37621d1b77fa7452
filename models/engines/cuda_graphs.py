"""Captures a function of static buffers and replays it as one launch. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP_CALLS = 2  # the first compiles kernels and picks algorithms, which a capture must not see


class GraphPool:
    """Graphs that share one memory pool, because no two of them run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`function` as a replay that returns the same tensor every time, overwritten."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                function()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Another thread of the process may use CUDA meanwhile; only ours must behave.
        with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
            output = function()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay
