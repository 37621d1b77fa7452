"""Stage: prunes in steps and recovers by distillation after each. Knows no method of either.

Run alone: python -m compress.gradual --source MODEL --data DIR --out DIR --options JSON
Every step takes the same number of neurons and groups; the model that came in teaches, unless the
recipe has a teacher. A run that was killed goes on after its last finished half step.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compress import distill, prune
from compress.recipe import TEACHER
from compress.stage import (
    Cost,
    RecipeError,
    Shape,
    Stage,
    StageInput,
    StageKind,
    parse_options,
    run_alone,
)


@dataclass(frozen=True, slots=True)
class GradualOptions:
    """prune: options of the prune stage, shares being of what comes in. recover: of distill."""

    prune: Mapping[str, Any] = field(default_factory=dict)
    recover: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RecipeError(f"gradual: steps is {self.steps}; take at least 1")
        if parse_options(prune.PruneOptions, self.prune).drop_layers:
            raise RecipeError("gradual: layers are dropped at once; use a prune stage for them")
        distill.STAGE.parse(self.recover)

    def prune_options(self) -> Iterator[dict[str, Any]]:
        """Of each step: its shares are of what the steps before it left."""
        whole = parse_options(prune.PruneOptions, self.prune)
        shares = {"mlp_share": whole.mlp_share, "kv_share": whole.kv_share}
        for step in range(1, self.steps + 1):
            yield {**self.prune} | {
                name: 1 - (1 - share * step / self.steps) / (1 - share * (step - 1) / self.steps)
                for name, share in shares.items()
            }


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes what the last recovery made; its card has the entries of all steps."""
    options = parse_options(GradualOptions, raw_options)
    source = stage.source
    if source is None:
        raise RecipeError("gradual needs a model directory; name it with --source")
    teacher = stage.teacher or source
    stage = replace(stage, teacher=teacher, earlier={**stage.earlier, TEACHER: teacher})
    for number, cut in enumerate(options.prune_options(), 1):
        for name, step, given in (
            ("pruned", prune.run, cut),
            ("recovered", distill.run, options.recover),
        ):
            source = _finished(step, given, replace(stage, source=source), f"{number}-{name}")
    shutil.copytree(source, stage.out, dirs_exist_ok=True)


def _finished(run_step: Stage, options: Mapping[str, Any], stage: StageInput, name: str) -> Path:
    """The step's directory, made now unless an earlier start has finished it."""
    done = stage.work / name
    if not done.exists():
        out = stage.work / "unfinished"
        shutil.rmtree(out, ignore_errors=True)
        run_step(replace(stage, out=out, work=stage.work / f"{name}.state"), options)
        out.rename(done)
    return done


def cost(options: GradualOptions, shape: Shape | None) -> Cost:
    """Of all recoveries; pruning itself is small beside them."""
    one = distill.cost(distill.STAGE.parse(options.recover), shape)
    return replace(
        one,
        steps=one.steps * options.steps,
        tokens=one.tokens * options.steps,
        operations=one.operations * options.steps,
    )


STAGE = StageKind(run, GradualOptions, cost)

if __name__ == "__main__":
    run_alone("gradual", run)
