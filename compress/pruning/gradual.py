"""Stage: prunes in steps and recovers by distillation after each. Knows no method of either.

Run alone: python -m compress.pruning.gradual --source MODEL --data DIR --out DIR --options JSON
Steps take the same number of neurons and groups each, or ever fewer: a model that learned to use
all it has left is hurt by a large cut (Zhu and Gupta 2017, "To prune, or not to prune", arXiv
1710.01878). Every cut is fitted to the outputs of the model that came in, which also teaches,
unless the recipe has a teacher. Recoveries share one decay of the rates, and may share their steps
unequally: what the last cut took has only the last recovery to come back in, while what the first
ones took has all of them. No two see the same slates. A run that was killed goes on after
its last finished half step.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from compress.distillation import distill
from compress.pruning import prune
from compress.pruning.budgets import Budget, uniform_budget
from compress.pruning.prune_options import PruneOptions
from compress.stages import parallel
from compress.stages.alone import run_alone
from compress.stages.required import required_shape, required_source
from compress.stages.stage import (
    TEACHER,
    Cost,
    Incoming,
    RecipeError,
    Shape,
    Stage,
    StageInput,
    StageKind,
    parse_options,
)
from models.config import DecoderConfig
from models.config_reader import read_config

CUTS: Mapping[str, Callable[[float], float]] = {
    "even": lambda done: done,
    "falling": lambda done: 1 - (1 - done) ** 3,
}
MOST_STEPS = 100
MOST_PORTION = 1e6
SEEDS_APART = 1000  # of steps: stages take the next few after the one that they are given


@dataclass(frozen=True, slots=True)
class GradualOptions:
    """prune: options of the prune stage, shares being of what comes in. recover: of distill.

    cuts: "even", or "falling": after a share t of the steps 1 - (1 - t)^3 of what goes is gone.
    portions: one a step, by which the recoveries share out the steps of all of them, which are
    `steps` times those of `recover`; alike without.
    """

    prune: Mapping[str, Any] = field(default_factory=dict)
    recover: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 3
    cuts: str = "even"
    portions: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise RecipeError(f"gradual: steps is {self.steps}; take 1 to {MOST_STEPS}")
        if self.cuts not in CUTS:
            raise RecipeError(f"gradual: cuts are {self.cuts!r}; use one of {', '.join(CUTS)}")
        if self.portions and not _are_portions(self.portions, self.steps):
            raise RecipeError(
                f"gradual: portions are {list(self.portions)}; give {self.steps} numbers above 0 "
                f"and up to {MOST_PORTION:.0e}, or none"
            )
        given = parse_options(PruneOptions, self.prune)
        if given.drop_layers or given.allocation != "uniform":
            raise RecipeError(
                "gradual: layers are dropped at once, and every cut takes the same of each layer; "
                "use a prune stage for drop_layers and for any other allocation"
            )
        distill.STAGE.parse(self.recover)
        for recovery in self.recover_options():
            if not all(phase["steps"] for phase in recovery["phases"]):
                raise RecipeError(
                    f"gradual: portions of {list(self.portions)} leave a recovery without steps; "
                    "raise the smallest, or the steps of every phase"
                )
            distill.STAGE.parse(recovery)

    def prune_options(self, config: DecoderConfig) -> Iterator[dict[str, Any]]:
        """Of each step, on a model of `config`: the last one leaves what one step would have left.

        A step's shares are of what the step before it left, in whole multiples. Every cut aims at
        the outputs of the model that came in, so that it mends what recovery has left to mend.
        """
        whole = parse_options(PruneOptions, self.prune)
        last = uniform_budget(config, whole.mlp_share, whole.kv_share, whole.multiple)
        left = Budget(config.intermediate_size, config.num_key_value_heads)
        for step in range(1, self.steps + 1):
            gone = CUTS[self.cuts](step / self.steps)
            kept = Budget(
                _towards(config.intermediate_size, last.neurons, gone, whole.multiple),
                _towards(config.num_key_value_heads, last.kv_groups, gone, 1),
            )
            yield {
                "fit_to": "teacher",
                **self.prune,
                "mlp_share": 1 - kept.neurons / left.neurons,
                "kv_share": 1 - kept.kv_groups / left.kv_groups,
            }
            left = kept

    def recover_options(self) -> Iterator[dict[str, Any]]:
        """Of each step: `recover` with the steps of its phases in this step's portion.

        All recoveries share one decay of the rates: a model that is about to lose more neurons has
        nothing to settle into.
        """
        portions = self.portions or (1,) * self.steps
        shares = [part / sum(portions) for part in accumulate(portions, initial=0.0)]
        whole = [phase["steps"] * self.steps for phase in self.recover["phases"]]
        reached = [[round(steps * share) for steps in whole] for share in shares]
        for before, after in pairwise(reached):
            phases = [
                {**phase, "steps": last - first}
                for phase, first, last in zip(self.recover["phases"], before, after, strict=True)
            ]
            yield {
                **self.recover,
                "phases": phases,
                "steps_before": sum(before),
                "steps_after": sum(whole) - sum(after),
            }


def _are_portions(given: Sequence[Any], steps: int) -> bool:
    return len(given) == steps and all(
        type(part) in (int, float) and 0 < part <= MOST_PORTION for part in given
    )


def _towards(first: int, last: int, share: float, multiple: int) -> int:
    """So far on the way, rounded up to a multiple, but never more than there was."""
    reached = first - (first - last) * share
    return min(first, -(-math.ceil(reached - 1e-9) // multiple) * multiple)


def run(stage: StageInput, raw_options: Mapping[str, Any]) -> None:
    """Writes what the last recovery made; its card has the entries of all steps."""
    options = parse_options(GradualOptions, raw_options)
    source = required_source(stage, "gradual")
    dense, teacher = source, stage.teacher or source
    stage = replace(stage, teacher=teacher, earlier={**stage.earlier, TEACHER: teacher})
    config, seed = read_config(source), stage.seed
    _refuse_nothing_taken(config, options)
    rounds = zip(options.prune_options(config), options.recover_options(), strict=True)
    for number, (cut, recovery) in enumerate(rounds, 1):
        stage = replace(stage, seed=seed + SEEDS_APART * (number - 1))
        cut_stage = replace(stage, source=source, teacher=dense)
        source = finished(prune.run, cut, cut_stage, f"{number}-pruned")
        source = finished(
            distill.run, recovery, replace(stage, source=source), f"{number}-recovered"
        )
    shutil.copytree(source, stage.out, dirs_exist_ok=True)


def _refuse_nothing_taken(whole: DecoderConfig, options: GradualOptions) -> None:
    """Of all steps together: a cut whose part of it rounds to nothing leaves it to later ones."""
    prune.refuse_nothing_taken(whole, parse_options(PruneOptions, options.prune))


def finished(run_step: Stage, options: Mapping[str, Any], stage: StageInput, name: str) -> Path:
    """The step's directory, made now unless an earlier start has finished it.

    It is rank 0's: each process has a folder of its own, and a kill leaves one behind another.
    """
    done = parallel.first(lambda: stage.work / name)
    if not parallel.first(done.exists):
        out = stage.work / "unfinished"
        shutil.rmtree(out, ignore_errors=True)
        run_step(replace(stage, out=out, work=stage.work / f"{name}.state"), options)
        parallel.first(lambda: out.rename(done))
    return done


def cost(options: GradualOptions, shape: Shape | None) -> Cost:
    """Of all recoveries; pruning itself is small beside them."""
    shape = required_shape(shape, "gradual")
    one = distill.cost(distill.STAGE.parse(options.recover), shape)
    return replace(
        one,
        shape=prune.left_of(shape, parse_options(PruneOptions, options.prune)),
        steps=one.steps * options.steps,
        tokens=one.tokens * options.steps,
        operations=one.operations * options.steps,
    )


def named(options: GradualOptions) -> list[str]:
    """Its teachers; the model that came in is one where the recipe has none."""
    teachers = distill.named(distill.STAGE.parse(options.recover))
    return [path for path in teachers if path != TEACHER]


def reads(options: GradualOptions) -> list[str]:
    """Of pruning and of recovery."""
    calibration = parse_options(PruneOptions, options.prune).calibration
    return [*calibration.reads, *distill.reads(distill.STAGE.parse(options.recover))]


def check(options: GradualOptions, incoming: Incoming) -> None:
    """Every cut and a recovery; the model that came in is their teacher where there is no other."""
    itself = replace(
        incoming,
        taught=True,
        by_model=True,
        origins={**incoming.origins, TEACHER: incoming.origin},
    )
    distill.check(distill.STAGE.parse(options.recover), incoming if incoming.taught else itself)
    shape = incoming.shape
    if shape is None or shape.config is None:
        return
    _refuse_nothing_taken(shape.config, options)
    for raw in options.prune_options(shape.config):
        cut = parse_options(PruneOptions, raw)
        prune.check(cut, replace(itself, shape=shape))
        shape = prune.left_of(shape, cut)


STAGE = StageKind(run, GradualOptions, cost, named, reads, check)

if __name__ == "__main__":
    run_alone("pruning.gradual", STAGE)
