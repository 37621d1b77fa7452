"""The structures of `model.hpp`, field by field. Knows no weights and no compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

_Pointer, _Int, _Float = ctypes.c_void_p, ctypes.c_int32, ctypes.c_float
_Fields = Sequence[tuple[str, Any]]


class LinearLayout(ctypes.Structure):
    """struct Linear."""

    _fields_: ClassVar[_Fields] = [
        *((name, _Pointer) for name in ("panels", "scales", "starts", "bias")),
        ("outputs", _Int),
        ("inputs", _Int),
    ]


class LayerLayout(ctypes.Structure):
    """struct Layer."""

    _fields_: ClassVar[_Fields] = [
        *((name, _Pointer) for name in ("input_norm", "attention_norm", "q_norm", "k_norm")),
        *((name, LinearLayout) for name in ("qkv", "output", "gate_up", "down")),
    ]


class ModelLayout(ctypes.Structure):
    """struct Model."""

    _fields_: ClassVar[_Fields] = [
        ("layer", ctypes.POINTER(LayerLayout)),
        *((name, _Pointer) for name in ("embedding", "cosines", "sines")),
        *((name, _Int) for name in ("layers", "hidden", "true_hidden", "intermediate")),
        *((name, _Int) for name in ("heads", "kv_heads", "head_dim", "true_head_dim")),
        ("embedding_is_bf16", _Int),
        ("eps", _Float),
        ("stored", _Pointer),
        ("vocabulary", _Int),
    ]


class PoolLayout(ctypes.Structure):
    """struct Pool."""

    _fields_: ClassVar[_Fields] = [
        ("keys", _Pointer),
        ("values", _Pointer),
        ("pages", _Int),
        ("page_size", _Int),
    ]


class PassLayout(ctypes.Structure):
    """struct Pass."""

    _fields_: ClassVar[_Fields] = [
        *((name, _Pointer) for name in ("token_ids", "starts", "prefixes", "page_offsets")),
        ("page_ids", _Pointer),
        *((name, _Int) for name in ("kept", "segments", "tile_rows", "threads")),
        ("hidden", _Pointer),
    ]
