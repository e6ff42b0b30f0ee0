"""Static int8: the weight products of the blocks, as pairs of QuantizeLinear and DequantizeLinear.

Everything else stays fp32: normalisations, softmax, the maps and the hash head. Scales are set
once, so the code of a photo cannot depend on the photos beside it. The graph is standard ONNX;
ONNX Runtime and OpenVINO make integer kernels of the pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from concepthash.export.calibration import Inputs
from concepthash.export.layers import GraphView, Layer
from concepthash.export.rounding import Equaliser, Floats, Range, choose_range, round_weights

_OWN_RANGE = ("LayerNormalization", "Gelu")
"""What a layer's input must come from to be equalised: the first does it for free in its own
parameters, the second is where channels differ most."""


def quantize(
    model: onnx.ModelProto,
    inputs: Mapping[str, Inputs],
    *,
    symmetric: bool,
    only: Collection[str] | None = None,
    keep: Collection[str] = (),
) -> onnx.ModelProto:
    """The graph with its layers in int8.

    Args:
        model: in fp32, with named layers.
        inputs: of :func:`concepthash.export.calibration.calibrate`.
        symmetric: activations as int8 around 0, which OpenVINO and TensorRT want, at the price of
            an addition after each GELU; else as uint8 with a zero point, fastest in ONNX Runtime.
        only: names of the layers to quantise; all by default.
        keep: names of layers that compute in fp32, with their weights stored in int8 all the same.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    view = GraphView(out)
    layers = [layer for layer in view.layers() if only is None or layer.name in only]
    edit = _Edit()
    for group in _groups(view, layers):
        _quantize_group(view, group, inputs, edit, symmetric=symmetric, keep=keep)
    _store_stem(view, edit, only)
    edit.apply(out)
    onnx.checker.check_model(out)
    return out


