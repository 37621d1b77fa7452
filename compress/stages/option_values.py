"""Whether options read from YAML or JSON have the types that their dataclass states.

Knows the fields' annotations, nothing of what an option means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

LARGEST = 2**63 - 1
# Steps and rows are divided by these, or into them.
AT_LEAST_ONE = {"steps", "warmup", "checkpoint_every", "slates", "candidates", "batch", "threads"}
MOST_THREADS = 1024  # torch's own count ends at 2**31, and no machine's does before this
MEANT = {
    "int": "a whole number of 0 or more",
    "float": "a finite number (with an exponent YAML wants a point: 1.0e-4)",
    "bool": "true or false",
    "str": "a text",
}


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


def wrong_count(raw: Mapping[str, Any]) -> str | None:
    """The first count of nothing that something is divided by, or of too many threads."""
    for name in sorted(AT_LEAST_ONE & raw.keys()):
        if raw[name] is not None and raw[name] < 1:
            return f"{name} is {raw[name]!r}; write 1 or more"
    if (raw.get("threads") or 1) > MOST_THREADS:
        return f"threads is {raw['threads']!r}; write at most {MOST_THREADS}"
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
