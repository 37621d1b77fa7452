"""What a CPU is found to do, and which of it is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.config import DecoderConfig
from models.engines import cpu_probe
from models.engines.cpu_probe import available, choose_cpu
from models.errors import PrecisionUnavailableError
from tests.models.engines.native import PLAIN

ALL = frozenset(("avx512_vnni", "avx512_bf16"))


def machine(
    monkeypatch: pytest.MonkeyPatch, features: frozenset[str], refusal: str | None = None
) -> None:
    def library() -> None:
        if refusal:
            raise PrecisionUnavailableError(refusal)

    monkeypatch.setattr(cpu_probe, "cpu_features", lambda: features)
    monkeypatch.setattr(cpu_probe, "native_library", library)


@pytest.mark.parametrize(
    ("features", "refusal", "dtype", "backend"),
    [
        (ALL, None, "int8", "native"),
        (frozenset(("avx512_vnni",)), None, "int8", "native"),
        (ALL, "no C++ compiler", "int8", "torch"),
        (frozenset(("avx512_bf16",)), "the CPU lacks avx512_vnni", "bfloat16", "torch"),
        (frozenset(("avx2",)), "the CPU lacks avx512f", "float32", "torch"),
        (frozenset(), "the CPU lacks avx512f", "float32", "torch"),
    ],
)
def test_auto_takes_what_the_machine_is_fast_at(
    features: frozenset[str],
    refusal: str | None,
    dtype: str,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, features, refusal)
    choice = choose_cpu(PLAIN, 16)
    assert (choice.dtype, choice.backend) == (dtype, backend)
    assert (refusal or "") in choice.reason
    assert choice.description == {"dtype": dtype, "backend": backend, "reason": choice.reason}


def test_a_dtype_by_name_is_taken_from_who_can(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, frozenset(("avx512_vnni",)))
    assert choose_cpu(PLAIN, 16, "bfloat16").backend == "torch"
    assert choose_cpu(PLAIN, 16, "float32").backend == "native"
    with pytest.raises(PrecisionUnavailableError, match="lacks avx512_bf16"):
        choose_cpu(PLAIN, 16, "bfloat16", "native")


@pytest.mark.parametrize(
    ("config", "block_size", "reason"),
    [
        (PLAIN, 8, "block_size 8"),
        (replace(PLAIN, head_dim=1024), 16, "head_dim 1024"),
        (replace(PLAIN, num_attention_heads=100, num_key_value_heads=1), 16, "100 query heads"),
    ],
)
def test_models_beyond_the_native_decoder_run_on_torch(
    config: DecoderConfig,
    block_size: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, ALL)
    choice = choose_cpu(config, block_size)
    assert choice.backend == "torch"
    assert reason in choice.reason
    with pytest.raises(PrecisionUnavailableError, match=reason):
        choose_cpu(config, block_size, backend="native")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PrecisionUnavailableError, match="dtype is 'fp8'; pass one of auto, int8"):
        choose_cpu(PLAIN, 16, "fp8")
    with pytest.raises(PrecisionUnavailableError, match="backend is 'gpu'"):
        choose_cpu(PLAIN, 16, backend="gpu")


def test_every_option_says_why() -> None:
    options = available(PLAIN, 16)
    assert len({(option.dtype, option.backend) for option in options}) == 6
    assert all(option.reason for option in options)
