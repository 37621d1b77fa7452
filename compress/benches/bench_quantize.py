"""Times the quantization of a whole model of 27 M to W8A8. Knows nothing of model directories.

    python -m compress.benches.bench_quantize [--threads N] [--slates N]

Smoothing and QuantEase are included. Prints {name, value, target, met}. Weights and tokens are
random: neither changes the work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from operator import le
from pathlib import Path

import numpy as np
import torch

from compress.benches.rows import figure
from compress.decoders.slates import SlateBatch
from compress.layers.streaming import Streams
from compress.quantization.quantize import quantize_decoder
from compress.quantization.quantizers import QuantizerSettings
from models.benches.shapes import QWEN3_27M
from models.decoder import Decoder

CONTEXT, CANDIDATES, TOKENS = 205, 64, 27  # of a slate: its context, and each candidate's tokens
SLATES = 24  # as many answers as the widest layer has inputs
SWEEPS = 10  # LinkedIn's recipe for W8A8 (arXiv 2502.14305), with smoothing of 0.8
SECONDS = 120


def slates(count: int) -> Iterator[SlateBatch]:
    """One a batch, of random tokens."""
    random = np.random.default_rng(0)
    for _ in range(count):
        ids = random.integers(QWEN3_27M.vocab_size, size=CONTEXT + CANDIDATES * TOKENS)
        candidates = ids[CONTEXT:].reshape(CANDIDATES, TOKENS)
        yield SlateBatch.pack([ids[:CONTEXT]], [list(candidates)])


def seconds_to_quantize(count: int, sweeps: int) -> float:
    """Seconds, from the first slate to the last layer's codes."""
    torch.manual_seed(0)
    decoder = Decoder(QWEN3_27M).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as work:
        begin = time.perf_counter()
        with Streams(slates(count), Path(work), decoder) as streams:
            quantize_decoder(decoder, streams, QuantizerSettings(sweeps=sweeps), smooth=0.8)
        return time.perf_counter() - begin


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.benches.bench_quantize")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slates", type=int, default=SLATES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds = seconds_to_quantize(options.slates, SWEEPS)
    print(json.dumps(asdict(figure("quantize_27m_s", seconds, SECONDS, le))))


if __name__ == "__main__":
    main()
