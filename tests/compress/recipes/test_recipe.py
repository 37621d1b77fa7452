"""Recipes: what is refused before anything starts, and what the shipped ones say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.recipes.recipe import Recipe
from compress.stages.stage import RecipeError

RECIPES = Path(__file__).parents[3] / "compress" / "recipes"
HEAD = "data: x\nseed: 1\nthreads: 1\n"


def _load(directory: Path, content: str) -> Recipe:
    path = directory / "recipe.yaml"
    path.write_text(content)
    return Recipe.load(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: 1", "not a recipe"),
        ("stages: 3", "not a recipe"),
        ("][", "not a recipe"),
        (HEAD + "stages: []", "makes nothing"),
        (HEAD + "colour: red\nstages: [{stage: train}]", "colour"),
        (HEAD + "stages: [{stage: bake}]", "'bake' is unknown"),
        (HEAD + "stages: [{stage: train, gate: 0}]", "gate"),
        (HEAD + "stages: [{stage: train, name: long, options: {stepps: 3}}]", "long: .*stepps"),
        (HEAD + "stages: [{stage: calibrate, options: {kind: magic}}]", "magic"),
        (HEAD + "stages: [{stage: train, gates: gauc >= 0}]", "a list of lines"),
        (HEAD + "stages: [{stage: train, gates: [gauc > 0]}]", "cannot be read"),
        (HEAD + "stages: [{stage: train, gates: [recall >= 0]}]", "cannot be read"),
        (HEAD + "stages: [{stage: train, gates: [gauc drop <= 0]}]", "compares with"),
        (
            HEAD + "stages: [{stage: train}, {stage: calibrate, gates: [ece rise <= 0 against x]}]",
            "compares with 'x'",
        ),
        (HEAD + "stages: [{stage: train}, {stage: train}]", "two stages are called"),
        ("data: x\nseed: one\nthreads: 1\nstages: [{stage: train}]", "seed is 'one'"),
        ("data: x\nseed: 1\nthreads: 0\nstages: [{stage: train}]", "threads is 0"),
        ("data: 5\nseed: 1\nthreads: 1\nstages: [{stage: train}]", "data is 5"),
        (HEAD + "device: gpu\nstages: [{stage: train}]", "use one of cpu, cuda, auto"),
        (HEAD + "stages: [{stage: imitate, options: {labelled: 0}}]", "labelled is 0"),
        (HEAD + "source: [a]\nstages: [{stage: train}]", r"source is \['a'\]"),
        (HEAD + "stages: [{stage: train, name: ../x}]", "'../x' names a folder"),
        (HEAD + "stages: [{stage: train, name: a/b}]", "'a/b' names a folder"),
        (HEAD + "stages: [{stage: train, name: teacher}]", "neither 'teacher' nor"),
        (HEAD + "stages: [{stage: train, gates: [gauc >= .]}]", "cannot be read"),
        (HEAD + "stages: [{stage: train, gates: [gauc >= 1.2.3]}]", "cannot be read"),
        (HEAD + "stages: [{stage: train, gates: [gauc <= 1e999]}]", "cannot be read"),
        (HEAD + "stages: [{stage: train, gates: [grounded >= 0.5]}]", "makes one that ranks"),
        (
            HEAD + "stages: [{stage: distill, gates: [format_validity >= 1], options: {phases: "
            "[{steps: 1}]}}]",
            "distill: gate .* makes one that ranks",
        ),
        (
            HEAD + "stages: [{stage: distill, gates: [gauc >= 0], options: {task: text, phases: "
            "[{steps: 1}]}}]",
            "distill: gate .* makes one that writes; hold one of validation_loss",
        ),
        ("[" * 20_000, "not a recipe"),
        ("data: x\nseed: 2024-13-45\nstages: [{stage: train}]", "not a recipe"),
        pytest.param("seed: " + "9" * 5001, "not a recipe", id="digits"),
        pytest.param(
            f"data: x\nthreads: 1\nseed: 0x{'f' * 5000}\nstages: [{{stage: train}}]",
            "not a recipe",
            id="hexadecimal digits",
        ),
        (f"data: x\nseed: 1\nthreads: {2**40}\nstages: [{{stage: train}}]", "at most 1024"),
        (HEAD + "teacher: {stage: train, name: y, option: 3}\nstages: [{stage: train}]", "option"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        _load(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEAD + "stages: [{stage: train}]\nstages: [{stage: start}]", "'stages' .* in line 5"),
        (HEAD + "stages:\n- stage: train\n  gates: [gauc >= 1]\n  gates: []", "'gates' .* line 7"),
        (
            HEAD + "stages:\n- stage: prune\n  options: {mlp_share: 0.5, 'mlp_share': 0.1}",
            "recipe.yaml: 'mlp_share' is given twice, again in line 6",
        ),
    ],
)
def test_a_key_given_twice_is_refused_by_its_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        _load(tmp_path, content)


def test_a_key_that_is_merged_in_and_given_again_is_given_once(tmp_path: Path) -> None:
    shared = "- &a {stage: train, name: x}\n- &b {<<: *a, name: y}\n- {<<: *b, name: z}"
    recipe = _load(tmp_path, f"{HEAD}stages:\n{shared}")
    assert [title for title, _ in recipe.entries()] == ["x", "y", "z"]


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a recipe"):
        Recipe.load(tmp_path / "recipe.yaml")


def test_stages_may_repeat_under_other_names_and_compare_with_any_before(tmp_path: Path) -> None:
    recipe = _load(
        tmp_path,
        HEAD
        + """
