"""Measures the scorer on a GPU beside plain transformers, and checks its scores there.

`python -m models.gpu_bench --json FILE` writes one JSON line per provider, shape and state of the
cache, one per check, and fails when a check does. Knows nothing of kernels' own figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from kernels.kept.machine import description
from models.benches.peers import TransformersPeer, transformers_model
from models.benches.rounds import (
    Provider,
    Row,
    Score,
    gemm_rate,
    largest_dp,
    measure,
    release,
    reserved_mb,
)
from models.benches.shapes import BLOCK_SIZE, LABEL_IDS, SHAPES, Shape, random_decoder
from models.decoder import Decoder
from models.engines.base import ScoreJob
from models.engines.device_runner import TOKEN_BUCKETS, DeviceRunner, DeviceSettings
from models.engines.fairslate import RunnerEngine
from models.engines.packed_runner import PackedRunner
from models.engines.precision import choose_precision
from models.errors import PrecisionUnavailableError
from models.head_card import yes_no

CACHE_BYTES = 1 << 30
REFERENCE_CANDIDATES = 16
# Probability may move this much by bf16's rounding, and by the company a candidate is scored in.
ROUNDING = 0.02


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold on this device: a difference of probabilities and its bound."""

    shape: str
    check: str
    value: float
    bound: float

    @property
    def ok(self) -> bool:
        """False for NaN too."""
        return self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Reference:
    """Slates and their raw logits in fp32 on the CPU."""

    jobs: tuple[ScoreJob, ...]
    logits: tuple[float, ...]

    @classmethod
    def of(cls, shape: Shape, decoder: Decoder, labels: tuple[int, int]) -> Reference:
        """Two slates of a few candidates each."""
        stream = shape.jobs(seed=3, same_context=False)
        jobs = tuple(_head(next(stream), REFERENCE_CANDIDATES) for _ in range(2))
        runner = PackedRunner(decoder, yes_no(labels), BLOCK_SIZE, CACHE_BYTES)
        truth = Provider("truth", "fp32", _engine_score(RunnerEngine(runner)))
        return cls(jobs, tuple(truth.logits(jobs)))

    def error(self, provider: Provider) -> float:
        """Largest difference of a probability."""
        return largest_dp(provider.logits(self.jobs), self.logits)


@dataclass(frozen=True, slots=True)
class Note:
    """What was chosen or could not run, and why."""

    shape: str
    note: str


def main() -> None:
    """Runs the shapes asked for; see the module's first lines."""
    arguments = _arguments()
    device = torch.device(arguments.device)
    limit = gemm_rate(device)
    machine = description(device) | {"gemm_limit_tflops": f"{limit / 1e12:.1f}"}
    failed = False
    with Path(arguments.json).open("w", encoding="utf-8") as file:
        for name in arguments.shapes.split(","):
            for result in bench_shape(SHAPES[name], device, arguments.seconds, limit):
                line = asdict(result)
                if isinstance(result, Check):
                    line["ok"] = result.ok
                    failed |= not result.ok
                print(json.dumps(line), flush=True)
                file.write(json.dumps(line | machine) + "\n")
                file.flush()
            release()
    sys.exit(failed)


def bench_shape(
    shape: Shape, device: torch.device, seconds: float, limit: float
) -> Iterator[Row | Check | Note]:
    """Notes and checks first, then warm rows and cold rows, `seconds` each."""
    decoder = random_decoder(shape.config, device)
    labels = (LABEL_IDS[0] % shape.config.vocab_size, LABEL_IDS[1] % shape.config.vocab_size)
    settings = DeviceSettings(device=str(device))
    ours = [
        *_ours(shape, decoder, labels, settings),
        *_ours(shape, decoder, labels, replace(settings, graphs=False)),
    ]
    try:
        precision = choose_precision("fp8", shape.config, device)
        yield Note(shape.name, f"fp8 is {precision.name}: {precision.reason}")
        ours += _ours(shape, decoder, labels, replace(settings, precision="fp8"))
    except PrecisionUnavailableError as error:
        yield Note(shape.name, str(error))
    providers = [*ours, *_peers(decoder, labels, device)]
    reference = Reference.of(shape, decoder.cpu(), labels)
    yield from _checks(shape, ours, reference)
    errors = {provider.name: reference.error(provider) for provider in providers}
    for cache in ("warm", "cold"):
        for row in measure(shape, providers, cache, seconds, limit):
            yield replace(row, max_abs_dp=errors[row.provider])


def _checks(shape: Shape, ours: Sequence[Provider], reference: Reference) -> Iterator[Check]:
    found = {provider.name: provider for provider in ours}
    graphed, eager = found["fairslate"], found["fairslate-eager"]
    together = graphed.logits(reference.jobs)
    apart = [replace(job, candidates=(ids,)) for job in reference.jobs for ids in job.candidates]
    differences = {
        "bf16 against fp32 on the CPU": (largest_dp(together, reference.logits), ROUNDING),
        "graph against eager": (largest_dp(together, eager.logits(reference.jobs)), 1e-6),
        "alone against together": (largest_dp(together, graphed.logits(apart)), ROUNDING),
    }
    for name, (value, bound) in differences.items():
        yield Check(shape.name, name, value, bound)


def _ours(
    shape: Shape, decoder: Decoder, labels: tuple[int, int], settings: DeviceSettings
) -> Iterator[Provider]:
    """One slate a call; with graphs also four."""
    before = reserved_mb()
    settings = replace(settings, token_buckets=_buckets(shape), max_context_tokens=512)
    runner = DeviceRunner(decoder, yes_no(labels), BLOCK_SIZE, CACHE_BYTES, settings)
    name = "fairslate" if settings.graphs else "fairslate-eager"
    name += "-fp8" if settings.precision == "fp8" else ""
    calls = 4 if settings.graphs else 1
    score, held = _engine_score(RunnerEngine(runner)), reserved_mb() - before
    one = Provider(name, runner.precision.name, score, calls=calls, held_mb=held)
    yield one
    if settings.graphs:
        yield replace(one, name=f"{name}-4", jobs=4, calls=1)


def _peers(decoder: Decoder, labels: tuple[int, int], device: torch.device) -> Iterator[Provider]:
    before = reserved_mb()
    model = transformers_model(decoder, device, torch.bfloat16)
    held = reserved_mb() - before
    for name, share in (("hf-naive", False), ("hf-shared", True)):
        peer = TransformersPeer(model, labels, device, share)
        yield Provider(name, "bf16", _peer_score(peer), held_mb=held)


def _buckets(shape: Shape) -> tuple[int, ...]:
    """Only those the shape meets: each costs time to capture."""
    least = shape.candidates * shape.candidate_tokens[0] // 2
    most = 4 * (shape.candidates * shape.candidate_tokens[1] + shape.context_tokens[1])
    largest = next((size for size in TOKEN_BUCKETS if size >= most), TOKEN_BUCKETS[-1])
    return tuple(size for size in TOKEN_BUCKETS if least <= size <= largest)


def _engine_score(engine: RunnerEngine) -> Score:
    return lambda jobs: [list(answer.raw_logits) for answer in engine.score(jobs)]


def _peer_score(peer: TransformersPeer) -> Score:
    return lambda jobs: [peer.score(job) for job in jobs]


def _head(job: ScoreJob, candidates: int) -> ScoreJob:
    return replace(job, candidates=job.candidates[:candidates])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--json", default="/dev/stdout", help="file for the lines")
    parser.add_argument("--shapes", default="16,D", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--seconds", type=float, default=7.0, help="for each shape, warm and cold")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


if __name__ == "__main__":
    main()
