"""The layers of an exported graph: products with the weights of a block, by the names torch has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from concepthash.errors import BundleError

PREFIX = "encoder.blocks."
"""What the names of layers begin with; the stem, the maps and the hash head are none."""

MatchedName = Callable[[npt.NDArray[np.float32]], "str | None"]


@dataclass(frozen=True)
class Layer:
    """One layer: ``MatMul(input, weights)`` and, mostly, the addition of a bias.

    Args:
        name: of its node: ``encoder.blocks.7.mlp.fc2``, of a second use with ``#2``.
        node: the MatMul.
        weights: name of the constant ``(D, E)``.
        bias: the Add and which of its inputs is the bias; None without one.
    """

    name: str
    node: onnx.NodeProto
    weights: str
    bias: tuple[onnx.NodeProto, int] | None

    @property
    def input(self) -> str:
        """Name of the tensor it reads."""
        return str(self.node.input[0])


class GraphView:
    """A loaded graph with its constants, and who makes and who reads each tensor."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants: dict[str, npt.NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.maker: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.output:
                self.maker[name] = node
            for name in node.input:
                self.readers[name].append(node)

    def layers(self) -> list[Layer]:
        """Every layer, in the order of the graph."""
        return [
            Layer(node.name, node, node.input[1], self._bias(node))
            for node in self.model.graph.node
            if node.op_type == "MatMul" and node.name.startswith(PREFIX)
        ]

    def _bias(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, int] | None:
        readers = self.readers[node.output[0]]
        if len(readers) != 1 or readers[0].op_type != "Add":
            return None
        for place, name in enumerate(readers[0].input):
            if name in self.constants and self.constants[name].ndim == 1:
                return readers[0], place
        return None


def name_layers(model: Any, match: MatchedName) -> None:
    """Name the products with constant weights of an exporter's graph, before it is saved.

    Args:
        model: an ``onnx_ir.Model``.
        match: the name of a layer from its weights ``(D, E)``, or None.
    """
    seen: dict[str, int] = defaultdict(int)
    for node in model.graph:
        constant = node.inputs[1].const_value if node.op_type == "MatMul" else None
        if constant is None or len(constant.shape) != 2:
            continue
        name = match(constant.numpy())
        if name is not None:
            seen[name] += 1
            node.name = name if seen[name] == 1 else f"{name}#{seen[name]}"


def matcher(parameters: Mapping[str, npt.NDArray[np.float32]]) -> MatchedName:
    """Names by weights: of a Linear its own, of thirds of a joint qkv ``.q``, ``.k`` and ``.v``."""
    known: list[tuple[str, npt.NDArray[np.float32]]] = []
    for name, weight in parameters.items():
        if weight.ndim != 2 or not name.endswith(".weight"):
            continue
        stem = name.removesuffix(".weight")
        known.append((stem, weight.T))
        if stem.endswith(".qkv"):
            thirds = np.split(weight.T, 3, axis=1)
            base = stem.removesuffix("qkv")
            known += [(f"{base}{part}", third) for part, third in zip("qkv", thirds, strict=True)]

    def match(weights: npt.NDArray[np.float32]) -> str | None:
        return next((name for name, known_ in known if np.array_equal(known_, weights)), None)

    return match


def load_graph(path: Path) -> onnx.ModelProto:
    """An ONNX file with its layers named.

    Raises:
        BundleError: if it cannot be read, or was exported before layers had names.
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's own classes
        raise BundleError(f"not an ONNX file: {error}", where=path) from None
    if not any(node.name.startswith(PREFIX) for node in model.graph.node):
        raise BundleError(
            "this graph does not name its layers: it was exported by an earlier version",
            where=path,
            hint="export the run again: chash export RUN --force",
        )
    return model
