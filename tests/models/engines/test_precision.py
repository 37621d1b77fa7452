"""Eight-bit arithmetic stays near full width, and the choice between them gives its reason."""

from __future__ import annotations

import pytest
import torch

from models.config import DecoderConfig
from models.engines.arithmetic import Arithmetic, EightBitArithmetic
from models.engines.precision import NAMES, choose_precision
from models.errors import PrecisionUnavailableError

CPU = torch.device("cpu")
# Largest error over the largest value; measured 0.056 (fp8) and 0.0141 (int8).
BOUNDS = {torch.float8_e4m3fn: 0.112, torch.int8: 0.028}


def operands(rows: int = 33) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 64, generator=generator) * torch.logspace(-3, 3, rows)[:, None]
    return x, torch.randn(48, 64, generator=generator)


@pytest.mark.parametrize("narrow", BOUNDS)
def test_products_at_eight_bits_stay_near(narrow: torch.dtype) -> None:
    x, weight = operands()
    arithmetic = EightBitArithmetic(torch.float32, narrow=narrow)
    got = arithmetic.linear(arithmetic.rows(x), arithmetic.pack(weight, CPU))
    exact = x @ weight.T
    error = (got - exact).abs().amax(1) / exact.abs().amax(1)
    assert 0 < float(error.max()) < BOUNDS[narrow]


@pytest.mark.parametrize("narrow", BOUNDS)
def test_norm_and_activation_feed_the_products(narrow: torch.dtype) -> None:
    x, _ = operands()
    full, eight = Arithmetic(torch.float32), EightBitArithmetic(torch.float32, narrow=narrow)
    weight = torch.linspace(0.5, 2, 64)
    for residual in (None, x.flip(0)):
        (want, total), (got, same) = (a.norm(x, residual, weight, 1e-6) for a in (full, eight))
        assert torch.equal(total, same)
        assert_near(got.values.float(), got.scales, want.values, narrow)
    got, want = eight.swiglu(x), full.swiglu(x)
    assert_near(got.values.float(), got.scales, want.values, narrow)


def assert_near(
    values: torch.Tensor, scales: torch.Tensor | None, want: torch.Tensor, narrow: torch.dtype
) -> None:
    assert scales is not None
    largest = want.abs().amax(1, keepdim=True)
    step = 2**-4 if narrow == torch.float8_e4m3fn else 0.5 / 127
    assert float(((values * scales[:, None] - want).abs() / largest).max()) <= step * 1.001


def test_a_name_is_taken_at_its_word(tiny_config: DecoderConfig) -> None:
    for name in ("fp32", "bf16", "fp8", "int8"):
        assert choose_precision(name, tiny_config, CPU).name == name
    assert choose_precision("fp32", tiny_config, CPU).arithmetic.dtype == torch.float32


def test_an_unknown_name_is_refused(tiny_config: DecoderConfig) -> None:
    with pytest.raises(PrecisionUnavailableError, match="'fp4'; pass one of fp32, bf16, fp8"):
        choose_precision("fp4", tiny_config, CPU)


def test_what_cannot_run_is_refused_with_the_reason(
    tiny_config: DecoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old(*_: object) -> None:
        raise RuntimeError("float8_e4m3fn needs compute capability 8.9; cuda:0 has 8.0")

    monkeypatch.setattr(EightBitArithmetic, "linear", too_old)
    with pytest.raises(PrecisionUnavailableError, match=r"fp8 cannot run on cpu: .* has 8\.0"):
        choose_precision("fp8", tiny_config, CPU)
    chosen = choose_precision("fastest", tiny_config, CPU)
    assert chosen.name == "bf16"
    assert "int8 cannot run (float8_e4m3fn needs" in chosen.reason


def test_the_fastest_says_what_it_measured(tiny_config: DecoderConfig) -> None:
    chosen = choose_precision("fastest", tiny_config, CPU)
    assert chosen.name in NAMES
    assert all(f"{name} takes" in chosen.reason for name in ("bf16", "fp8", "int8"))
