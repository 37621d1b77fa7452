"""The command line of one stage, run without a recipe. Knows no stage, no gates."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from compress.stages.option_values import LARGEST, MOST_THREADS
from compress.stages.own_work import (
    alone_in,
    forget_beginning,
    path_digest,
    refuse_others_work,
)
from compress.stages.stage import (
    CPU,
    DEVICES,
    RecipeError,
    Stage,
    StageInput,
    StageKind,
    device_of,
    directory_digest,
)
from models.errors import FairslateError

UNFINISHED = "out"  # in the working folder: what becomes OUT


def run_alone(name: str, kind: StageKind) -> None:
    """python -m compress.<stage> --data DIR --out DIR ...

    OUT appears when the stage has ended, never half written. A killed run goes on in OUT.work,
    which stays: remove it, as OUT, before another run there.
    """
    given = _parsed(name)
    try:
        _run(name, kind, given)
    except KeyboardInterrupt:
        print(f"interrupted; {_where(given.out)}", file=sys.stderr)
        sys.exit(130)
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"{error}; mend that and give the same command again", file=sys.stderr)
        sys.exit(1)
    print(f"{name}: wrote {given.out}", file=sys.stderr)


def _parsed(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m compress.{name}")
    parser.add_argument("--source", type=Path, help="model directory of the stage before")
    parser.add_argument("--teacher", type=Path, help="directory of the teacher, where one is used")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="model directory to write")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON object")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=DEVICES, default=CPU, help="of training loops")
    given = parser.parse_args()
    if not 1 <= given.threads <= MOST_THREADS or not 0 <= given.seed <= LARGEST:
        parser.error(f"--threads takes 1 to {MOST_THREADS}, --seed 0 to {LARGEST}")
    return given


def _run(name: str, kind: StageKind, given: argparse.Namespace) -> None:
    out: Path = given.out
    _refuse_taken(out)
    work = _work_of(out)
    inputs = StageInput(
        given.source,
        given.data,
        work / UNFINISHED,
        work,
        given.seed,
        given.threads,
        given.teacher,
        device=device_of(given.device),
    )
    origin = _origin(name, kind, inputs, given.options)
    with alone_in(work):
        _refuse_taken(out)  # another run may just have made it
        refuse_others_work(origin, work)
        try:
            _make(kind.run, inputs, given.options, out)
        finally:
            forget_beginning(work)


def _make(stage: Stage, inputs: StageInput, options: Any, out: Path) -> None:
    """What a run before left half written goes first, and what this one does so at its end."""
    shutil.rmtree(inputs.out, ignore_errors=True)
    try:
        stage(inputs, options)
        inputs.out.rename(out)
    finally:
        shutil.rmtree(inputs.out, ignore_errors=True)


def _refuse_taken(out: Path) -> None:
    if not out.name:
        raise RecipeError(f"--out {str(out)!r} names no directory; name one that does not exist")
    if os.path.lexists(out):
        raise RecipeError(f"{out} exists; remove it or name another --out")


def _work_of(out: Path) -> Path:
    return out.with_name(out.name + ".work")


def _where(out: Path) -> str:
    """What an interrupted run has left."""
    if out.exists():
        return f"{out} is finished"
    from_work = f", which goes on from {_work_of(out)}" if _work_of(out).exists() else ""
    return f"give the same command again{from_work}"


def _origin(name: str, kind: StageKind, inputs: StageInput, options: Any) -> list[Any]:
    """What the weights come from. Raises RecipeError for options that are none of the stage's."""
    paths = [inputs.source, inputs.teacher]
    named = kind.places(kind.parse(options), inputs.data)
    return [
        name,
        directory_digest(inputs.data),
        inputs.seed,
        inputs.threads,
        inputs.device.type,
        [path and path_digest(path) for path in paths],
        options,
        [path_digest(path) for path in named],
    ]
