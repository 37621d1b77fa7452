"""A linear layer at eight bits, and who is chosen to compute it. Knows nothing of models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kernels.bench.gemm_measure import layers
from kernels.eight_bits import gemm_choice
from kernels.eight_bits.gemm_choice import choose_provider
from kernels.eight_bits.quantize import quantize_rows_reference
from kernels.quantized_linear import QuantizedWeight, quantized_linear, vendor_gemm
from tests.kernels.truth import draw, rmse_ratio

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
# RMSE ratio of eight bits themselves on normal values: twice the measured 0.0111 and 0.0373.
ERRORS = {torch.int8: 0.0222, torch.float8_e4m3fn: 0.0746}


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of choices to fill, in place of the one that is kept, on a GPU named "tested"."""
    path = tmp_path / "choices.json"
    monkeypatch.setattr(gemm_choice, "CHOICES", path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "tested")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gemm_choice._measured.cache_clear()
    yield path
    gemm_choice._measured.cache_clear()


def record(rows: int, **microseconds: float) -> dict[str, object]:
    layer = {"gpu": "tested", "kind": "int8", "columns": 3072, "depth": 1024}
    return {**layer, "rows": rows, "microseconds": microseconds}


def test_the_fastest_measured_provider_is_chosen(records: Path) -> None:
    found = [
        record(256, dense=5.0, ours=6.0),
        record(512, dense=9.0, ours=6.0, vendor=7.0),
        record(2048, dense=30.0, ours=20.0, vendor=19.0),
    ]
    records.write_text(json.dumps(found))
    chosen = {
        rows: choose_provider(torch.int8, rows, 3072, 1024, GPU)
        for rows in (100, 256, 511, 512, 2047, 9000)
    }
    assert chosen == {
        100: "dense", 256: "dense", 511: "dense", 512: "ours", 2047: "ours", 9000: "vendor"
    }  # fmt: skip


def test_what_was_never_measured_follows_the_rule(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write_text(json.dumps([record(1024, dense=1.0, ours=2.0)]))
    fp8 = torch.float8_e4m3fn
    assert choose_provider(torch.int8, 1024, 3072, 1024, GPU) == "dense"
    assert choose_provider(torch.int8, 1024, 1024, 1024, GPU) == "ours"
    assert choose_provider(torch.int8, 1023, 1024, 1024, GPU) == "dense"
    assert choose_provider(fp8, 1024, 3072, 1024, GPU) == "vendor"
    assert choose_provider(fp8, 1024, 3070, 1024, GPU) == "dense"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert choose_provider(fp8, 1024, 3072, 1024, GPU) == "dense"


def test_an_h200_takes_bf16_where_eight_bits_were_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    gemm_choice._measured.cache_clear()
    few, many = (choose_provider(torch.int8, rows, 1024, 2048, GPU) for rows in (64, 8192))
    assert (few, many) == ("dense", "ours")
    assert choose_provider(torch.float8_e4m3fn, 8192, 6144, 1024, GPU) == "vendor"


def test_a_cpu_multiplies_int8_only() -> None:
    assert choose_provider(torch.int8, 1, 8, 8, CPU) == "ours"
    assert choose_provider(torch.float8_e4m3fn, 1000, 8, 8, CPU) == "dense"
    with pytest.raises(TypeError, match=r"kind is torch\.uint8"):
        choose_provider(torch.uint8, 1, 8, 8, CPU)


def test_the_kept_choices_are_well_formed() -> None:
    for kept in json.loads(gemm_choice.CHOICES.read_text(encoding="utf-8")):
        assert kept["kind"] in {"int8", "fp8"}
        assert (kept["columns"], kept["depth"]) in layers()
        assert {"dense", "ours"} <= kept["microseconds"].keys() <= {"dense", "ours", "vendor"}


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("kind", list(ERRORS), ids=str)
def test_quantizing_costs_little_accuracy(kind: torch.dtype, backend: str) -> None:
    x, weight, bias, residual = draw(9, 96), draw(70, 96, seed=1), draw(70), draw(9, 70, seed=2)
    layer = QuantizedWeight.of(weight, kind, keep_dense=False)
    exact = F.linear(x.double(), weight.double(), bias.double()) + residual.double()
    actual = quantized_linear(x, layer, bias=bias, residual=residual, backend=backend)
    assert actual.dtype == x.dtype
    assert rmse_ratio(actual, exact) <= ERRORS[kind]


def test_the_dense_weight_serves_small_batches() -> None:
    x, weight, residual = draw(9, 96), draw(70, 96, seed=1), draw(9, 70, seed=2)
    layer = QuantizedWeight.of(weight, torch.float8_e4m3fn)
    dense = quantized_linear(x, layer, residual=residual)
    assert torch.equal(dense, F.linear(x, weight) + residual)
    forced = quantized_linear(x, layer, residual=residual, provider="ours")
    assert not torch.equal(forced, dense)


def test_int8_sums_of_the_vendor_are_ours() -> None:
    x, layer = draw(32, 96), QuantizedWeight.of(draw(64, 96, seed=1), torch.int8)
    vendor = quantized_linear(x, layer, provider="vendor")
    assert rmse_ratio(vendor, quantized_linear(x, layer, provider="ours")) <= 1e-7


def test_another_width_is_refused() -> None:
    layer = QuantizedWeight.of(draw(70, 96), torch.int8)
    with pytest.raises(ValueError, match=r"x has shape \(3, 95\); it must be \(rows, 96\)"):
        quantized_linear(torch.ones(3, 95), layer)
    with pytest.raises(ValueError, match="weight has shape"):
        QuantizedWeight.of(torch.ones(3), torch.int8)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", list(ERRORS), ids=str)
@pytest.mark.parametrize("provider", ["ours", "vendor"])
def test_providers_agree_on_a_gpu(provider: gemm_choice.Provider, kind: torch.dtype) -> None:
    x, weight = draw(512, 1024).bfloat16().cuda(), draw(3072, 1024, seed=1).bfloat16().cuda()
    layer = QuantizedWeight.of(weight, kind)
    actual = quantized_linear(x, layer, provider=provider)
    assert rmse_ratio(actual, x.double() @ weight.double().T) <= ERRORS[kind]


@pytest.mark.gpu
def test_short_sums_of_the_vendor_round_off_little() -> None:
    """Next to the 0.037 that rounding to eight bits costs; bf16 alone is 0.0017."""
    a, b = (draw(n, 3072, seed=n).cuda() for n in (512, 1024))
    (a, a_scales), (b, b_scales) = (quantize_rows_reference(x, torch.float8_e4m3fn) for x in (a, b))
    exact = (a.double() * a_scales[:, None]) @ (b.double() * b_scales[:, None]).T
    assert rmse_ratio(vendor_gemm(a, b, a_scales, b_scales), exact) <= 4e-3
