"""Chooses the arithmetic of linear layers on a device, and says why. Knows no weights.

bf16 is the default. Eight bits by name are refused with the reason where they cannot run. Where
there is a choice, whose product or, asked for the "fastest", how many bits, one layer is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.config import DecoderConfig
from models.engines.arithmetic import Arithmetic, EightBitArithmetic
from models.errors import PrecisionUnavailableError

NAMES = ("fp32", "bf16", "fp8", "int8", "fastest")
PROBE_TOKENS = 2048
PROBE_REPEATS = 20
WORTHWHILE = 1.05  # a layer is more than its products: less than this is not felt


@dataclass(frozen=True, slots=True)
class Precision:
    """What linear layers compute in; `reason` is for logs and reports."""

    name: str
    arithmetic: Arithmetic
    reason: str


def choose_precision(
    asked: str, config: DecoderConfig, device: torch.device, backend: str = "auto"
) -> Precision:
    """One of NAMES. PrecisionUnavailableError, with the reason, for what cannot run here."""
    if asked not in NAMES:
        raise PrecisionUnavailableError(f"precision is {asked!r}; pass one of {', '.join(NAMES)}")
    if asked in ("fp32", "bf16"):
        dtype = torch.float32 if asked == "fp32" else torch.bfloat16
        return Precision(asked, Arithmetic(dtype, backend), "asked for by name")
    return _fastest(asked, _candidates(asked, device, backend), config, device)


def _candidates(asked: str, device: torch.device, backend: str) -> dict[str, Arithmetic]:
    fp8 = EightBitArithmetic(torch.bfloat16, backend, torch.float8_e4m3fn)
    candidates: dict[str, Arithmetic] = {
        "bf16": Arithmetic(torch.bfloat16, backend),
        "fp8": fp8,
        "fp8 by the vendor": replace(fp8, vendor=True),
        "int8": EightBitArithmetic(torch.bfloat16, backend, torch.int8),
    }
    if device.type != "cuda":
        del candidates["fp8 by the vendor"]
    return {n: a for n, a in candidates.items() if asked == "fastest" or n.startswith(asked)}


def _fastest(
    asked: str, candidates: dict[str, Arithmetic], config: DecoderConfig, device: torch.device
) -> Precision:
    """bf16, where it may be chosen, unless another is clearly ahead."""
    found, times = [], {}
    for name, arithmetic in candidates.items():
        refusal = _refusal(arithmetic, config, device)
        if not refusal:
            times[name] = _layer_seconds(arithmetic, config, device)
            refusal = f"takes {times[name] * 1e6:.0f} us"
        found.append(f"{name} {refusal}")
    reason = f"for one layer of {PROBE_TOKENS} tokens {', '.join(found)}"
    if not times:
        raise PrecisionUnavailableError(f"{asked} cannot run on {device}: {reason}")
    best = min(times, key=times.__getitem__)
    if "bf16" in times and times[best] * WORTHWHILE > times["bf16"]:
        best = "bf16"
    return Precision(best, candidates[best], reason)


def _refusal(arithmetic: Arithmetic, config: DecoderConfig, device: torch.device) -> str:
    """Why the device cannot compute like that, or nothing."""
    try:
        for call in _layer_calls(arithmetic, config, device, tokens=32):
            call()
        _synchronize(device)
    except Exception as error:  # a compiler's errors share no root
        return f"cannot run ({str(error).splitlines()[0]})"
    return ""


def _layer_seconds(arithmetic: Arithmetic, config: DecoderConfig, device: torch.device) -> float:
    """Time of one layer's norms, activation and products, the median of some."""
    calls = _layer_calls(arithmetic, config, device, PROBE_TOKENS)
    times = []
    for _ in range(PROBE_REPEATS):
        _synchronize(device)
        started = time.perf_counter()
        for call in calls:
            call()
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _layer_calls(
    arithmetic: Arithmetic, config: DecoderConfig, device: torch.device, tokens: int
) -> list[Callable[[], Tensor]]:
    """The four products of a layer, each with what turns its operand into eight bits."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=arithmetic.dtype)

    hidden, intermediate = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    x, ones = random(tokens, hidden), torch.ones(hidden, device=device, dtype=arithmetic.dtype)
    mixed, gate_up = random(tokens, queries), random(tokens, 2 * intermediate)
    qkv, output, up, down = (
        arithmetic.pack(random(outputs, inputs), device)
        for outputs, inputs in (
            (queries + 2 * keys, hidden),
            (hidden, queries),
            (2 * intermediate, hidden),
            (hidden, intermediate),
        )
    )
    eps = config.rms_norm_eps
    return [
        lambda: arithmetic.linear(arithmetic.norm(x, x, ones, eps)[0], qkv),
        lambda: arithmetic.linear(arithmetic.rows(mixed), output),
        lambda: arithmetic.linear(arithmetic.norm(x, x, ones, eps)[0], up),
        lambda: arithmetic.linear(arithmetic.swiglu(gate_up), down),
    ]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
