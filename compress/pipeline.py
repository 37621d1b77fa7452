"""Runs a recipe of stages behind quality gates; resumes after a kill. Knows no stage's inside.

python -m compress.pipeline compress/recipes/demo_quick.yaml --out DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compress import calibrate, lexicon, train
from compress.data import halves, load_requests
from compress.evaluate import score
from compress.metrics import auc
from compress.stage import (
    GateError,
    RecipeError,
    Stage,
    StageInput,
    directory_digest,
    parse_options,
)
from models.card import write_card
from models.checkpoint import load_model_directory
from models.errors import FairslateError

STAGES: dict[str, Stage] = {
    "lexicon": lexicon.run,
    "train": train.run,
    "calibrate": calibrate.run,
}


@dataclass(frozen=True, slots=True)
class RecipeStage:
    """One entry of a recipe; `minimum_gauc` is the gate, on the selecting half of `valid`."""

    stage: str
    minimum_gauc: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise RecipeError(f"stage {self.stage!r} is unknown; use one of {', '.join(STAGES)}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file; `data` is a folder relative to where the command runs."""

    data: str
    seed: int
    threads: int
    stages: tuple[RecipeStage, ...]

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Raises RecipeError for what cannot be read or is not known."""
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            stages = tuple(parse_options(RecipeStage, entry) for entry in raw.pop("stages"))
        except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
            raise RecipeError(f"{path}: not a recipe ({error}); see compress/recipes") from error
        return parse_options(cls, raw | {"stages": stages})


def run_recipe(recipe: Recipe, out: Path) -> None:
    """Stages go to OUT.work/; OUT appears when the last gate has passed, and never half written."""
    if out.exists():
        raise RecipeError(f"{out} exists; remove it or name another --out")
    work, source = work_of(out), None
    _refuse_another_recipes_work(recipe, work)
    for number, entry in enumerate(recipe.stages):
        print(f"stage {number + 1} of {len(recipe.stages)}: {entry.stage}", file=sys.stderr)
        done = work / f"{number}-{entry.stage}"
        if not done.exists():
            inputs = StageInput(
                source,
                Path(recipe.data),
                out=work / "unfinished",
                work=work / f"{number}-{entry.stage}.state",
                seed=recipe.seed,
                threads=recipe.threads,
            )
            _run_stage(entry, inputs, done)
        source = done
    assert source is not None
    source.rename(out)
    shutil.rmtree(work)


def work_of(out: Path) -> Path:
    """Where a run that makes OUT keeps its finished stages and checkpoints."""
    return out.with_name(out.name + ".work")


def _refuse_another_recipes_work(recipe: Recipe, work: Path) -> None:
    """Gates may change between two starts; what the weights come from may not."""
    if not Path(recipe.data).is_dir():
        raise RecipeError(f"data {recipe.data!r} is no folder here; run from the repository's root")
    stages = [[entry.stage, dict(entry.options)] for entry in recipe.stages]
    origin = [directory_digest(Path(recipe.data)), recipe.seed, recipe.threads, stages]
    stated, path = json.dumps(origin), work / "recipe.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(stated, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != stated:
        raise RecipeError(f"{work} holds a run of another recipe or of other data; remove it")


def _run_stage(entry: RecipeStage, inputs: StageInput, done: Path) -> None:
    shutil.rmtree(inputs.out, ignore_errors=True)
    STAGES[entry.stage](inputs, entry.options)
    directory = load_model_directory(inputs.out)
    selecting, _ = halves(load_requests(inputs.data, "valid"))
    per_request = [auc(item.scores, item.labels) for item in score(directory, selecting)]
    gauc = float(np.nanmean(per_request))
    print(f"{entry.stage}: valid gauc {gauc:.4f}, gate {entry.minimum_gauc}", file=sys.stderr)
    if gauc < entry.minimum_gauc:
        shutil.rmtree(inputs.out)
        raise GateError(
            f"{entry.stage}: valid gauc {gauc:.4f} is below the gate {entry.minimum_gauc}; "
            "train longer or lower minimum_gauc in the recipe"
        )
    metrics = {**directory.card.metrics, entry.stage: {"valid_gauc": gauc}}
    write_card(inputs.out, replace(directory.card, metrics=metrics))
    inputs.out.rename(done)


def main() -> int:
    """The command line; a failed gate or recipe exits with 1 and leaves no artefact."""
    parser = argparse.ArgumentParser(prog="python -m compress.pipeline")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="model directory to create")
    given = parser.parse_args()
    try:
        run_recipe(Recipe.load(given.recipe), given.out)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on from {work_of(given.out)}", file=sys.stderr)
        return 130
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
