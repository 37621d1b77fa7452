"""A GPU computes in what was asked for, or refuses it."""

from __future__ import annotations

import pytest

from models.checkpoint import ModelDirectory
from models.engines.device_runner import DeviceSettings
from models.engines.device_settings import device_settings
from models.engines.fairslate import FairslateEngine
from models.errors import PrecisionUnavailableError


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("auto", "bf16"), ("float32", "fp32"), ("bfloat16", "bf16"), ("int8", "int8"), ("fp8", "fp8")],
)
def test_a_device_computes_in_the_dtype_that_was_asked_for(dtype: str, precision: str) -> None:
    settings = device_settings("cuda:1", dtype, False, 300)
    assert settings == DeviceSettings("cuda:1", precision=precision, max_context_tokens=300)


@pytest.mark.parametrize(
    ("dtype", "deterministic", "said"),
    [
        ("float16", False, "'float16'; on cuda pass one of auto"),
        ("auto", True, "deterministic at 0"),
    ],
)
def test_what_a_device_does_not_offer_is_refused_and_not_swallowed(
    tiny_directory: ModelDirectory, dtype: str, deterministic: bool, said: str
) -> None:
    with pytest.raises(PrecisionUnavailableError, match=said):
        FairslateEngine(
            tiny_directory, 1 << 22, device="cuda", dtype=dtype, deterministic=deterministic
        )
