"""Which rows a benchmark takes and in which order: the most telling first. Times nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kernels.catalogue.operation import Operation
from kernels.catalogue.shapes import MODELS, ModelShape

USUAL_TOKENS = 8192
LARGE_TOKENS = 32_768  # times 1,024 values of bf16 is 67 MB


@dataclass(frozen=True, slots=True)
class Row:
    """An operation at one shape, forward or forward and backward."""

    operation: Operation
    models: tuple[ModelShape, ...]  # all of the same sizes, as far as the operation sees
    tokens: int
    backward: bool
    importance: int  # 0 is first

    @property
    def name(self) -> str:
        return self.operation.label

    @property
    def model(self) -> ModelShape:
        return self.models[0]

    @property
    def model_names(self) -> str:
        return ", ".join(model.name for model in self.models)

    @property
    def mode(self) -> str:
        return "forward+backward" if self.backward else "forward"


def plan(
    operations: Sequence[Operation],
    models: Sequence[ModelShape] = MODELS,
    tokens: Sequence[int] | None = None,
) -> list[Row]:
    """All rows: every operation at its usual length first, then other models, then lengths.

    `tokens` takes the place of each operation's own lengths.
    """
    chosen = [row for operation in operations for row in _rows(operation, models, tokens)]
    return sorted(chosen, key=lambda row: row.importance)


def _rows(
    operation: Operation, models: Sequence[ModelShape], tokens: Sequence[int] | None
) -> list[Row]:
    lengths = operation.tokens if tokens is None else tokens
    usual = min(lengths, key=lambda length: abs(length - USUAL_TOKENS), default=0)
    led = sorted(models, key=lambda model: model is not operation.lead)
    return [
        Row(operation, group, length, backward, _importance(place, length, usual))
        for place, group in enumerate(_alike(operation, led))
        for length in lengths
        for backward in ((False, True) if operation.trained else (False,))
    ]


def _importance(place: int, tokens: int, usual: int) -> int:
    """The first model's usual length and one of 64 MB and more, other models, other lengths."""
    first = place == 0
    if tokens == usual or (first and tokens >= LARGE_TOKENS):
        return 0 if first else 1
    return 2 if first else 3


def _alike(operation: Operation, models: Sequence[ModelShape]) -> list[tuple[ModelShape, ...]]:
    """Models grouped by the sizes that the operation depends on, in their order."""
    groups: dict[tuple[int, ...], list[ModelShape]] = {}
    for model in models:
        sizes = tuple(getattr(model, name) for name in operation.sizes)
        groups.setdefault(sizes, []).append(model)
    return [tuple(group) for group in groups.values()]
