"""Exports a model directory to ONNX, and checks the graphs against the native engine.

`python -m models.export MODEL --onnx DIR` writes `DIR/fp32` and `DIR/int8`, each of two graphs over
one weight file, `DIR/export.json` with what was measured, and a README. Knows no benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from models.checkpoint import ModelDirectory, load_decoder, load_model_directory
from models.engines.base import ScoreJob
from models.engines.fairslate import RunnerEngine
from models.engines.onnx import OnnxScorer
from models.engines.packed_runner import PackedRunner
from models.errors import ExportError, FairslateError
from models.export_decoder import candidate_graph, context_graph
from models.export_weights import WeightFile
from models.head_card import HeadOutputs

Floats = npt.NDArray[np.floating[Any]]
PRECISIONS = ("fp32", "int8")
FP32_BOUND = 1e-4  # of a raw logit
CACHE_BYTES = 256 << 20
CHECKED_SLATES = 4
CHECKED_CANDIDATES = 8
LONGEST_CHECKED = 96
README = """# {model} as ONNX graphs

Model digest `{digest}`. `fp32/` and `int8/` hold the same two graphs; `weights.bin` beside them
belongs to both.

- `context.onnx`: `token_ids` (1, P) -> `keys`, `values` (layers, kv_heads, P, head_dim)
- `candidates.onnx`: `token_ids` (B, T) padded at the end, `lengths` (B,), `keys`, `values` (P may
  be 0) -> `label_logits` (B, outputs), those of all heads side by side, each with its gain:
  {heads}

A head's raw logit is logit(sum of gain * softmax over its own outputs), which for two labels is the
first logit less the second. Tokens come from the model's tokenizer and templates. `export.json`
holds the largest difference from the native fp32 engine on {slates} random slates.
"""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Largest differences from the native engine in fp32."""

    max_abs_logit: float
    max_abs_dp: float  # of the probability of the first label among the two


def main() -> int:
    """Returns the exit status: 1 when the directory cannot be exported, with the reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a model directory")
    parser.add_argument("--onnx", type=Path, required=True, help="directory to write")
    arguments = parser.parse_args()
    try:
        export(load_model_directory(arguments.model), arguments.onnx)
    except FairslateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print((arguments.onnx / "export.json").read_text(encoding="utf-8"), end="")
    return 0


def export(directory: ModelDirectory, out: Path) -> dict[str, Agreement]:
    """Writes everything and returns how far each precision is from the native engine.

    `out` appears whole or not at all. Raises ExportError when it exists or cannot be written, or
    when fp32 is further away than rounding explains.
    """
    if os.path.lexists(out):  # a link to nothing too: no directory can be given its name
        raise ExportError(f"{out} exists; remove it or name another directory")
    try:
        with _made_beside(out) as beside:
            agreements = _write(directory, beside)
            beside.rename(out)
    except OSError as error:
        raise ExportError(
            f"{out} cannot be written ({error}); make room or name another"
        ) from error
    return agreements


@contextmanager
def _made_beside(out: Path) -> Iterator[Path]:
    """A new folder that goes with all it still holds. Raises OSError where there is one."""
    beside = out.with_name(f"{out.name}.{os.getpid()}.writing")  # two may write at once
    beside.mkdir(parents=True)
    try:
        yield beside
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(directory: ModelDirectory, out: Path) -> dict[str, Agreement]:
    for precision in PRECISIONS:
        write_graphs(directory, out / precision, int8=precision == "int8")
    agreements = compare(directory, out)
    _write_notes(directory, out, agreements)
    if not agreements["fp32"].max_abs_logit <= FP32_BOUND:
        raise ExportError(
            f"{directory.path}: fp32 differs by {agreements['fp32']}, so nothing is left; report "
            "the model"
        )
    return agreements


def write_graphs(directory: ModelDirectory, out: Path, int8: bool) -> None:
    """`context.onnx`, `candidates.onnx` and the weights of both."""
    out.mkdir(parents=True)
    decoder = load_decoder(directory)
    rows = decoder.output_embedding[[row for head in directory.prompt.heads for row in head.rows]]
    weights = WeightFile(out / "weights.bin")
    for name, graph in (
        ("context", context_graph(decoder, weights, int8)),
        ("candidates", candidate_graph(decoder, rows, weights, int8)),
    ):
        onnx.save_model(graph, out / f"{name}.onnx")


def compare(directory: ModelDirectory, out: Path) -> dict[str, Agreement]:
    """Scores the same random slates by engine and graphs."""
    jobs = list(_random_slates(directory))
    engine = RunnerEngine(PackedRunner.from_directory(directory, CACHE_BYTES))
    truth = np.concatenate([scores.raw_logits for scores in engine.score(jobs)])
    agreements = {}
    for precision in PRECISIONS:
        scorer = OnnxScorer(out / precision, CACHE_BYTES)
        logits = np.concatenate([scorer.label_logits(job) for job in jobs])
        found = raw_logits(logits, directory.prompt.heads).ravel()
        moved = 1 / (1 + np.exp(-found)) - 1 / (1 + np.exp(-truth))
        agreements[precision] = Agreement(_largest(found - truth), _largest(moved))
    return agreements


def raw_logits(logits: Floats, heads: Sequence[HeadOutputs]) -> Floats:
    """(N, outputs of all heads) to (N, heads), each logit(sum_k gain[k] softmax(own)[k])."""
    columns, start = [], 0
    for head in heads:
        own = logits[:, start : start + len(head.rows)].astype(np.float64)
        start += len(head.rows)
        with np.errstate(divide="ignore"):  # a gain of 0 is a logarithm of minus infinity
            parts = [
                np.log(gain) + own for gain in (np.array(head.gains), 1 - np.array(head.gains))
            ]
        graded = [np.logaddexp.reduce(part, axis=1) for part in parts]
        columns.append(own[:, 0] if len(head.rows) == 1 else graded[0] - graded[1])
    return np.stack(columns, axis=1)


def _largest(differences: Floats) -> float:
    return float(np.abs(differences).max())


def _random_slates(directory: ModelDirectory) -> Iterator[ScoreJob]:
    """Of token ids, lengths up to the card's limits but no more than a test of sums needs."""
    rng, limits = random.Random(0), directory.card.truncation

    def draw(longest: int) -> tuple[int, ...]:
        count = rng.randint(1, min(longest, LONGEST_CHECKED))
        return tuple(rng.choices(range(directory.config.vocab_size), k=count))

    for _ in range(CHECKED_SLATES):
        context = draw(limits.max_context_tokens)
        candidates = tuple(draw(limits.max_candidate_tokens) for _ in range(CHECKED_CANDIDATES))
        hashes = directory.prompt.block_hashes(context, directory.card.block_size)
        yield ScoreJob(context, hashes, candidates)


def _write_notes(directory: ModelDirectory, out: Path, agreements: Mapping[str, Agreement]) -> None:
    facts = {
        "model": directory.card.name,
        "digest": directory.digest,
        "heads": {
            head.name: dict(zip(card.grades, head.gains, strict=True))
            for head, card in zip(
                directory.prompt.heads, directory.card.scoring_heads.values(), strict=True
            )
        },
        "against_native_fp32": {name: asdict(found) for name, found in agreements.items()},
        "slates": CHECKED_SLATES,
    }
    (out / "export.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(README.format(**facts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
