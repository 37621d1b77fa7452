"""What a service's settings are on a GPU, and which it does not offer. Knows no weights."""

from __future__ import annotations

from models.engines.device_runner import DeviceSettings
from models.errors import PrecisionUnavailableError

# What a dtype by name is on a GPU, of models.engines.precision.NAMES.
DEVICE_PRECISIONS = {
    "auto": "bf16",
    "float32": "fp32",
    "bfloat16": "bf16",
    "int8": "int8",
    "fp8": "fp8",
}


def device_settings(device: str, dtype: str, deterministic: bool, longest: int) -> DeviceSettings:
    """Of an engine beside the CPU; dtype: one of DEVICE_PRECISIONS. longest: tokens of a context.

    Raises PrecisionUnavailableError for what a GPU does not offer.
    """
    if dtype not in DEVICE_PRECISIONS:
        raise PrecisionUnavailableError(
            f"dtype is {dtype!r}; on {device} pass one of {', '.join(DEVICE_PRECISIONS)}"
        )
    if deterministic:
        raise PrecisionUnavailableError(
            f"on {device} the last bits of a score depend on its batch; leave deterministic at 0, "
            "or take the device cpu"
        )
    precision = DEVICE_PRECISIONS[dtype]
    return DeviceSettings(device, precision=precision, max_context_tokens=longest)
