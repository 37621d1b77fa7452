"""Measures a model on a split, scored as served. Knows nothing of training.

python -m compress.evaluate MODEL --data DIR --split NAME --json - [--against MODEL2]
MODEL is a model directory, or that of a teacher of another kind. A served one scores with
the native engine, calibrated, in fp32 or, where its weights are stored so, in int8.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from compress.data.requests import load_requests
from compress.measure.evaluation import RESAMPLES, evaluate
from compress.measure.scorers import open_scorer
from compress.measure.slices import slice_names
from compress.stages.option_values import MOST_THREADS
from compress.stages.whole_files import write_text
from models.errors import FairslateError


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m compress.evaluate")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True, help="reads DATA/SPLIT.jsonl.gz")
    parser.add_argument("--json", required=True, help="file to write, - for standard output")
    parser.add_argument("--against", type=Path, help="another model: paired differences to it")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.resamples < 0 or not 1 <= given.threads <= MOST_THREADS:
        parser.error(f"--resamples takes 0 or more, --threads 1 to {MOST_THREADS}")
    if given.json != "-" and (Path(given.json).is_dir() or not Path(given.json).parent.is_dir()):
        parser.error(f"--json {given.json} is no file in a folder that exists; name one, or -")
    torch.set_num_threads(given.threads)
    try:
        text = json.dumps(_report(given), indent=2)
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot read the data: {error}; name a folder as --data", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; give the same command again", file=sys.stderr)
        return 130
    return _write(given.json, text)


def _write(target: str, text: str) -> int:
    """The exit code. A file is the new report or the old one, whatever happens meanwhile."""
    if target == "-":
        print(text)
        return 0
    path = Path(target)
    try:
        if path.exists() and not path.is_file():  # a pipe or a device, not to be replaced
            path.write_text(text + "\n", encoding="utf-8")
        else:
            write_text(path.resolve(), text + "\n")
    except OSError as error:
        print(f"cannot write the report: {error}; name another file as --json", file=sys.stderr)
        return 1
    return 0


def _report(given: argparse.Namespace) -> dict[str, Any]:
    requests = load_requests(given.data, given.split)
    names = slice_names(given.data, given.split)
    other = open_scorer(given.against) if given.against else None
    return evaluate(open_scorer(given.model), requests, names, given.resamples, other)


if __name__ == "__main__":
    sys.exit(main())
