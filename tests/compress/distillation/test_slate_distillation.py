"""Distillation on slates: what every loss is, what is masked, and that it lowers the divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from compress.data.requests import RELEVANT
from compress.data.text_slates import GeneratedSlates, RequestSlates, TextSlates
from compress.decoders.slates import layer_states, score_slates
from compress.decoders.wiring import layers_of
from compress.distillation.distill_options import DistillOptions
from compress.distillation.hidden_states import refuse_other_states
from compress.distillation.slate_distillation import SlateTask, packed, rank_as
from compress.distillation.teachers import (
    LogOdds,
    TeacherError,
    VocabularyTeacher,
    WeightedTeacher,
)
from compress.stages.ranker_card import new_card
from compress.stages.stage import RecipeError
from models.checkpoint import load_decoder, load_model_directory, save_model_directory
from models.decoder import Decoder
from models.directory import ModelDirectory
from tests.compress.slate_data import write_slates

CONTEXTS = ["Welder of steel.", "Nurse."]
SLATES = [["Weld steel.", "Nurse patients."], ["Write reports.", "Cut and braze."]]
GRADES = np.array([[4, 0], [0, 2]])


@dataclass
class _Fixed:
    def draw(self, step: int, count: int, width: int) -> TextSlates:
        return TextSlates(CONTEXTS, SLATES, GRADES, None)


@dataclass
class _Saying:
    """Answers what it was told to."""

    log_odds: LogOdds
    digest: str = "saying"

    def label_log_odds(
        self,
        prefixes: Sequence[str],
        candidates: Sequence[Sequence[str]],
        prompt: str | None = None,
    ) -> list[LogOdds]:
        return list(self.log_odds)


TAUGHT = np.array([[2.0, -1.0], [-0.5, 0.25]], dtype=np.float32)


@pytest.fixture(scope="module")
def directory(
    tmp_path_factory: pytest.TempPathFactory, wired: Decoder, word_tokenizer: Tokenizer
) -> ModelDirectory:
    path = tmp_path_factory.mktemp("slates")
    word_tokenizer.save(str(path / "tokenizer.json"))
    card = replace(new_card("small", "1"), lineage={"stages": []})
    save_model_directory(path / "model", wired, path / "tokenizer.json", card)
    return load_model_directory(path / "model")


def _task(
    directory: ModelDirectory,
    phase: dict[str, Any],
    teachers: Sequence[WeightedTeacher] = (WeightedTeacher(_Saying(TAUGHT), 1.0),),
    vocabulary: VocabularyTeacher | None = None,
) -> SlateTask:
    options = DistillOptions.parse({"phases": [{"steps": 5} | phase], "token_dropout": 0.0})
    decoder = load_decoder(directory).train().requires_grad_(True)
    held = [vocabulary] * len(teachers)
    return SlateTask(decoder, directory.prompt, _Fixed(), teachers, held, options, 1)


def _raw_logits(task: SlateTask) -> torch.Tensor:
    batch = packed(task.prompt, _Fixed().draw(0, 0, 0))
    return score_slates(task.decoder, batch, task.prompt.label_ids)


@pytest.mark.parametrize("phase", [{"soft_share": 0.0}, {"soft_share": 0.5}])
def test_a_step_computes_on_the_device_of_its_decoder(
    directory: ModelDirectory, phase: dict[str, Any]
) -> None:
    """`meta` stands for a GPU: it too refuses operands of two devices."""
    task, meta = _task(directory, phase), torch.device("meta")
    task.decoder.to(meta)
    with meta:
        loss = task.loss(0)
    assert loss.device == meta
    loss.backward()  # type: ignore[no-untyped-call]


def test_two_labels_are_binary_cross_entropy_with_soft_targets(directory: ModelDirectory) -> None:
    task = _task(directory, {"soft_share": 1.0})
    p = torch.from_numpy(TAUGHT).sigmoid()
    entropy = F.binary_cross_entropy(p, p)
    expected = F.binary_cross_entropy_with_logits(_raw_logits(task), p) - entropy
    torch.testing.assert_close(task.loss(0), expected, rtol=1e-5, atol=1e-6)


def test_forward_and_reverse_point_the_right_way(directory: ModelDirectory) -> None:
    p, q = torch.from_numpy(TAUGHT).sigmoid().flatten(), None
    for kind, swap in (("forward_kl", False), ("reverse_kl", True)):
        task = _task(directory, {"soft_share": 1.0, "divergence": kind})
        q = _raw_logits(task).sigmoid().flatten()
        one, other = (q, p) if swap else (p, q)
        expected = one * (one / other).log() + (1 - one) * ((1 - one) / (1 - other)).log()
        torch.testing.assert_close(task.loss(0), expected.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["listnet", "ranknet", "margin_mse", "lambdaloss"])
def test_ranking_losses_are_added_with_their_weight(directory: ModelDirectory, kind: str) -> None:
    plain = _task(directory, {"soft_share": 1.0})
    ranked = _task(directory, {"soft_share": 1.0, "ranking": kind, "ranking_weight": 3.0})
    added = rank_as(_raw_logits(plain).flatten(), TAUGHT, kind, 1.0)
    assert added > 0
    torch.testing.assert_close(ranked.loss(0), plain.loss(0) + 3 * added, rtol=1e-5, atol=1e-5)


def test_the_truth_is_mixed_in_by_its_share(directory: ModelDirectory) -> None:
    whole, none, some = (_task(directory, {"soft_share": r}).loss(0) for r in (1.0, 0.0, 0.25))
    torch.testing.assert_close(some, 0.25 * whole + 0.75 * none)


def _gradients(task: SlateTask) -> list[torch.Tensor]:
    weights = list(task.decoder.parameters())
    return list(
        torch.autograd.grad(task.loss(0), weights, allow_unused=True, materialize_grads=True)
    )


def test_masked_candidates_have_no_gradient(directory: ModelDirectory) -> None:
    other = TAUGHT.copy()
    other[0, 0] = -9.0  # grade 4, which is masked
    masked = frozenset({4})
    phase = {"soft_share": 1.0, "ranking": "listnet"}
    one, same = (
        _gradients(_task(directory, phase, [WeightedTeacher(_Saying(said), 1.0, masked)]))
        for said in (TAUGHT, other)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    everything = frozenset(GRADES.flatten().tolist())
    silent = _task(directory, phase, [WeightedTeacher(_Saying(TAUGHT), 1.0, everything)])
    assert all(float(gradient.abs().max()) == 0 for gradient in _gradients(silent))


def test_teachers_count_by_their_weights(directory: ModelDirectory) -> None:
    phase = {"soft_share": 1.0}
    alone = [
        _task(directory, phase, [WeightedTeacher(_Saying(said), 5.0)]).loss(0)
        for said in (TAUGHT, -TAUGHT)
    ]
    both = [WeightedTeacher(_Saying(TAUGHT), 3.0), WeightedTeacher(_Saying(-TAUGHT), 1.0)]
    expected = 0.75 * alone[0] + 0.25 * alone[1]
    torch.testing.assert_close(_task(directory, phase, both).loss(0), expected)


def test_the_whole_vocabulary_can_be_taught(directory: ModelDirectory) -> None:
    phase = {"soft_share": 1.0, "scope": "vocabulary"}
    itself = VocabularyTeacher(directory, load_decoder(directory))
    task = _task(directory, phase, vocabulary=itself)
    assert float(task.loss(0)) == pytest.approx(0, abs=1e-6)
    other = load_decoder(directory)
    other.model.norm.weight.data *= 0.5
    apart = _task(directory, phase, vocabulary=VocabularyTeacher(directory, other))
    assert float(apart.loss(0)) > 1e-3


def test_hidden_states_are_added_with_their_weight(directory: ModelDirectory) -> None:
    phase = {"soft_share": 1.0, "hidden_weight": 3.0}
    itself = VocabularyTeacher(directory, load_decoder(directory))
    unheard = [WeightedTeacher(_Saying(TAUGHT), 1.0)]  # the decoder itself says what its labels are
    assert float(_task(directory, phase, unheard, itself).loss(0)) == pytest.approx(0, abs=1e-6)
    other = load_decoder(directory)
    layers_of(other)[0].mlp.down_proj.weight.data += 0.05
    task = _task(directory, phase, unheard, VocabularyTeacher(directory, other))
    batch = packed(task.prompt, _Fixed().draw(0, 0, 0))
    with torch.no_grad():
        ours, theirs = (list(layer_states(one, batch)) for one in (task.decoder, other))
        said = score_slates(other, batch, task.prompt.label_ids).numpy()
    errors = [
        float((one - two).square().sum() / two.square().sum())
        for one, two in zip(ours, theirs, strict=True)
    ]
    assert len(errors) == directory.config.num_hidden_layers
    assert all(errors)
    labels = _task(directory, {"soft_share": 1.0}, [WeightedTeacher(_Saying(said), 1.0)]).loss(0)
    expected = float(labels) + 3 * sum(errors) / len(errors)
    assert float(task.loss(0)) == pytest.approx(expected, rel=1e-4)


def test_hidden_states_of_other_prompts_or_sizes_are_refused(directory: ModelDirectory) -> None:
    refuse_other_states(directory, directory)
    deeper = replace(directory.config, num_hidden_layers=9)
    prompts = dict(list(directory.card.prompts.items())[:1])
    for other in (
        replace(directory, config=deeper),
        replace(directory, card=replace(directory.card, prompts=prompts)),
    ):
        with pytest.raises(TeacherError, match="hidden_weight: 0"):
            refuse_other_states(other, directory)


def test_dropout_leaves_the_template_alone(directory: ModelDirectory) -> None:
    random = np.random.default_rng(0)
    batch = packed(directory.prompt, _Fixed().draw(0, 0, 0), 0.999, random)
    empty = directory.prompt.encode_context("").ids
    ends = directory.prompt.encode_candidates([""])[0].ids
    assert len(batch.token_ids) == len(CONTEXTS) * len(empty) + 4 * len(ends)


def test_slates_repeat_by_step_and_not_by_order(small_data: Path, demo_data: Path) -> None:
    generated = GeneratedSlates.load(small_data, 5, 3, 0.5)
    early, late = generated.draw(1, 2, 4), generated.draw(7, 2, 4)
    again = GeneratedSlates.load(small_data, 5, 3, 0.5)
    assert again.draw(7, 2, 4).candidates == late.candidates
    assert again.draw(1, 2, 4).candidates == early.candidates
    assert early.contexts != late.contexts
    assert {generated.draw(step, 1, 4).prompt for step in range(20)} == {
        "member_to_jobs",
        "job_to_members",
    }


def test_request_slates_are_recorded_ones(demo_data: Path) -> None:
    source = RequestSlates.load(demo_data, 3)
    drawn = source.draw(4, 3, 10)
    assert drawn.grades.shape == (3, 10)
    known = {request.context: request for request in source.requests}
    for context, slate, grades in zip(drawn.contexts, drawn.candidates, drawn.grades, strict=True):
        request = known[context]
        by_text = dict(zip(request.candidates, request.grades, strict=True))
        assert [by_text[text] for text in slate] == grades.tolist()


def test_a_share_of_labels_is_of_whole_groups_and_of_every_seed(demo_data: Path) -> None:
    parts = [RequestSlates.load(demo_data, 3, share).requests for share in (0.1, 0.3, 1.0)]
    few, some, all_of_them = [{request.group for request in part} for part in parts]
    assert few < some < all_of_them
    assert 0.05 < len(few) / len(all_of_them) < 0.15
    assert len(parts[0]) == sum(request.group in few for request in parts[2])
    assert RequestSlates.load(demo_data, 4, 0.1).requests == parts[0]


def test_a_label_of_one_is_relevant_to_losses(tmp_path: Path) -> None:
    drawn = RequestSlates.load(write_slates(tmp_path / "data"), 3).draw(0, 2, 10)
    assert np.unique(drawn.grades).tolist() == [0, RELEVANT]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "phases"),
        ({"phases": []}, "at least one"),
        ({"phases": [{"steps": 0}]}, "more than 0"),
        ({"phases": [{"steps": 1}], "labelled_share": 0.5}, "slates_of: requests"),
        ({"phases": [{"steps": 1}], "labelled_share": 0.0}, "above 0 to 1"),
        ({"phases": [{"steps": 1, "divergence": "kl"}]}, "forward_kl"),
        ({"phases": [{"steps": 1, "divergence": "tvd", "mixture": 0.5}]}, "mixture"),
        ({"phases": [{"steps": 1, "soft_share": 1.5}]}, "soft_share"),
        ({"phases": [{"steps": 1, "colour": 1}]}, "colour"),
        ({"phases": [{"steps": 1}], "teachers": []}, "no teacher; name one"),
        ({"phases": [{"steps": 1, "prefix_source": "student"}]}, "must be data"),
        ({"phases": [{"steps": 1, "ranking": "listnet"}], "task": "text"}, "leave ranking out"),
        ({"phases": [{"steps": 1, "hidden_weight": 1.0}], "task": "text"}, "hidden_weight: 0"),
        ({"phases": [{"steps": 1, "hidden_weight": -1.0}]}, "0 or more"),
        ({"phases": [{"steps": 1}], "teachers": [{"weight": -1.0}]}, "weight"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_step(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        DistillOptions.parse(raw)
