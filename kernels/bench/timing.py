"""Times calls side by side, so that drift of clocks and heat hits all alike. Knows no kernel.

Calls take turns one by one, after the L2 cache was overwritten. On a GPU a call so short that
launching it may take longer is timed as a replay of a CUDA graph; one that is long or cannot be
captured is timed between events, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import quantiles

import torch

Call = Callable[[], object]

SHORT_US = 4000.0  # less, and the host's launches may be what events time
WARM_CALLS = 3
ROUGH_US = 10_000.0  # longer calls are not repeated to learn how long they take
FEWEST_REPEATS = 5
MOST_REPEATS = 500


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one call, and how they were taken: "graph", "events" or "wall"."""

    median_us: float
    p20_us: float
    p80_us: float
    repeats: int
    method: str


def time_side_by_side(
    calls: Mapping[str, Call],
    device: torch.device,
    window_ms: float = 60.0,
    short_us: float = SHORT_US,
) -> dict[str, Timing]:
    """Times each call for about `window_ms`, cache refills included, in turns with the others.

    Those that take less than `short_us` are replayed from graphs.
    """
    if device.type != "cuda":
        wall = WallClock()
        rough = {name: _rough(call, wall) for name, call in calls.items()}
        return _time(calls, dict.fromkeys(calls, "wall"), rough, wall, window_ms)
    clock = EventClock(device)
    rough = {name: _rough(call, clock) for name, call in calls.items()}
    methods, ready = dict.fromkeys(calls, "events"), dict(calls)
    for name, call in calls.items():
        graph = captured(call) if rough[name] < short_us else None
        if graph is not None:
            ready[name], methods[name] = graph.replay, "graph"
            rough[name] = _rough(graph.replay, clock)
    return _time(ready, methods, rough, clock, window_ms)


def captured(call: Call) -> torch.cuda.CUDAGraph | None:
    """A graph of one call, or None for calls that wait for the device or cannot be captured."""
    if _waits(call):
        return None
    try:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_CALLS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        graph.replay()
        torch.cuda.synchronize()
    except RuntimeError:  # capture refuses synchronisation, and says so in many ways
        torch.cuda.synchronize()
        return None
    return graph


def _waits(call: Call) -> bool:
    """Whether a call waits for the device; a capture that fails at that never gives memory back."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


class WallClock:
    """For a CPU, where a call returns when it is done."""

    def prepare(self) -> None:
        """A CPU's cache is left as the other calls leave it."""

    def measure(self, call: Call) -> Callable[[], float]:
        started = time.perf_counter()
        call()
        elapsed = (time.perf_counter() - started) * 1e6
        return lambda: elapsed

    def settle(self) -> None:
        """Nothing is pending."""


class EventClock:
    """For a GPU: device time between two events, read once all are through."""

    def __init__(self, device: torch.device) -> None:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(2 * cache, dtype=torch.int8, device=device)

    def prepare(self) -> None:
        """Overwrites the cache; the device is busy with it while the next call is enqueued."""
        self._flush.zero_()

    def measure(self, call: Call) -> Callable[[], float]:
        start, stop = _event(), _event()
        start.record()
        call()
        stop.record()
        return lambda: start.elapsed_time(stop) * 1e3

    def settle(self) -> None:
        torch.cuda.synchronize()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


Clock = WallClock | EventClock


def _rough(call: Call, clock: Clock) -> float:
    """Microseconds of the fastest of a few calls, or of one if it is long; the first is to warm."""
    call()
    readings: list[float] = []
    while len(readings) < WARM_CALLS and sum(readings) < ROUGH_US:
        clock.prepare()
        reading = clock.measure(call)
        clock.settle()
        readings.append(reading())
    return min(readings)


def _time(
    calls: Mapping[str, Call],
    methods: Mapping[str, str],
    rough: Mapping[str, float],
    clock: Clock,
    window_ms: float,
) -> dict[str, Timing]:
    """`rough` are the calls' own microseconds; making the cache cold comes on top."""
    overhead = max(_rough(lambda: None, clock), 1.0)
    repeats = {name: _repeats(rough[name] + overhead, window_ms) for name in calls}
    readings: dict[str, list[Callable[[], float]]] = {name: [] for name in calls}
    for turn in range(max(repeats.values())):
        for name, call in calls.items():
            if turn < repeats[name]:
                clock.prepare()
                readings[name].append(clock.measure(call))
    clock.settle()
    return {
        name: _summary([reading() for reading in taken], methods[name])
        for name, taken in readings.items()
    }


def _repeats(cost_us: float, window_ms: float) -> int:
    return min(MOST_REPEATS, max(FEWEST_REPEATS, round(window_ms * 1e3 / cost_us)))


def _summary(readings: list[float], method: str) -> Timing:
    cuts = quantiles(readings, n=10, method="inclusive")
    return Timing(cuts[4], cuts[1], cuts[7], len(readings), method)
