"""The plan: every stage's seconds follow from its costs and this machine's rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.recipes import plan
from compress.recipes.recipe import Recipe, RecipeStage
from tests.compress.small_encoders import write_encoder

STAGES = (RecipeStage("lexicon", options={"steps": 10}), RecipeStage("train"))


def test_a_stage_is_planned_on_the_shape_that_the_one_before_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "_rate", lambda threads, dtype: 1e9)
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 0)
    lexicon, train = plan.estimates(Recipe("anywhere", 1, 1, STAGES))
    assert train.cost.shape == lexicon.cost.shape
    assert train.seconds == pytest.approx(plan.SLOWER * train.cost.operations / 1e9)


def test_a_first_stage_is_priced_with_its_teacher_and_later_ones_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan, "_rate", lambda threads, dtype: 1e9)
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 0)
    encoder = str(write_encoder(tmp_path))
    teacher = RecipeStage("encoder_teacher", options={"encoder": encoder})
    stages = (RecipeStage("imitate"), RecipeStage("quantize"))
    first, second, third = plan.estimates(Recipe("anywhere", 1, 1, stages, teacher))
    alone, _ = plan.estimates(Recipe("anywhere", 1, 1, stages))
    assert second.cost.steps == alone.cost.steps + 1  # the teacher's labels
    assert second.cost.shape == alone.cost.shape != first.cost.shape
    assert third.cost.shape is not None
    assert second.cost.shape is not None
    assert third.cost.shape.parameters == second.cost.shape.parameters


def test_passes_in_bfloat16_are_priced_at_their_own_rate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rates = {torch.float32: 1e9, torch.bfloat16: 4e9}
    monkeypatch.setattr(plan, "_rate", lambda threads, dtype: rates[dtype])
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 0)
    encoder = str(write_encoder(tmp_path))

    def priced(passes: str) -> tuple[plan.Estimate, plan.Estimate]:
        options = {"cpu_passes": passes}
        teacher = RecipeStage("encoder_teacher", options={"encoder": encoder} | options)
        stages = (RecipeStage("imitate", options=options),)
        first, second = plan.estimates(Recipe("anywhere", 1, 1, stages, teacher))
        return first, second

    for wide, narrow in zip(priced("float32"), priced("bfloat16"), strict=True):
        assert narrow.cost.operations == wide.cost.operations
        assert narrow.cost.narrow == wide.cost.wide
        passes = wide.cost.wide * (plan.WIDE_SLOWER / 1e9 - plan.NARROW_SLOWER / 4e9)
        assert wide.seconds - narrow.seconds == pytest.approx(passes)
    teacher, student = priced("bfloat16")
    assert teacher.cost.narrow == teacher.cost.operations
    assert 0 < student.cost.narrow < student.cost.operations  # its own steps stay in fp32


def test_a_teacher_is_not_taken_for_the_source(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model_dir: Path
) -> None:
    monkeypatch.setattr(plan, "_rate", lambda threads, dtype: 1e9)
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 0)
    teacher = RecipeStage("encoder_teacher", options={"encoder": str(write_encoder(tmp_path))})
    stages, source = (RecipeStage("quantize"),), str(tiny_model_dir)
    _, taught = plan.estimates(Recipe("anywhere", 1, 1, stages, teacher, source))
    (alone,) = plan.estimates(Recipe("anywhere", 1, 1, stages, None, source))
    assert taught.cost == alone.cost


def test_a_model_that_writes_is_not_priced_as_if_it_ranked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "_rate", lambda threads, dtype: 1e9)
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 10**6)
    text = {"task": "text", "teachers": [], "phases": [{"steps": 2, "soft_share": 0.0}]}
    stages = (RecipeStage("reasoner"), RecipeStage("distill", options=text))
    first, second = plan.estimates(Recipe("anywhere", 1, 1, stages))
    assert first.seconds == 0
    assert second.seconds == pytest.approx(plan.SLOWER * second.cost.operations / 1e9)


def test_the_sum_says_whose_seconds_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_rate", lambda threads, dtype: 1e9)
    monkeypatch.setattr(plan, "_gate_tokens", lambda recipe: 0)
    stages = (RecipeStage("lexicon", options={"steps": 10}),)
    cpu, gpu = (
        plan.table(Recipe("anywhere", 1, 3, stages, device=device)).splitlines()[-1]
        for device in ("cpu", "cuda")
    )
    assert cpu.endswith("on 3 threads of this CPU")
    assert gpu == f"{cpu}; device is cuda, and what a GPU takes is not known before"
