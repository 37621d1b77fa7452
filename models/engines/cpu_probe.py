"""Chooses how a CPU computes linear layers, and says why. Knows no weights and starts no pass.

The choice is made by what the machine has, never by a clock: two workers of one pool must not
score in different arithmetic because one of them started beside a busy neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.config import DecoderConfig
from models.engines.cpu_decoder import LARGEST_HEAD, MOST_QUERIES, SUB_PAGE
from models.errors import PrecisionUnavailableError
from models.native.library import cpu_features, native_library

DTYPES = {"int8": torch.int8, "bfloat16": torch.bfloat16, "float32": torch.float32}
BACKENDS = ("native", "torch")
AUTO = "auto"
# What makes a type fast; without it products of that type run slower than those of the next one.
INT8_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")


@dataclass(frozen=True, slots=True)
class CpuOption:
    """One way to compute, and whether it runs here."""

    dtype: str  # of DTYPES: linear layers' weights and activations
    backend: str  # of BACKENDS: "native" is our C++, "torch" is torch operation by operation
    runs: bool
    fast: bool  # the CPU has instructions for the type
    reason: str


@dataclass(frozen=True, slots=True)
class CpuChoice:
    """What linear layers compute in and who computes; `reason` is for logs and reports."""

    dtype: str
    backend: str
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of linear layers."""
        return DTYPES[self.dtype]

    @property
    def description(self) -> Mapping[str, str]:
        """As `/v1/models` shows it."""
        return {"dtype": self.dtype, "backend": self.backend, "reason": self.reason}


def available(config: DecoderConfig, block_size: int) -> tuple[CpuOption, ...]:
    """Every way to compute this model here, the one preferred by `auto` first."""
    refusal = _native_refusal(config, block_size)
    options = [_option(dtype, backend, refusal) for backend in BACKENDS for dtype in DTYPES]
    return tuple(sorted(options, key=lambda option: (not option.runs, not option.fast)))


def choose_cpu(
    config: DecoderConfig, block_size: int, dtype: str = AUTO, backend: str = AUTO
) -> CpuChoice:
    """The first option of that dtype and backend, each a name or "auto".

    PrecisionUnavailableError, with the reason, for unknown names and for what cannot run here.
    """
    _check_name("dtype", dtype, DTYPES)
    _check_name("backend", backend, BACKENDS)
    options = available(config, block_size)
    fitting = [o for o in options if dtype in (AUTO, o.dtype) and backend in (AUTO, o.backend)]
    first = fitting[0]
    if not first.runs:
        raise PrecisionUnavailableError(f"{first.dtype} by {first.backend}: {first.reason}")
    others = [o for o in options if o.backend == "native" and not o.runs]
    without = f"; not native: {others[0].reason}" if first.backend == "torch" and others else ""
    return CpuChoice(first.dtype, first.backend, first.reason + without)


def _option(dtype: str, backend: str, refusal: str) -> CpuOption:
    present = cpu_features()
    wanted = {"int8": INT8_FEATURES, "bfloat16": BF16_FEATURES}.get(dtype, ())
    has = [name for name in wanted if name in present]
    fast = bool(has) or dtype == "float32"
    if backend == "native":
        if not refusal and dtype == "bfloat16" and "avx512_bf16" not in present:
            refusal = "the CPU lacks avx512_bf16"
        return CpuOption(dtype, backend, not refusal, fast, refusal or "compiled for this CPU")
    reason = f"the CPU has {', '.join(has)}" if has else "runs on any CPU"
    return CpuOption(dtype, backend, True, fast, reason)


def _native_refusal(config: DecoderConfig, block_size: int) -> str:
    """Why the C++ decoder cannot run this model here, or nothing."""
    if block_size % SUB_PAGE:
        return f"block_size {block_size} is no multiple of {SUB_PAGE}"
    group = config.num_attention_heads // config.num_key_value_heads
    if group > MOST_QUERIES or config.head_dim > LARGEST_HEAD or config.head_dim % 2:
        return f"{group} query heads to a key head or head_dim {config.head_dim} is not served"
    try:
        native_library()
    except PrecisionUnavailableError as error:
        return str(error)
    return ""


def _check_name(what: str, name: str, known: Mapping[str, object] | tuple[str, ...]) -> None:
    if name != AUTO and name not in known:
        raise PrecisionUnavailableError(
            f"{what} is {name!r}; pass one of {AUTO}, {', '.join(known)}"
        )
