"""The graphs of lower precision, made from a tiny run of each concept mode."""

from collections import Counter
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from tiny_run import drawn_birds, parts_config, tiny_config  # noqa: E402

from concepthash.errors import BundleError  # noqa: E402
from concepthash.export.blame import blame, out_of_proportion  # noqa: E402
from concepthash.export.calibration import calibrate, logits_of  # noqa: E402
from concepthash.export.graph import write_onnx  # noqa: E402
from concepthash.export.half import to_half  # noqa: E402
from concepthash.export.layers import PREFIX, GraphView, load_graph  # noqa: E402
from concepthash.export.quantize import quantize  # noqa: E402
from concepthash.learn.checkpoint import Run  # noqa: E402
from concepthash.learn.train import train  # noqa: E402
from concepthash.runtime.session import open_session  # noqa: E402

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 48, 48, 3), dtype=np.uint8)
SAMPLE = PIXELS[:8]


@pytest.fixture(scope="module", params=["paper", "parts"])
def graph(request, tmp_path_factory):
    """The fp32 graph of a tiny run, and what its layers read."""
    folder = tmp_path_factory.mktemp(request.param)
    data = drawn_birds(folder / "data")
    config = tiny_config(data, epochs=1)
    if request.param == "parts":
        config = parts_config(data, folder / "vit.safetensors", epochs=1)
    train(config, folder / "run")
    run = Run.open(folder / "run")
    model = run.load()
    write_onnx(model, folder / "model.onnx", crop=48)
    return model, load_graph(folder / "model.onnx"), folder


@pytest.fixture(scope="module")
def inputs(graph):
    return calibrate(graph[1], PIXELS)


def nodes(model, kind):
    return [node for node in model.graph.node if node.op_type == kind]


def error(model, exact):
    """Mean change of a logit, in units of their spread."""
    return float(np.abs(logits_of(model, SAMPLE) - exact).mean() / exact.std())


def test_write_onnx__names_the_layers_as_torch_does(graph):
    network, model, _ = graph
    named = {layer.name.partition("#")[0] for layer in GraphView(model).layers()}
    modules = {f"{name}" for name, _ in network.named_modules()}
    for name in named:
        stem, _, last = name.rpartition(".")
        assert name in modules or (last in "qkv" and f"{stem}.qkv" in modules)
    for i in range(len(network.encoder.blocks)):
        assert any(n.startswith(f"{PREFIX}{i}.mlp.") and n.endswith(".fc2") for n in named)
    weights = {layer.weights for layer in GraphView(model).layers()}
    assert all(GraphView(model).constants[name].ndim == 2 for name in weights)


def test_write_onnx__leaves_no_notes_of_the_exporter(graph):
    text = graph[1].SerializeToString()
    assert b"concepthash/" not in text
    assert b"stack_trace" not in text


@pytest.mark.parametrize("symmetric", [False, True])
def test_quantize__is_near_the_network(graph, inputs, symmetric):
    exact = logits_of(graph[1], SAMPLE)
    int8 = quantize(graph[1], inputs, symmetric=symmetric)
    assert 0 < error(int8, exact) < 0.1
    kept = quantize(
        graph[1], inputs, symmetric=symmetric, keep=[x.name for x in GraphView(graph[1]).layers()]
    )
    assert error(kept, exact) < 1.1 * error(int8, exact)  # only weights are rounded


@pytest.mark.parametrize("symmetric", [False, True])
def test_quantize__only_the_layers_compute_in_integers(graph, inputs, symmetric):
    view = GraphView(quantize(graph[1], inputs, symmetric=symmetric))
    layers = view.layers()
    assert len(layers) == len(GraphView(graph[1]).layers())
    for layer in layers:
        read, stored = (view.maker[name] for name in layer.node.input)
        assert read.op_type == stored.op_type == "DequantizeLinear"
        assert view.constants[stored.input[0]].dtype == np.int8
        zero = view.constants[read.input[2]]
        assert zero.dtype == (np.int8 if symmetric else np.uint8)
        assert not (symmetric and zero.any())
        assert view.maker[read.input[0]].op_type == "QuantizeLinear"
    integers = {name for name, value in view.constants.items() if value.dtype == np.int8}
    spent = {name for name in integers if view.constants[name].ndim > 1}
    distinct = {layer.weights for layer in GraphView(graph[1]).layers()}
    assert len(spent) == len(distinct) + 1  # each weight once, and the patch embedding
    kinds = Counter(node.op_type for node in graph[1].graph.node)
    after = Counter(node.op_type for node in view.model.graph.node)
    for kind in ("Softmax", "LayerNormalization", "BatchNormalization", "MatMul", "Gelu"):
        assert after[kind] == kinds[kind]


def test_quantize__does_not_depend_on_the_names_of_constants(graph, inputs):
    renamed = onnx.ModelProto()
    renamed.CopyFrom(graph[1])
    weights = list(dict.fromkeys(layer.weights for layer in GraphView(renamed).layers()))
    names = {old: f"w{len(weights) - i:04}" for i, old in enumerate(weights)}
    for tensor in renamed.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in renamed.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
    expected = logits_of(quantize(graph[1], inputs, symmetric=True), SAMPLE)
    found = logits_of(quantize(renamed, inputs, symmetric=True), SAMPLE)
    assert np.allclose(found, expected, atol=1e-5)


