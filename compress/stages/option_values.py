"""Whether options read from YAML or JSON have the names and types that their dataclass states.

Knows the fields' annotations, and what an option of some name is in every stage that has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

LARGEST = 2**63 - 1
# Steps, rows and sizes are divided by these, or into them.
AT_LEAST_ONE = {
    *("steps", "warmup", "checkpoint_every", "slates", "candidates", "batch", "threads"),
    *("steps_per_world", "group_size", "chunk", "worlds", "kept", "vocab_size"),
    *("hidden_size", "intermediate_size", "layers", "heads", "kv_heads"),
}
MOST_THREADS = 1024  # torch's own count ends at 2**31, and no machine's does before this
# What is allocated, or computed with, at once; no model and no machine has more.
AT_MOST = {
    "threads": MOST_THREADS,
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 18,
    "layers": 1024,
    "heads": 1024,
    "kv_heads": 1024,
    "inner": 1 << 18,
    "vectors": 1024,
    "drop_layers": 1024,
}
SHARES = {"inverted_share", "token_dropout", "dropout", "truth_share"}  # of 0 to 1
SHARES_OF_SOMETHING = {"trained_share", "labelled_share"}  # of more than 0
ABOVE_ZERO = {"rate", "head_rate", "bag_rate", "temperature"}
AT_LEAST_ZERO = {  # a rate of nothing keeps a part as it is
    *("embedding_rate", "bag_embedding_rate", "wired_rate", "weight_decay"),
    *("grade_weight", "choice_weight", "ranking_weight"),
}
MEANT = {
    "int": "a whole number of 0 or more",
    "float": "a finite number (with an exponent YAML wants a point: 1.0e-4)",
    "bool": "true or false",
    "str": "a text",
}


def wrong_name(kind: type[Any], raw: Mapping[str, Any]) -> str | None:
    """The first name that is no option, or the first option that must be given and is not."""
    known = {item.name: item for item in fields(kind) if item.init}
    options = f"options are: {', '.join(known)}"
    for name in raw:
        if name not in known:
            return f"option {name!r} is unknown; {options}"
    for name, item in known.items():
        if name not in raw and item.default is MISSING and item.default_factory is MISSING:
            return f"option {name!r} is missing; {options}"
    return None


def wrong_value(kind: type[Any], raw: Mapping[str, Any]) -> str | None:
    """What is wrong with the first value that is no value of its field; None if all are."""
    for item in fields(kind):
        if item.name not in raw:
            continue
        value, parts = raw[item.name], str(item.type).split(" | ")
        if not any(_fits(part, value) for part in parts):
            meant = " or ".join(MEANT.get(part, part) for part in parts)
            return f"{item.name} is {value!r}; write {meant}"
    return None


def wrong_number(kind: type[Any], raw: Mapping[str, Any]) -> str | None:
    """The first number outside what all options of its name allow; a default may be written."""
    defaults = {item.name: item.default for item in fields(kind)}
    for name, value in raw.items():
        if value == defaults.get(name):
            continue
        if type(value) in (int, float) and (meant := _meant(name, value)):
            return f"{name} is {value!r}; write {meant}"
    return None


def _meant(name: str, value: float) -> str | None:
    """What to write instead; None for a number that will do."""
    if name in AT_LEAST_ONE and value < 1:
        return "1 or more"
    if value > AT_MOST.get(name, LARGEST):
        return f"at most {AT_MOST[name]}"
    if name in SHARES and not 0 <= value <= 1:
        return "0 to 1"
    if name in SHARES_OF_SOMETHING and not 0 < value <= 1:
        return "more than 0, and up to 1"
    if name in ABOVE_ZERO and value <= 0:
        return "more than 0"
    if name in AT_LEAST_ZERO and value < 0:
        return "0 or more"
    return None


def _fits(part: str, value: Any) -> bool:
    """`part`: one alternative of an annotation; a class of ours was checked when it was made."""
    if part == "int":
        return type(value) is int and 0 <= value <= LARGEST
    if part == "float":
        return type(value) in (int, float) and abs(value) <= LARGEST and math.isfinite(value)
    if part in ("bool", "str", "None"):
        return type(value).__name__.replace("NoneType", "None") == part
    if part.startswith("Mapping"):
        return isinstance(value, Mapping)
    if part.startswith(("Sequence", "tuple")):
        return isinstance(value, Sequence)
    return is_dataclass(value)
