"""Finds the operations' modules in this folder. Knows nothing of what they compute."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from kernels.variant import Variant

FOLDER = Path(__file__).parent


def operation_modules() -> Iterator[ModuleType]:
    """Every module that declares compilations, by name; the tools beside them are not imported."""
    for path in sorted(FOLDER.glob("*.py")):
        if "\ndef variants(" in path.read_text(encoding="utf-8"):
            yield importlib.import_module(f"kernels.{path.stem}")


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
