"""Makes interpreted kernels round to narrow floats as a GPU does. Knows nothing of any kernel.

Triton's interpreter truncates on the way from float32 to bfloat16 and rounds float8 its own way,
where a GPU rounds to the nearest even value; with that mended, a result off by one unit is a bug.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from kernels.base.dispatch import interpreting, tl


@pytest.fixture(autouse=True, scope="session")
def _round_to_nearest() -> Iterator[None]:
    if not interpreting():
        yield
        return
    from triton.runtime import interpreter

    truncate = interpreter._convert_float
    narrow = {
        tl.bfloat16: (torch.bfloat16, torch.uint16),
        tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8),
        tl.float8e5: (torch.float8_e5m2, torch.uint8),
    }

    def convert(values: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source != tl.float32 or target not in narrow:
            return truncate(values, source, target, rounding)
        dtype, bits = narrow[target]
        rounded = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(dtype)
        return rounded.view(bits).numpy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", convert)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Interpreted kernels show nothing of what a test marked gpu is for."""
    if torch.cuda.is_available() and not interpreting():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
