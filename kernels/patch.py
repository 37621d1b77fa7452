"""Puts these kernels into one Hugging Face decoder, and takes them out. Knows nothing of training.

Nothing but the given model changes: forwards are bound to its own modules, classes stay as they
are. What was replaced and what was not is reported, and `undo` restores it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from types import MethodType, TracebackType
from typing import Any

from torch import nn

from kernels.patch_forwards import REPLACEMENTS

FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
OPERATIONS = tuple(REPLACEMENTS)
DEFAULT = ("rms_norm", "add_rms_norm", "rope", "gated_mlp", "linear_cross_entropy")


class UnknownModelError(ValueError):
    """Strict patching met a model that nobody has tried these kernels on."""


@dataclass(slots=True)
class Patch:
    """What was done to a model; also a context manager that undoes it at its end."""

    model: nn.Module
    replaced: dict[str, list[str]] = field(default_factory=dict)  # operation: modules' names
    skipped: dict[str, str] = field(default_factory=dict)  # module's name: why not
    _bound: list[nn.Module] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Modules replaced for each operation."""
        return {operation: len(names) for operation, names in self.replaced.items()}

    def undo(self) -> None:
        """Restores every forward; a second call does nothing."""
        for module in self._bound:
            module.__dict__.pop("forward", None)
        self._bound.clear()
        if self.model.__dict__.get(MARK) is self:
            del self.model.__dict__[MARK]

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        done = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        return f"replaced {done or 'nothing'}; skipped {len(self.skipped)}"


MARK = "_fairslate_patch"


def patch(
    model: nn.Module,
    ops: Collection[str] = DEFAULT,
    *,
    strict: bool = True,
    backend: str = "auto",
) -> Patch:
    """Binds the kernels named in `ops` to the modules of `model` that can take them.

    A model already patched is left alone and its Patch returned. Raises UnknownModelError, if
    `strict`, for a model that is none of Llama, Mistral, Qwen2 and Qwen3; else such a model gets
    what its modules are recognised for. Raises ValueError for an unknown operation.
    """
    unknown = sorted(set(ops) - REPLACEMENTS.keys())
    if unknown:
        raise ValueError(f"ops names {', '.join(unknown)}; known are {', '.join(OPERATIONS)}")
    if strict and _family(model) is None:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise UnknownModelError(f"model is {kind}; strict patching knows {', '.join(FAMILIES)}")
    if {"cross_entropy", "linear_cross_entropy"} <= set(ops):
        raise ValueError("ops names cross_entropy and linear_cross_entropy; a model has one loss")
    earlier = model.__dict__.get(MARK)
    if isinstance(earlier, Patch):
        return earlier
    done = Patch(model)
    for operation in ops:
        _replace(done, operation, backend)
    model.__dict__[MARK] = done
    return done


def _family(model: nn.Module) -> str | None:
    return FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))


def _replace(done: Patch, operation: str, backend: str) -> None:
    replacement = REPLACEMENTS[operation]
    for name, module in _modules(done.model, replacement.suffix):
        forward = replacement.make(module, backend)
        if isinstance(forward, str):
            done.skipped[f"{name or 'model'} ({operation})"] = forward
            continue
        module.__dict__["forward"] = MethodType(forward, module)
        done._bound.append(module)
        done.replaced.setdefault(operation, []).append(name)


def _modules(model: nn.Module, suffix: str) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if type(module).__name__.endswith(suffix):
            yield name, module
