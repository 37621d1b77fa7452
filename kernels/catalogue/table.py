"""The one list of all operations. Knows nothing of what is done with it."""

from __future__ import annotations

from collections.abc import Sequence

from kernels.catalogue.inference_table import INFERENCE
from kernels.catalogue.layer_table import LAYERS
from kernels.catalogue.loss_table import LOSSES
from kernels.catalogue.operation import Operation
from kernels.catalogue.ranking_table import RANKING

OPERATIONS: tuple[Operation, ...] = (*LAYERS, *INFERENCE, *LOSSES, *RANKING)


def named(names: Sequence[str] | None) -> list[Operation]:
    """Those named, in all their variants; all for None. ValueError tells the known names."""
    known = dict.fromkeys(operation.name for operation in OPERATIONS)
    unknown = sorted(set(names or ()) - known.keys())
    if unknown:
        raise ValueError(f"no operation {', '.join(unknown)}; known are {', '.join(known)}")
    return [operation for operation in OPERATIONS if names is None or operation.name in names]