def test_quantize__normalisations_may_share_a_constant(graph, inputs):
    """As exporters do where two are equal, such as offsets that are all 0."""
    shared = onnx.ModelProto()
    shared.CopyFrom(graph[1])
    view = GraphView(shared)
    norms = [node for node in shared.graph.node if node.op_type == "LayerNormalization"]
    zero = np.zeros_like(view.constants[norms[0].input[2]])
    alike = [n for n in norms if view.constants[n.input[2]].shape == zero.shape]
    assert len(alike) > 2
    shared.graph.initializer.append(onnx.numpy_helper.from_array(zero, "zero"))
    for norm in alike:
        norm.input[2] = "zero"
    exact = logits_of(shared, SAMPLE)
    own = calibrate(shared, PIXELS)
    assert error(quantize(shared, own, symmetric=False), exact) < 0.1


def test_quantize__layers_that_are_kept_read_floats(graph, inputs):
    layers = GraphView(graph[1]).layers()
    name = next(layer.name for layer in layers if layer.name.endswith("fc2"))
    view = GraphView(quantize(graph[1], inputs, symmetric=False, keep=[name]))
    [layer] = [layer for layer in view.layers() if layer.name == name]
    maker = view.maker[layer.input]
    assert maker.op_type != "DequantizeLinear"
    assert view.constants[view.maker[layer.node.input[1]].input[0]].dtype == np.int8


def test_quantize__one_layer_alone_changes_least(graph, inputs):
    exact = logits_of(graph[1], SAMPLE)
    name = GraphView(graph[1]).layers()[0].name
    one = quantize(graph[1], inputs, symmetric=False, only=[name])
    assert len(nodes(one, "QuantizeLinear")) == 1
    assert 0 < error(one, exact) < error(quantize(graph[1], inputs, symmetric=False), exact)


def test_half__layers_are_fp16_and_what_ruined_others_is_not(graph):
    exact = logits_of(graph[1], SAMPLE)
    half = to_half(graph[1])
    assert 0 < error(half, exact) < 0.005
    view = GraphView(half)
    for layer in view.layers():
        assert view.constants[layer.weights].dtype == np.float16
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(half).graph.value_info
    }
    careful = ("Softmax", "LayerNormalization", "BatchNormalization", "Sigmoid")
    for node in half.graph.node:
        if node.op_type in careful:
            assert kinds.get(node.output[0], onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT
    assert [o.type.tensor_type.elem_type for o in half.graph.output] == [
        o.type.tensor_type.elem_type for o in graph[1].graph.output
    ]


@pytest.mark.parametrize("make", ["fp32", "fp16", "int8", "symmetric"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_codes__do_not_depend_on_batch_mates(graph, inputs, make, backend, tmp_path):
    made = {
        "fp32": lambda: graph[1],
        "fp16": lambda: to_half(graph[1]),
        "int8": lambda: quantize(graph[1], inputs, symmetric=False),
        "symmetric": lambda: quantize(graph[1], inputs, symmetric=True),
    }[make]()
    if backend == "openvino":
        pytest.importorskip("openvino")
        if make == "int8":
            pytest.skip("the graph for OpenVINO is the symmetric one")
        from concepthash.runtime.openvino import open_openvino as opened
    else:
        opened = partial(open_session, device="cpu")
    onnx.save(made, str(tmp_path / "model.onnx"))
    encoder = opened(tmp_path / "model.onnx")
    together = encoder.codes(SAMPLE)
    alone = np.concatenate([encoder.codes(SAMPLE[i : i + 1]) for i in range(len(SAMPLE))])
    reversed_ = encoder.codes(SAMPLE[::-1].copy())[::-1]
    sure = np.abs(encoder.run(SAMPLE).logits) > 1e-4
    for other in (alone, reversed_):
        differs = np.unpackbits(together, axis=1) != np.unpackbits(other, axis=1)
        assert not (differs & sure).any()
    encoder.close()


def test_blame__finds_the_layer_that_was_spoilt(graph):
    """The fault is injected: one layer's weights get noise, all others a thousandth of it."""
    culprit = GraphView(graph[1]).layers()[-2].name

    def reduced(only):
        out = onnx.ModelProto()
        out.CopyFrom(graph[1])
        view = GraphView(out)
        for layer in view.layers():
            if layer.name in only:
                weights = view.constants[layer.weights]
                noise = np.random.default_rng(0).normal(size=weights.shape)
                size = 0.1 if layer.name == culprit else 1e-4
                new = (weights + size * weights.std() * noise).astype(np.float32)
                name = f"{layer.weights}.spoilt"
                out.graph.initializer.append(onnx.numpy_helper.from_array(new, name))
                layer.node.input[1] = name
        return out

    found = blame(graph[1], reduced, SAMPLE)
    assert found[0].layer == culprit
    assert found[0].noise > 0.9
    assert sum(one.noise for one in found) == pytest.approx(1)
    assert sum(one.work for one in found) == pytest.approx(1)
    assert out_of_proportion(found) == [culprit]


def test_load_graph__refuses_what_has_no_names(graph, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(graph[1])
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, str(tmp_path / "old.onnx"))
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("old", "text"):
        with pytest.raises(BundleError):
            load_graph(tmp_path / f"{name}.onnx")
