"""Quality gates of a recipe: one line each, read before anything starts. Knows no stage or model.

gauc >= 0.85                              at least, on the selecting half of `valid`
ece <= 0.05                               at most
ndcg@10 drop <= 0.005 against teacher     below that stage's by at most; without `against`, the
ece rise <= 0.01                          stage before
tenant gauc drop <= 0.05                  the same in every slice: tenant, profile or job_zone
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from compress.measure.slices import DIMENSIONS, FEWEST
from compress.stages.stage import RecipeError

WRITTEN = ("validation_loss", "format_validity", "grounded")  # of a model that writes
METRICS = (
    *("gauc", "uauc", "auc", "mrr", "ndcg@1", "ndcg@5", "ndcg@10"),
    *("logloss", "normalised_entropy", "brier", "ece"),
    *WRITTEN,
)
FORM = re.compile(
    rf"(?:(?P<dimension>{'|'.join(DIMENSIONS)}) )?(?P<metric>[a-z_@0-9]+)"
    r"(?: (?P<change>drop|rise))? (?P<relation><=|>=) "
    r"(?P<bound>-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]{1,2})?)"
    r"(?: against (?P<against>\S+))?"
)


@dataclass(frozen=True, slots=True)
class Quality:
    """What a stage reached: metrics by name, and by dimension and slice."""

    metrics: Mapping[str, float]
    slices: Mapping[str, Mapping[str, Mapping[str, float]]]

    def parts(self, dimension: str | None) -> dict[str, Mapping[str, float]]:
        """All requests, under an empty name, or the slices of a dimension that are large enough."""
        if dimension is None:
            return {"": self.metrics}
        parts = self.slices.get(dimension, {})
        return {name: part for name, part in parts.items() if part["requests"] >= FEWEST}


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition. `change` compares with an earlier stage: how far the metric fell or rose."""

    line: str
    metric: str
    at_least: bool
    bound: float
    change: str | None
    against: str | None
    dimension: str | None

    @classmethod
    def parse(cls, line: str) -> Gate:
        """Raises RecipeError, with the form, for what is none."""
        found = FORM.fullmatch(line)
        if (
            not found
            or found["metric"] not in METRICS
            or (found["against"] and not found["change"])
        ):
            raise RecipeError(
                f"gate {line!r} cannot be read; write 'gauc >= 0.85' or 'ndcg@10 drop <= 0.005 "
                f"against teacher', of the metrics {', '.join(METRICS)}"
            )
        return cls(
            line,
            found["metric"],
            found["relation"] == ">=",
            float(found["bound"]),
            found["change"],
            found["against"],
            found["dimension"],
        )

    @property
    def nothing_in_it(self) -> str:
        """What is wrong with data none of whose slices is large enough."""
        return (
            f"has no {self.dimension} of {FEWEST} requests or more, gate {self.line!r}; give "
            "more data or take the gate out of the recipe"
        )

    def failure(self, quality: Quality, earlier: Quality | None) -> str | None:
        """None when met, or else what was found; `earlier` is of the stage it compares with."""
        parts = quality.parts(self.dimension)
        if not parts:  # nothing measured is nothing met
            return self.nothing_in_it
        found = (self._failure_of(name, part, earlier) for name, part in parts.items())
        return next((said for said in found if said), None)

    def _failure_of(
        self, name: str, part: Mapping[str, float], earlier: Quality | None
    ) -> str | None:
        where = f" of {self.dimension} {name}" if self.dimension else ""
        value = part.get(self.metric, float("nan"))  # unknown is never met
        if self.change:
            assert earlier is not None
            before = earlier.parts(self.dimension).get(name, {}).get(self.metric)
            if before is None:
                return (
                    f"{self.metric}{where} is not known of the stage that gate {self.line!r} "
                    "compares with; compare with another stage"
                )
            value = before - value if self.change == "drop" else value - before
        if value >= self.bound if self.at_least else value <= self.bound:
            return None
        return (
            f"{self.metric}{where} {self.change or 'is'} {value:.4f}, gate {self.line!r}; train "
            "longer or loosen the gate in the recipe"
        )
