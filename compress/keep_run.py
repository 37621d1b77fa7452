"""Measures the arms of a training figure on the same data and keeps the result with its manifest.

    python -m compress.keep_run kd_minus_sft_auc --metric auc --data DIR --split test \\
        --arm kd=DIR[,DIR...] --arm sft=DIR[,DIR...] --note "equal steps" --out FILE

Several models of an arm are several seeds: the figure is a mean over them, paired in their order.
Trains nothing.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from compress.benches.kept_runs import FIGURES, KeptRun, KeptRunError
from compress.data.requests import Request, load_requests
from compress.measure.evaluation import RESAMPLES
from compress.measure.intervals import Scored, mean_difference, values
from compress.measure.scorers import open_scorer, scored_by
from compress.recipes.records import write_json
from compress.stages.stage import directory_digest
from models.card import CARD_NAME, read_card
from models.errors import FairslateError

Directories = Mapping[str, Sequence[Path]]


def keep_run(
    figure: str, metric: str, arms: Directories, data: Path, split: str, note: str
) -> KeptRun:
    """Scores every model of every arm. Raises KeptRunError where arms differ in their number."""
    if len({len(directories) for directories in arms.values()}) != 1:
        raise KeptRunError("every arm needs as many models; pair them by seed")
    first, second = FIGURES[figure].pair
    requests = load_requests(data, split)
    scored = {arm: [_scored(path, requests) for path in paths] for arm, paths in arms.items()}
    pairs = list(zip(scored[first], scored[second], strict=True))
    interval = mean_difference(pairs, RESAMPLES)[metric]
    return KeptRun(
        figure=figure,
        metric=metric,
        split=split,
        data=directory_digest(data),
        arms={arm: mean(values(one)[metric] for one in models) for arm, models in scored.items()},
        low=interval.low,
        high=interval.high,
        manifest={arm: [_origin(path) for path in paths] for arm, paths in arms.items()},
        machine=f"{platform.machine()}, torch {torch.__version__}",
        note=note,
    )


def _scored(directory: Path, requests: Sequence[Request]) -> list[Scored]:
    return scored_by(open_scorer(directory), requests)


def _origin(directory: Path) -> dict[str, Any]:
    """Digest and lineage of a model; paths mean nothing elsewhere."""
    digest = open_scorer(directory).digest
    if not (directory / CARD_NAME).exists():
        return {"digest": digest}
    return {"digest": digest, "stages": read_card(directory).lineage.get("stages", [])}


def _arm(text: str) -> tuple[str, list[Path]]:
    name, _, paths = text.partition("=")
    return name, [Path(path) for path in paths.split(",") if path]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.keep_run")
    parser.add_argument("figure", choices=sorted(FIGURES))
    parser.add_argument("--metric", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--arm", type=_arm, action="append", required=True)
    parser.add_argument("--note", required=True, help="what was equal between the arms")
    parser.add_argument("--out", type=Path, required=True, help="file in compress/results/runs")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        arms = dict(given.arm)
        run = keep_run(given.figure, given.metric, arms, given.data, given.split, given.note)
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    write_json(given.out, asdict(run))
    print(f"{run.figure} {run.value:+.4f}, pair {run.low:+.4f} to {run.high:+.4f}, met {run.met}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
