"""A patched Hugging Face decoder computes what it did, and can be restored. Knows no kernel."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from kernels.patch import DEFAULT, MARK, UnknownModelError, patch

CONFIGURATIONS: dict[str, Callable[..., Any]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
SIZES = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
NORMS = {"llama": 5, "mistral": 5, "qwen2": 5, "qwen3": 9}


def model_of(family: str, **options: Any) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGURATIONS[family](**SIZES, **options))
    for name, parameter in model.named_parameters():
        if "norm" in name:  # all ones would hide a weight that is not applied
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def tokens() -> Tensor:
    return torch.randint(101, (2, 7), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=CONFIGURATIONS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_logits_stay_and_all_modules_are_counted(family: str, backend: str) -> None:
    model = model_of(family)
    with torch.no_grad():
        before = model(tokens()).logits
        done = patch(model, backend=backend)
        after = model(tokens()).logits

    # measured: 3.8e-7 of the largest logit
    assert float((after - before).abs().max()) <= 6e-7 * float(before.abs().max())
    assert done.skipped == {}
    assert done.counts() == {
        "rms_norm": NORMS[family],
        "add_rms_norm": 2,
        "rope": 2,
        "gated_mlp": 2,
        "linear_cross_entropy": 1,
    }


def loss_and_gradients(model: Any, labels: Tensor, **options: Any) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = model(tokens(), labels=labels, **options).loss
    (2 * loss).backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize(
    ("family", "loss", "options"),
    [
        ("qwen3", "linear_cross_entropy", {}),
        ("qwen3", "cross_entropy", {}),
        ("qwen2", "linear_cross_entropy", {"num_items_in_batch": 11}),
        ("llama", "cross_entropy", {"num_items_in_batch": torch.tensor(11)}),
        ("mistral", "linear_cross_entropy", {"ignore_index": 7}),
    ],
    ids=str,
)
def test_loss_and_gradients_stay(family: str, loss: str, options: dict[str, Any]) -> None:
    model, labels = model_of(family).train(), tokens()
    labels[0, :5] = options.get("ignore_index", -100)
    wanted, gradients = loss_and_gradients(model, labels, **options)
    patch(model, [*DEFAULT[:-1], loss], backend="triton")
    found, patched = loss_and_gradients(model, labels, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    for actual, expected in zip(patched, gradients, strict=True):
        # measured: 1.3e-6 of the largest value
        assert float((actual - expected).abs().max()) <= 3e-6 * float(expected.abs().max())


def test_no_logits_exist_in_training_alone() -> None:
    model = model_of("qwen3")
    patch(model)
    assert model.train()(tokens(), labels=tokens()).logits is None
    assert model.eval()(tokens(), labels=tokens()).logits.shape == (2, 7, 101)
    assert isinstance(model.train()(tokens(), labels=tokens(), return_dict=False), tuple)


def forwards(model: nn.Module) -> list[Any]:
    return [module.__dict__.get("forward") for module in model.modules()]


def test_undo_restores_every_forward_and_may_be_called_twice() -> None:
    model = model_of("qwen3")
    done = patch(model)
    assert any(forwards(model))
    done.undo()
    done.undo()
    assert not any(forwards(model))
    assert MARK not in model.__dict__


def test_a_with_block_ends_the_patch_also_after_an_error() -> None:
    model = model_of("llama")

    def fail() -> None:
        with patch(model) as done:
            assert done.counts()["rope"] == 2
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(forwards(model))


def test_a_second_patch_changes_nothing_and_returns_the_first() -> None:
    model = model_of("mistral")
    first = patch(model, ["rms_norm"])
    bound = forwards(model)
    assert patch(model) is first
    assert forwards(model) == bound


def test_another_model_of_the_same_class_is_untouched() -> None:
    model, other = model_of("qwen3"), model_of("qwen3")
    patch(model)
    assert not any(forwards(other))


def test_a_copied_model_runs_on_its_own_weights() -> None:
    model = model_of("qwen3")
    patch(model)
    before = model(tokens()).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(tokens()).logits, before, rtol=0, atol=0)


def gemma() -> Any:
    return AutoModelForCausalLM.from_config(Gemma2Config(**SIZES)).eval()


def test_unknown_models_are_refused_when_strict() -> None:
    model = gemma()
    with pytest.raises(UnknownModelError, match="model is gemma2; strict patching knows llama"):
        patch(model)
    assert not any(forwards(model))


def test_what_an_unknown_model_has_that_is_unlike_ours_is_skipped_with_the_reason() -> None:
    model = gemma()
    before = model(tokens()).logits
    done = patch(model, ["rms_norm", "gated_mlp"], strict=False, backend="triton")
    assert done.counts() == {"gated_mlp": 2}  # GELU's tanh form
    assert len(done.skipped) == 9
    assert done.skipped["model.norm (rms_norm)"] == "Gemma2RMSNorm is no norm of Llama's form"
    torch.testing.assert_close(model(tokens()).logits, before, rtol=1e-5, atol=1e-6)


def test_mixed_precision_falls_back_to_the_models_own_forward() -> None:
    model = model_of("qwen3")
    with torch.autocast("cpu", torch.bfloat16):
        before = model(tokens()).logits
        patch(model, ["rms_norm", "add_rms_norm", "rope"])
        after = model(tokens()).logits
    torch.testing.assert_close(after, before, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        (["rmsnorm"], "ops names rmsnorm; known are rms_norm, add_rms_norm"),
        (["cross_entropy", "linear_cross_entropy"], "a model has one loss"),
    ],
)
def test_unknown_and_conflicting_operations_are_refused(ops: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        patch(model_of("llama"), ops)


def test_the_report_reads_as_a_sentence() -> None:
    done = patch(model_of("llama"), ["rope", "gated_mlp"])
    assert str(done) == "replaced 2 rope, 2 gated_mlp; skipped 0"
