"""Writes one ONNX graph node by node, its layers in fp32 or int8. Knows no model.

int8 is what runtimes call dynamic quantization: weights symmetric, one scale an output; activations
as they come, one scale and zero point a tensor, so batch mates move each other's scores a little.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from models.export_weights import WeightFile

OPSET = 23
IR_VERSION = 11
INT8_LEVELS = 127
Array = npt.NDArray[Any]


class GraphWriter:
    """Nodes in the order of calls; every call returns the name of what it computes."""

    def __init__(self, weights: WeightFile, int8: bool) -> None:
        self._weights = weights
        self._int8 = int8
        self._nodes: list[onnx.NodeProto] = []
        self._used: dict[str, TensorProto] = {}
        self._quantized: dict[str, list[str]] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node of several outputs."""
        names = [f"{kind}_{len(self._nodes)}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def weight(self, name: str, values: Array) -> str:
        """A tensor that lies in the weight file, shared by the graphs that use the name."""
        if name not in self._weights:
            self._weights.add(name, values)
        self._used[name] = self._weights[name]
        return name

    def constant(self, values: Array | list[int] | np.generic) -> str:
        """A small tensor inside the graph; integers are int64."""
        array = np.asarray(values)
        name = f"constant_{array.dtype}_{array.shape}_{array.tobytes().hex()}"
        self._used[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def linear(self, x: str, name: str, weight: Array, bias: Array | None = None) -> str:
        """x (..., inputs) times weight (outputs, inputs) transposed."""
        y = self._int8_product(x, name, weight) if self._int8 else self._product(x, name, weight)
        return y if bias is None else self.op("Add", y, self.weight(f"{name}.bias", bias))

    def norm(self, x: str, name: str, weight: Array, eps: float) -> str:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
        scale = self.weight(name, weight)
        return self.op("RMSNormalization", x, scale, axis=-1, epsilon=eps)

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[int, list[Any]]],
        outputs: Mapping[str, list[Any]],
    ) -> onnx.ModelProto:
        """The graph as written. inputs: name to (element type, shape); outputs are float32."""
        infos = [helper.make_tensor_value_info(k, *spec) for k, spec in inputs.items()]
        answers = [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, shape)
            for k, shape in outputs.items()
        ]
        graph = helper.make_graph(self._nodes, name, infos, answers, list(self._used.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def rename(self, x: str, name: str) -> None:
        """Gives a result the name it has outside."""
        self._nodes.append(helper.make_node("Identity", [x], [name]))

    def _product(self, x: str, name: str, weight: Array) -> str:
        return self.op("MatMul", x, self.weight(f"{name}.transposed", weight.T))

    def _int8_product(self, x: str, name: str, weight: Array) -> str:
        largest = np.abs(weight).max(axis=1)
        scales = np.where(largest > 0, largest / INT8_LEVELS, 1).astype(np.float32)
        levels = np.rint(weight / scales[:, None]).astype(np.int8)
        if x not in self._quantized:
            self._quantized[x] = self.ops("DynamicQuantizeLinear", 3, x)
        quantized, scale, zero = self._quantized[x]
        levels_name = self.weight(f"{name}.int8", levels.T)
        exact = self.op("MatMulInteger", quantized, levels_name, zero)
        both = self.op("Mul", scale, self.weight(f"{name}.scales", scales))
        return self.op("Mul", self.op("Cast", exact, to=TensorProto.FLOAT), both)


def array(tensor: Any) -> Array:
    """A torch tensor as float32."""
    return tensor.detach().float().numpy()  # type: ignore[no-any-return]
