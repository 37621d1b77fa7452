"""What the engine promises of memory, linearity and warm contexts, measured. Knows no peer.

memory     scoring 500 candidates takes no more than the cache's budget and 200 MB above the weights
linear     time of k candidates is a straight line in k: largest distance from the fit, relative
warm       a repeated context saves its share of the time: the ratio of the two shares saved,
           saved / (cold time * share of operations), 1 where time and operations are alike
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from models.benches.shapes import linear_operations
from models.benches.subjects import Subject
from models.benches.turns import Process, Slate, Spec
from models.engines.base import ScoreJob
from models.packing import TokenIds

MANY = 500
HEADROOM_MB = 200
COUNTS = (16, 32, 64, 128, 256)
LEAST_SAVED = 0.9
WARM = "ratio of time to operations saved by a warm context"
MOST_BENT = 0.1
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Check:
    """A measured value and what it may not pass."""

    shape: str
    provider: str
    dtype: str
    check: str
    value: float
    bound: float
    ok: bool


def check_engine(subject: Subject, spec: Spec) -> Iterator[Check]:
    """Starts the engine anew, so that its peak is of nothing else."""
    named = (subject.name, spec.provider, spec.dtype)
    slates = subject.slates(warm=False)
    with Process(spec) as process:
        reading = process.score(_of_size(slates, MANY))
        bound = float(subject.setting.cache_mb + HEADROOM_MB)
        peak = round(reading.peak_mb, 1)
        yield Check(*named, f"MB for {MANY} candidates", peak, bound, peak <= bound)
        bent = round(_bend(process, slates), 3)
        yield Check(*named, "distance from linear", bent, MOST_BENT, bent <= MOST_BENT)
        saved = round(_saving(subject, process, slates), 3)
        yield Check(*named, WARM, saved, LEAST_SAVED, saved >= LEAST_SAVED)


def _bend(process: Process, slates: Iterator[Slate]) -> float:
    """Largest relative distance of median times from their line."""
    seconds: dict[int, list[float]] = {count: [] for count in COUNTS}
    context = next(slates).job
    process.score(context)
    for _ in range(ROUNDS):
        for count in COUNTS:
            fresh = _of_size(slates, count).candidates
            seconds[count].append(process.score(replace(context, candidates=fresh)).seconds)
    medians = np.array([np.median(seconds[count]) for count in COUNTS])
    # Relative errors: the line that is best for small slates as well as for large ones.
    line = np.polyfit(COUNTS, medians, 1, w=1 / medians)
    return float(np.abs(medians / np.polyval(line, COUNTS) - 1).max())


def _saving(subject: Subject, process: Process, slates: Iterator[Slate]) -> float:
    """Few candidates, so that the context's share is large enough to be seen."""
    config = subject.setting.directory.config
    cold, warm, shares = [], [], []
    for _ in range(2 * ROUNDS):
        job = _of_size(slates, COUNTS[0])
        again = replace(job, candidates=_of_size(slates, COUNTS[0]).candidates)
        cold.append(process.score(job).seconds)
        warm.append(process.score(again).seconds)
        operations = [linear_operations(config, job, warm=known) for known in (True, False)]
        shares.append(1 - operations[0] / operations[1])
    saved = np.median(np.array(cold) - np.array(warm))
    return float(saved / (np.median(cold) * np.mean(shares)))


def _of_size(slates: Iterator[Slate], count: int) -> ScoreJob:
    """One context and that many candidates of the stream."""
    job, candidates = next(slates).job, list[TokenIds]()
    while len(candidates) < count:
        candidates += next(slates).job.candidates
    return replace(job, candidates=tuple(candidates[:count]))