@dataclass
class _Edit:
    """Changes to a graph, collected, then made at once."""

    before: dict[str, list[onnx.NodeProto]] = field(default_factory=lambda: defaultdict(list))
    renamed: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def insert(self, node: onnx.NodeProto, kind: str, *operands: str, **attributes: Any) -> str:
        """A node before ``node``; the name of what it gives."""
        name = f"{operands[0]}.{kind}"
        made = self.before[_key(node)]
        if all(name not in other.output for nodes in self.before.values() for other in nodes):
            made.append(helper.make_node(kind, list(operands), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: npt.ArrayLike, dtype: Any) -> str:
        self.constants[name] = np.asarray(value, dtype)
        return name

    def read(self, node: onnx.NodeProto, place: int, name: str) -> None:
        """Let input ``place`` of ``node`` read ``name``."""
        self.renamed[_key(node)][place] = name

    def apply(self, model: onnx.ModelProto) -> None:
        nodes = []
        for node in model.graph.node:
            for place, name in self.renamed.get(_key(node), {}).items():
                node.input[place] = name
            nodes += [*self.before.get(_key(node), []), node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [
            t for t in model.graph.initializer if t.name in used and t.name not in self.constants
        ]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        model.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.constants.items()
        )


def _key(node: onnx.NodeProto) -> str:
    return str(node.output[0])


def _groups(view: GraphView, layers: Iterable[Layer]) -> list[list[Layer]]:
    """Layers that must share an equaliser: one input, one weight, or one normalisation."""
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    layers = list(layers)
    for layer in layers:
        keys = [f"input {layer.input}", f"weights {layer.weights}"]
        maker = view.maker.get(layer.input)
        if maker is not None and maker.op_type == "LayerNormalization":
            keys.append(f"norm {maker.input[1]}")
        for key in keys:
            leader[find(key)] = find(keys[0])
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[find(f"input {layer.input}")].append(layer)
    return list(groups.values())


def _quantize_group(
    view: GraphView,
    group: list[Layer],
    inputs: Mapping[str, Inputs],
    edit: _Edit,
    *,
    symmetric: bool,
    keep: Collection[str],
) -> None:
    tensors = sorted({layer.input for layer in group})
    low = np.minimum.reduce([inputs[name].low for name in tensors])
    high = np.maximum.reduce([inputs[name].high for name in tensors])
    kind = _source(view, group)
    kept = {layer.name for layer in group if layer.name in keep}
    equal = Equaliser(np.zeros_like(low), np.ones_like(low))
    if kind is not None and not kept:
        biased = all(layer.bias is not None for layer in group)
        free = kind == "LayerNormalization"
        equal = Equaliser.of(low, high, shift=biased and (free or symmetric))
    grids = {name: choose_range(equal(inputs[name].rows), symmetric=symmetric) for name in tensors}
    if kind == "LayerNormalization" and not kept:
        _fold(view, {view.maker[name].output[0] for name in tensors}, equal, edit)
    for weights in dict.fromkeys(layer.weights for layer in group):  # in the order of the graph
        users = [layer for layer in group if layer.weights == weights]
        matrix = view.constants[weights] * equal.scale[:, None]
        rows = [_seen(layer, inputs, equal, grids, kept) for layer in users]
        rounded, steps = round_weights(matrix, np.concatenate(rows))
        step = edit.constant(f"{weights}.step", steps, np.float32)
        edit.constant(f"{weights}.int8", rounded, np.int8)
        for layer, seen in zip(users, rows, strict=True):
            stored = edit.insert(layer.node, "DequantizeLinear", f"{weights}.int8", step, axis=1)
            edit.read(layer.node, 1, stored)
            if layer.name not in kept:
                source = _equalised(layer, equal, edit) if kind == "Gelu" else layer.input
                edit.read(layer.node, 0, _pair(layer, source, grids[layer.input], edit))
            _correct(view, layer, equal, inputs[layer.input].rows, seen, rounded * steps, edit)


def _source(view: GraphView, group: list[Layer]) -> str | None:
    """What all inputs of the group come from, if they can be equalised; else None."""
    makers = [view.maker.get(layer.input) for layer in group]
    kinds = {maker.op_type if maker is not None else "" for maker in makers}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind not in _OWN_RANGE:
        return None
    readers = {reader.name for layer in group for reader in view.readers[layer.input]}
    if kind == "LayerNormalization":
        norms = {maker.input[1] for maker in makers if maker is not None}
        readers |= {
            reader.name
            for norm in norms
            for node in view.readers[norm]
            for reader in view.readers[node.output[0]]
        }
    return kind if readers <= {layer.name for layer in group} else None


def _seen(
    layer: Layer,
    inputs: Mapping[str, Inputs],
    equal: Equaliser,
    grids: Mapping[str, Range],
    kept: Collection[str],
) -> Floats:
    """The sample of rows as the layer will read them."""
    rows = equal(inputs[layer.input].rows)
    return rows if layer.name in kept else grids[layer.input].round(rows)


def _fold(view: GraphView, outputs: set[str], equal: Equaliser, edit: _Edit) -> None:
    """Put the equaliser into the scale and the offset of the normalisations."""
    for output in outputs:
        norm = view.maker[output]
        scale, offset = (view.constants[name] for name in norm.input[1:3])
        names = [f"{output}.{part}" for part in ("scale", "offset")]  # constants may be shared
        edit.constant(names[0], scale / equal.scale, np.float32)
        edit.constant(names[1], (offset - equal.shift) / equal.scale, np.float32)
        for place, name in enumerate(names, start=1):
            edit.read(norm, place, name)


def _equalised(layer: Layer, equal: Equaliser, edit: _Edit) -> str:
    """The equaliser as a product, and a sum if it shifts, after the layer's input."""
    name = layer.input
    factor = edit.constant(f"{name}.scale", 1 / equal.scale, np.float32)
    source = edit.insert(layer.node, "Mul", name, factor)
    if np.any(equal.shift):
        term = edit.constant(f"{name}.shift", -equal.shift / equal.scale, np.float32)
        source = edit.insert(layer.node, "Add", source, term)
    return source


def _pair(layer: Layer, source: str, grid: Range, edit: _Edit) -> str:
    """``source`` through QuantizeLinear and DequantizeLinear."""
    step = edit.constant(f"{layer.input}.step", grid.step, np.float32)
    zero = edit.constant(f"{layer.input}.zero", grid.zero, np.int8 if grid.symmetric else np.uint8)
    rounded = edit.insert(layer.node, "QuantizeLinear", source, step, zero)
    return edit.insert(layer.node, "DequantizeLinear", rounded, step, zero)


def _correct(
    view: GraphView,
    layer: Layer,
    equal: Equaliser,
    rows: Floats,
    seen: Floats,
    weights: Floats,
    edit: _Edit,
) -> None:
    """Give the bias what the shift took, and what rounding changes on average."""
    if layer.bias is None:
        return
    add, place = layer.bias
    exact = rows @ view.constants[layer.weights]
    change = (exact - seen @ weights).mean(axis=0)
    bias = view.constants[add.input[place]] + change
    edit.read(add, place, edit.constant(f"{layer.name}.bias", bias, np.float32))


def _store_stem(view: GraphView, edit: _Edit, only: Collection[str] | None) -> None:
    """Store the weights of the patch embedding in int8 too; they are used in fp32."""
    for node in view.model.graph.node if only is None else ():
        weights = view.constants.get(node.input[1]) if node.op_type == "Conv" else None
        if weights is None:
            continue
        steps = np.abs(weights).max(axis=tuple(range(1, weights.ndim))) / 127
        steps[steps == 0] = 1.0
        rounded = np.round(weights / steps.reshape(-1, *[1] * (weights.ndim - 1)))
        name = node.input[1]
        edit.constant(f"{name}.int8", rounded, np.int8)
        step = edit.constant(f"{name}.step", steps, np.float32)
        edit.read(node, 1, edit.insert(node, "DequantizeLinear", f"{name}.int8", step, axis=0))
