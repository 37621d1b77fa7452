"""The command line of one stage, run without a recipe. Knows no stage, no gates."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from compress.stages.own_work import (
    alone_in,
    forget_beginning,
    named_digests,
    path_digest,
    refuse_others_work,
)
from compress.stages.stage import (
    CPU,
    DEVICES,
    RecipeError,
    Stage,
    StageInput,
    device_of,
    directory_digest,
)
from models.errors import FairslateError


def run_alone(name: str, stage: Stage) -> None:
    """python -m compress.<stage> --data DIR --out DIR ...

    A killed run goes on in OUT.work, which stays: remove it, as OUT, before another run there.
    """
    given = _parsed(name)
    try:
        _run(name, stage, given)
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
    return parser.parse_args()


def _run(name: str, stage: Stage, given: argparse.Namespace) -> None:
    out: Path = given.out
    if not out.name:
        raise RecipeError(f"--out {str(out)!r} names no directory; name one that does not exist")
    if out.exists() or out.is_symlink():
        raise RecipeError(f"{out} exists; remove it or name another --out")
    inputs = StageInput(
        given.source,
        given.data,
        out,
        out.with_name(out.name + ".work"),
        given.seed,
        given.threads,
        given.teacher,
        device=device_of(given.device),
    )
    with alone_in(inputs.work):
        refuse_others_work(_origin(name, inputs, given.options), inputs.work)
        try:
            stage(inputs, given.options)
        finally:
            forget_beginning(inputs.work)


def _origin(name: str, inputs: StageInput, options: Any) -> list[Any]:
    """What the weights come from."""
    paths = [inputs.source, inputs.teacher]
    return [
        name,
        directory_digest(inputs.data),
        inputs.seed,
        inputs.threads,
        inputs.device.type,
        [path and path_digest(path) for path in paths],
        options,
        named_digests(options, inputs.data),
    ]
