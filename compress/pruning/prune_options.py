"""What a pruning is told: what goes, where, on which slates. Knows nothing of how it is done."""

from __future__ import annotations

from dataclasses import dataclass

from compress.layers.calibration_slates import CalibrationOptions
from compress.stages.stage import RecipeError

ALLOCATIONS = ("uniform", "sensitivity", "weights")
AIMS = ("source", "teacher")


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """Shares of what there is that go; `allocation` says where.

    "uniform" takes the same of every layer. The others keep it where scores lose least:
    "sensitivity" spends the time which that would take, by a latency table measured here, "weights"
    the weights which that would leave, so that it repeats anywhere. Then the directory holds all
    layers at the width of the widest, filled up with zeros, so that any engine loads it; ours
    leaves them out.
    most: the largest share of a kind that may go at once, unless forced.
    swap: neurons that change places at once in the search; multiple: of neurons.
    fit_to: whose outputs the halves aim at, "source" or "teacher".
    """

    mlp_share: float = 0.375
    kv_share: float = 0.0
    drop_layers: int = 0
    allocation: str = "uniform"
    multiple: int = 32
    most: float = 0.5
    force: bool = False
    ridge: float = 0.01
    swap: int = 16
    slates: int = 128
    candidates: int = 12
    split: str = "train"
    fit_to: str = "source"

    def __post_init__(self) -> None:
        shares = (self.mlp_share, self.kv_share)
        if self.allocation not in ALLOCATIONS or not all(0 <= share < 1 for share in shares):
            raise RecipeError(
                f"prune takes an allocation of {', '.join(ALLOCATIONS)} and shares of 0 to below "
                f"1, not {self.allocation!r} and {shares}"
            )
        if not 0 <= self.most <= 1 or self.ridge < 0 or self.multiple < 1:
            raise RecipeError(
                f"prune: most is {self.most}, ridge {self.ridge} and multiple {self.multiple}; use "
                "0 to 1, 0 or more and 1 or more"
            )
        if self.fit_to not in AIMS or (self.fit_to == "teacher" and self.drop_layers):
            raise RecipeError(
                f"prune: fit_to is {self.fit_to!r}; use one of {', '.join(AIMS)}, and source where "
                "layers are dropped"
            )

    @property
    def calibration(self) -> CalibrationOptions:
        """Which slates."""
        return CalibrationOptions(self.slates, self.candidates, self.split)
