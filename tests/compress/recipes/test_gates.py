"""Gates: every form, on which side of the bound they fail, and what they then say."""

from __future__ import annotations

import pytest

from compress.measure.slices import FEWEST
from compress.recipes.gates import Gate, Quality
from compress.stages.stage import RecipeError


def _quality(gauc: float, ece: float, **tenants: float) -> Quality:
    parts = {name: {"requests": FEWEST, "gauc": value} for name, value in tenants.items()}
    parts["few"] = {"requests": FEWEST - 1, "gauc": 0.0}
    return Quality({"gauc": gauc, "ece": ece}, {"tenant": parts})


@pytest.mark.parametrize(
    ("line", "gauc", "ece", "met"),
    [
        ("gauc >= 0.8", 0.8, 0.1, True),
        ("gauc >= 0.8", 0.79, 0.1, False),
        ("ece <= 0.1", 0.8, 0.1, True),
        ("ece <= 0.1", 0.8, 0.11, False),
        ("gauc drop <= 0.05", 0.86, 0.1, True),
        ("gauc drop <= 0.05", 0.84, 0.1, False),
        ("gauc drop <= -0.01", 0.905, 0.1, False),
        ("ece rise <= 0.02", 0.8, 0.07, True),
        ("ece rise <= 0.02", 0.8, 0.08, False),
        ("gauc >= 0.8", float("nan"), 0.1, False),
    ],
)
def test_a_gate_fails_on_the_wrong_side_only(line: str, gauc: float, ece: float, met: bool) -> None:
    failure = Gate.parse(line).failure(_quality(gauc, ece), _quality(0.9, 0.055))
    assert (failure is None) is met
    assert met or line in str(failure)


def test_a_gate_of_slices_names_the_slice_that_fails_and_passes_small_ones_over() -> None:
    before = _quality(0.9, 0.0, a=0.9, b=0.8)
    gate = Gate.parse("tenant gauc drop <= 0.05")
    assert gate.failure(_quality(0.9, 0.0, a=0.86, b=0.9), before) is None
    assert "of tenant a drop 0.1000" in str(gate.failure(_quality(0.9, 0.0, a=0.8, b=0.9), before))


@pytest.mark.parametrize("line", ["tenant gauc >= 0.5", "job_zone gauc drop <= 0.9"])
def test_a_gate_of_slices_is_not_met_where_no_slice_is_large_enough(line: str) -> None:
    """`few` is too small, and there are no job zones."""
    quality = _quality(0.9, 0.0)
    failure = str(Gate.parse(line).failure(quality, quality))
    assert f"of {FEWEST} requests or more" in failure
    assert line in failure


@pytest.mark.parametrize("line", ["tenant gauc drop <= 0.5", "tenant gauc rise >= 0"])
def test_a_slice_that_the_earlier_stage_lacks_cannot_be_compared(line: str) -> None:
    failure = Gate.parse(line).failure(_quality(0.9, 0.0, a=0.9), _quality(0.9, 0.0, b=0.9))
    assert "gauc of tenant a is not known of the stage" in str(failure)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "gauc",
        "gauc >= x",
        "gauc == 1",
        "gauc >= 1 against teacher",
        "user gauc >= 1",
        "rmse <= 1",
    ],
)
def test_another_form_is_refused_with_an_example(line: str) -> None:
    with pytest.raises(RecipeError, match="ndcg@10 drop"):
        Gate.parse(line)