teacher: {stage: train}
stages:
  - {stage: lexicon, gates: [gauc >= 0.5]}
  - {stage: train, name: first, gates: [gauc drop <= 0.1 against teacher]}
  - {stage: train, name: second, gates: [tenant gauc drop <= 0.1, ece rise <= 0.1 against first]}
""",
    )
    assert [title for title, _ in recipe.entries()] == ["teacher", "lexicon", "first", "second"]


def test_pruning_in_steps_is_a_stage_that_is_read_whole(tmp_path: Path) -> None:
    line = "stages: [{{stage: gradual, options: {{steps: 2, prune: {{mlp_share: {share}}}, "
    line += "recover: {{phases: [{{steps: 5}}]}}}}}}]"
    recipe = _load(tmp_path, HEAD + line.format(share=0.5))
    assert recipe.stages[0].kind.parse(recipe.stages[0].options).steps == 2
    with pytest.raises(RecipeError, match="shares of 0 to below 1"):
        _load(tmp_path, HEAD + line.format(share=1.5))


def test_given_directories_are_no_stages_but_can_be_compared_with(tmp_path: Path) -> None:
    stages = "stages: [{stage: train, gates: [gauc drop <= 0, gauc drop <= 0 against teacher]}]"
    recipe = _load(tmp_path, HEAD + "teacher: some/directory\nsource: another\n" + stages)
    assert list(recipe.given()) == ["teacher", "source"]
    assert [title for title, _ in recipe.entries()] == ["train"]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_kept_recipe_is_valid(path: Path) -> None:
    assert Recipe.load(path).stages


def test_the_shipped_rankers_recipe_is_one_job_from_teacher_to_calibration() -> None:
    recipe = Recipe.load(RECIPES / "demo.yaml")
    kinds = [entry.stage for _, entry in recipe.entries()]
    expected = ["encoder_teacher", "imitate", "prune", "recover", "quantize", "calibrate"]
    assert kinds == expected
    assert all(entry.gates for _, entry in recipe.entries())
    assert recipe.given() == {}


def test_the_readmes_recipe_is_valid(tmp_path: Path) -> None:
    readme = (RECIPES.parents[1] / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(data: .*?)```", readme, re.DOTALL)
    assert len(_load(tmp_path, shown).stages) == 5
