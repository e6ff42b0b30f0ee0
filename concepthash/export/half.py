"""fp16: the layers of the blocks and the attention between them; all else stays fp32.

The stream that runs through the blocks, normalisations, softmax, the masks of concepts, the maps
and the hash head stay fp32: fp16 there is what has ruined embeddings of vision transformers
(NVIDIA/TensorRT#2709). Casts in the graph say so, which every runtime obeys.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from concepthash.export.layers import PREFIX, GraphView

_FOLLOW = frozenset(
    {
        "Add",
        "Mul",
        "Gelu",
        "Reshape",
        "Transpose",
        "Slice",
        "Squeeze",
        "Split",
        "Concat",
        "Unsqueeze",
    }
)
"""Operations that stay in fp16 if all they read is fp16 or constant."""


def to_half(model: onnx.ModelProto, *, only: Collection[str] | None = None) -> onnx.ModelProto:
    """The graph with its layers in fp16.

    Args:
        model: in fp32, with named layers.
        only: names of the layers to convert; all by default.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    view = GraphView(out)
    floats = {name for name, value in view.constants.items() if value.dtype == np.float32}
    half: set[str] = set()  # tensors
    cast: dict[tuple[str, int], str] = {}
    constants: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def converted(name: str, to: int) -> str:
        if name in floats:
            constants.setdefault(f"{name}.half", view.constants[name].astype(np.float16))
            return f"{name}.half"
        if (name, to) not in cast:
            cast[name, to] = f"{name}.{'half' if to == TensorProto.FLOAT16 else 'single'}"
            made = cast[name, to]
            nodes.append(helper.make_node("Cast", [name], [made], name=made, to=to))
        return cast[name, to]

    produced = _produced(view)
    for node in out.graph.node:
        values = [name for name in node.input if name in floats or name in produced]
        if _is_half(node, values, half, floats, only):
            for place, name in enumerate(node.input):
                if name in values and name not in half:
                    node.input[place] = converted(name, TensorProto.FLOAT16)
            half.update(node.output)
        else:
            for place, name in enumerate(node.input):
                if name in half and node.op_type != "Shape":
                    node.input[place] = converted(name, TensorProto.FLOAT)
        nodes.append(node)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in out.graph.initializer if tensor.name in used]
    del out.graph.initializer[:]
    out.graph.initializer.extend(kept)
    out.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    onnx.checker.check_model(out)
    return out


def _is_half(
    node: onnx.NodeProto,
    values: list[str],
    half: set[str],
    floats: set[str],
    only: Collection[str] | None,
) -> bool:
    if node.op_type == "MatMul":
        if node.name.startswith(PREFIX):
            return only is None or node.name in only
        return any(name in half for name in values)  # attention: softmax gives fp32
    return (
        node.op_type in _FOLLOW
        and any(name in half for name in values)
        and all(name in half or name in floats for name in values)
    )


def _produced(view: GraphView) -> set[str]:
    """The float32 tensors that nodes give, as far as shapes and integers can be told from them."""
    inferred = onnx.shape_inference.infer_shapes(view.model)
    return {
        value.name
        for value in (*inferred.graph.value_info, *inferred.graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
