"""Recomputes what the compression methods promise. Knows nothing of trained models.

`python -m compress.bench --json -` prints rows {name, value, target, met}; times are of this
machine, with as many threads as --threads says. Figures of training are not recomputed but read
from the runs that are kept, with their manifests, in compress/results/runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from operator import ge, le
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from compress.benches.bench_distillation import TOKENS, WAYS, measured
from compress.benches.bench_quantize import SECONDS, SLATES, SWEEPS, seconds_to_quantize
from compress.benches.kept_runs import read_runs
from compress.benches.rows import Row, figure
from compress.layers.gram import Gram, Moments
from compress.pruning.osscar import Problem, Removal, prune, refit
from compress.quantization.gptq import quantize_gptq
from compress.quantization.grid import Grid
from compress.quantization.quantease import layer_error, quantease

SMALL, KEPT, PROBLEMS = 12, 6, 100  # groups, of which kept, and how many problems
HIDDEN, INTERMEDIATE = 1_024, 3_072  # of Qwen3-0.6B
ROWS = 4_096  # calibration rows of the large layers
REMOVALS = 100
LAYERS = 5  # compared by QuantEase and GPTQ
TURNS = 5  # of each way to distil
SWAPPED = 64  # neurons that change places at once in the large layer


def main(arguments: list[str] | None = None) -> None:
    """The command line; progress goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m compress.bench", description=__doc__)
    parser.add_argument("--json", metavar="PATH", default="-", help="where rows go; - is stdout")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    _refuse_unwritable(parser, options.json)
    torch.set_num_threads(options.threads)
    rows = []
    for figures in (
        osscar_small,
        downdates,
        osscar_large,
        quantease_small,
        quantease_large,
        quantize_model,
        lambda: distillation(options.threads),
        kept,
    ):
        for row in figures():
            print(json.dumps(asdict(row)), file=sys.stderr)
            rows.append(asdict(row))
    text = "\n".join(map(json.dumps, rows)) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
    else:
        Path(options.json).write_text(text, encoding="utf-8")


def _refuse_unwritable(parser: argparse.ArgumentParser, path: str) -> None:
    """Before minutes of benches whose rows would be lost; `-` is stdout."""
    if path == "-":
        return
    try:
        with Path(path).open("a", encoding="utf-8"):
            pass
    except OSError as error:
        parser.error(f"--json {path} cannot be written ({error}); name another file")


def osscar_small() -> Iterator[Row]:
    """Against exhaustive search: error over that of the best support, whole layer as zero."""
    ratios = []
    for seed in range(PROBLEMS):
        problem = Problem.of(moments(seed, SMALL, 256), weight(seed, 16, SMALL), 1)
        whole = refit(problem, range(SMALL)).objective
        supports = combinations(range(SMALL), KEPT)
        best = min(refit(problem, support).objective for support in supports)
        ratios.append((prune(problem, KEPT).objective - whole) / (best - whole))
    optimal = sum(ratio <= 1 + 1e-9 for ratio in ratios)
    yield figure("osscar_optimal_of_100", optimal, 93, ge)
    yield figure("osscar_p95_ratio", sorted(ratios)[94], 1.002, le)


def downdates() -> Iterator[Row]:
    """The inverse kept through a hundred removals, beside a fresh one."""
    problem = Problem.of(moments(0, 512, ROWS), weight(0, 64, 512), 1)
    removal = Removal(problem, range(512))
    removal.drop(REMOVALS)
    rows = problem.rows(removal.alive)
    fresh = torch.linalg.inv(problem.hessian[rows][:, rows])
    error = float((removal.inverse - fresh).norm() / fresh.norm())
    yield figure("downdate_rel_error", error, 1e-8, le)


def osscar_large() -> Iterator[Row]:
    """Half of the neurons of one MLP block of Qwen3-0.6B's shape, greedy and swaps."""
    gathered, down = moments(1, INTERMEDIATE, ROWS), weight(1, HIDDEN, INTERMEDIATE)
    begin = time.perf_counter()
    prune(Problem.of(gathered, down, 1), INTERMEDIATE // 2, SWAPPED)
    yield figure("prune_block_s", time.perf_counter() - begin, 60, le)


def quantease_small() -> Iterator[Row]:
    """Mean output error at 4 bits a channel over that of GPTQ, its start."""
    ratios = []
    for seed in range(LAYERS):
        layer, hessian = weight(seed, 64, 128), moments(seed, 128, 1_024).hessian
        grid = Grid.of(layer, 4)
        start = quantize_gptq(layer, hessian, grid)
        found = quantease(layer, hessian, grid, start)
        errors = [layer_error(layer, values, hessian) for values in (found.values, start)]
        ratios.append(errors[0] / errors[1])
    yield figure("quantease_vs_gptq", sum(ratios) / len(ratios), 0.90, le)


def quantease_large() -> Iterator[Row]:
    """One down projection of Qwen3-0.6B's shape in 4 bits and groups of 128, GPTQ included."""
    layer, hessian = weight(2, HIDDEN, INTERMEDIATE), moments(2, INTERMEDIATE, ROWS).hessian
    begin = time.perf_counter()
    grid = Grid.of(layer, 4, 128)
    quantease(layer, hessian, grid, quantize_gptq(layer, hessian, grid))
    yield figure("quantease_layer_s", time.perf_counter() - begin, 60, le)


def quantize_model() -> Iterator[Row]:
    """A model of 27 M in W8A8, smoothing and QuantEase included."""
    yield figure("quantize_27m_s", seconds_to_quantize(SLATES, SWEEPS), SECONDS, le)


def distillation(threads: int) -> Iterator[Row]:
    """Forward KL at Qwen3's vocabulary, a chunk of logits at a time and all at once, in turns."""
    pairs = [[measured(way, TOKENS, threads) for way in WAYS] for _ in range(TURNS)]
    for name, field, target in (
        ("kd_peak_ratio", "peak_mb", 0.25),
        ("kd_time_ratio", "seconds", 1.1),
    ):
        plain, chunked = (median(one[field] for one in own) for own in zip(*pairs, strict=True))
        yield figure(name, chunked / plain, target, le)


def kept() -> Iterator[Row]:
    """Figures of training runs; a row that the whole interval decides is met by its low end."""
    for run in read_runs():
        yield Row(run.figure, float(f"{run.value:.6g}"), run.target, run.met)


def moments(seed: int, features: int, rows: int) -> Moments:
    """Of correlated normal inputs."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.eye(features) + torch.randn(features, features, generator=random) / 2
    gram = Gram(features)
    gram.add(torch.randn(rows, features, generator=random) @ mix)
    return gram.moments()


def weight(seed: int, outputs: int, inputs: int) -> Tensor:
    """Normal weights."""
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1_000 + seed))


if __name__ == "__main__":
    main()
