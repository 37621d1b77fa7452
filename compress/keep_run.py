"""Measures the arms of a training figure and keeps the result. Knows nothing of their training.

    python -m compress.keep_run kd_minus_sft_auc --metric auc --data DIR --split test \\
        --arm kd=DIR[,DIR...] --arm sft=DIR[,DIR...] --note "equal steps" --out FILE

Several models of an arm are several seeds: the figure is a mean over them, paired in their order.
What is kept with it is the manifest of every model.
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

import numpy as np
import torch

from compress.benches.kept_runs import FIGURES, KeptRun, KeptRunError
from compress.data.requests import Request, load_requests
from compress.measure.evaluation import RESAMPLES
from compress.measure.intervals import Scored, mean_difference, values
from compress.measure.scorers import open_scorer, scored_by
from compress.stages.option_values import MOST_THREADS
from compress.stages.stage import directory_digest
from compress.stages.whole_files import write_json
from models.card import CARD_NAME, read_card
from models.errors import FairslateError

Directories = Mapping[str, Sequence[Path]]


def keep_run(
    figure: str, metric: str, arms: Directories, data: Path, split: str, note: str
) -> KeptRun:
    """Scores every model of every arm.

    Raises KeptRunError for arms that are not the figure's or differ in their number, and for an
    unknown metric.
    """
    _refuse_other_arms(figure, arms)
    requests = load_requests(data, split)
    _refuse_unknown(metric, requests)
    first, second = FIGURES[figure].pair
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


def _refuse_other_arms(figure: str, arms: Directories) -> None:
    needed = FIGURES[figure].arms
    if set(arms) != set(needed):
        raise KeptRunError(
            f"{figure} is of the arms {', '.join(needed)}, not {', '.join(arms)}; give an --arm "
            "NAME=DIR for each"
        )
    if len({len(directories) for directories in arms.values()}) != 1 or not all(arms.values()):
        raise KeptRunError("every arm needs as many models, one or more; pair them by seed")


def _refuse_unknown(metric: str, requests: Sequence[Request]) -> None:
    """Before any model has scored: which metrics there are depends on the requests alone."""
    known = values([Scored(item, np.full(len(item.candidates), 0.5)) for item in requests])
    if metric not in known:
        raise KeptRunError(f"metric {metric!r} is unknown; use one of {', '.join(sorted(known))}")


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


def _arms(given: Sequence[tuple[str, list[Path]]]) -> dict[str, list[Path]]:
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise KeptRunError(f"--arm {name} is given twice; write --arm {name}=DIR,DIR once")
    return dict(given)


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
    if not 1 <= given.threads <= MOST_THREADS:
        parser.error(f"--threads takes 1 to {MOST_THREADS}")
    if given.out.is_dir() or not given.out.parent.is_dir():
        parser.error(f"--out {given.out} is no file in a folder that exists; name one")
    torch.set_num_threads(given.threads)
    try:
        arms = _arms(given.arm)
        run = keep_run(given.figure, given.metric, arms, given.data, given.split, given.note)
        write_json(given.out, asdict(run))
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot keep the run: {error}; mend --data or --out", file=sys.stderr)
        return 1
    print(f"{run.figure} {run.value:+.4f}, pair {run.low:+.4f} to {run.high:+.4f}, met {run.met}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
