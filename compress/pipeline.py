"""The command that runs a recipe. Knows nothing of the run itself, which compress.recipes.run is.

    python -m compress.pipeline compress/recipes/demo_quick.yaml --out DIR [--dry-run]
    torchrun --nproc-per-node 2 -m compress.pipeline ...

OUT appears when the last gate has passed, never half written, and OUT.html beside it. After a kill
the same command goes on from OUT.work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compress.recipes.beforehand import refuse_what_cannot_work
from compress.recipes.places import refuse_taken, work_of
from compress.recipes.plan import table
from compress.recipes.recipe import Recipe
from compress.recipes.run import Run
from compress.stages import parallel
from compress.stages.stage import RecipeError
from models.errors import FairslateError


def main() -> int:
    """The command line; a failed gate or recipe exits with 1 and leaves no artefact."""
    parser = argparse.ArgumentParser(prog="python -m compress.pipeline")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="model directory to create")
    parser.add_argument(
        "--dry-run", action="store_true", help="print cost and sizes, start nothing"
    )
    given = parser.parse_args()
    if not given.out.name:
        parser.error(f"--out {str(given.out)!r} ends in no name; give that of a folder to create")
    try:
        recipe = Recipe.load(given.recipe)
        recipe.refuse_missing()
        if given.dry_run:
            refuse_what_cannot_work(recipe)
            print(table(recipe))
            _tell_taken(given.out)
            return 0
        parallel.join()
        Run(recipe, given.out).start()
    except KeyboardInterrupt:
        print(f"interrupted; {_where(given.out)}", file=sys.stderr)
        return 130
    except FairslateError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"cannot go on: {error}; make room or mend it, then the same command goes on from "
            f"{work_of(given.out)}",
            file=sys.stderr,
        )
        return 1
    finally:
        parallel.leave()
    return 0


def _tell_taken(out: Path) -> None:
    """A price is asked for before a folder is chosen: no reason to refuse it."""
    try:
        refuse_taken(out)
    except RecipeError as error:
        print(f"a run would be refused: {error}", file=sys.stderr)


def _where(out: Path) -> str:
    """What an interrupted run has left."""
    if out.exists() and work_of(out).exists():  # none of a name that is taken is begun
        return f"{out} is finished; remove {work_of(out)} by hand"
    return f"the same command goes on from {work_of(out)}"


if __name__ == "__main__":
    parallel.end(main())
