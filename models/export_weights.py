"""Keeps the tensors of several ONNX graphs in one file beside them. Knows no model and no graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

ALIGNMENT = 4096  # bytes, so that a runtime may map each tensor


class WeightFile:
    """Appends tensors; one that was added before is not written again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, TensorProto] = {}
        path.write_bytes(b"")

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __getitem__(self, name: str) -> TensorProto:
        return self._known[name]

    def add(self, name: str, values: npt.NDArray[Any]) -> None:
        """Writes the values; `self[name]` is then an initializer that points at them."""
        values = np.ascontiguousarray(values)
        tensor = TensorProto(name=name, dims=values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.data_location = TensorProto.EXTERNAL
        with self._path.open("ab") as file:
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            place = {"location": self._path.name, "offset": file.tell(), "length": values.nbytes}
            file.write(values.tobytes())
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self._known[name] = tensor
