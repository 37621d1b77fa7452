"""Finds the modules of kernels, in whatever room. Knows nothing of what they compute."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from kernels.base.variant import Variant

FOLDER = Path(__file__).parents[1]


def operation_modules() -> Iterator[ModuleType]:
    """Every module that declares compilations, by name; the tools beside them are not imported."""
    for path in sorted(FOLDER.rglob("*.py")):
        if "\ndef variants(" in path.read_text(encoding="utf-8"):
            yield importlib.import_module(dotted_name(path))


def dotted_name(path: Path) -> str:
    """What a module of ours is imported by."""
    return ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts)


def all_variants() -> list[Variant]:
    """The declared compilations, each once: shapes of other run-time sizes alone share one."""
    distinct: dict[tuple[object, ...], Variant] = {}
    for module in operation_modules():
        for variant in module.variants():
            distinct.setdefault(_identity(variant), variant)
    return list(distinct.values())


def _identity(variant: Variant) -> tuple[object, ...]:
    signature, constants = sorted(variant.signature.items()), sorted(variant.constants.items())
    name = (variant.kernel.__module__, variant.kernel.__name__)
    launch = (variant.num_warps, variant.num_stages, variant.maxnreg)
    return (name, str(signature), str(constants), *launch)
