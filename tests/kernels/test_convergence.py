"""A tiny decoder learns the same with and without the kernels. Knows no kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3Config

from kernels.patch import patch

STEPS = 32
CONFIGURATION = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def batches() -> Tensor:
    """(steps, 1, tokens): counting up from a random start, which a model can learn."""
    generator = torch.Generator().manual_seed(11)
    starts = torch.randint(9, (STEPS, 1, 1), generator=generator)
    return (starts + torch.arange(8)) % 101


def trained(*, patched: bool, device: str = "cpu") -> tuple[list[float], list[Tensor]]:
    """Losses of all steps and the parameters after them."""
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(Qwen3Config(**CONFIGURATION)).to(device).train()
    if patched:
        done = patch(model, backend="triton")
        assert sum(done.counts().values()) == 9
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for tokens in batches().to(device):
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, [parameter.detach() for parameter in model.parameters()]


def assert_same_course(device: str, loss_tolerance: float, parameter_tolerance: float) -> None:
    plain, plain_parameters = trained(patched=False, device=device)
    ours, our_parameters = trained(patched=True, device=device)
    assert plain[-1] < 0.8 * plain[0], "nothing was learnt, so nothing is compared"
    worst = max(abs(a - b) for a, b in zip(ours, plain, strict=True))
    print("worst", worst, plain[-1])
    assert worst <= loss_tolerance, f"losses differ by {worst:.2e}"
    for actual, expected in zip(our_parameters, plain_parameters, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=parameter_tolerance)


@pytest.mark.long
def test_losses_and_parameters_follow_the_same_course() -> None:
    assert_same_course("cpu", 1e-5, 5e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_losses_and_parameters_follow_the_same_course_on_a_gpu() -> None:
    assert_same_course("cuda", 1e-4, 5e-3)
