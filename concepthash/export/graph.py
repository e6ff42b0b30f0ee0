"""The exported graph: uint8 photos in; packed codes, logits and concept maps out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from concepthash.encoder import BACKGROUND, INPUT, OUTPUTS
from concepthash.errors import UsageError
from concepthash.export.layers import matcher, name_layers
from concepthash.learn.model import ConceptHash

OPSET = 20
_ANY_SIZE = 1 << 31


class Graph(nn.Module):
    """A trained network as the graph of design section 4, its concept tokens made constant.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: ConceptHash) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.head = model.head
        with torch.no_grad():  # the tokens do not depend on the image
            self.register_buffer("concepts", model.concepts().clone())
        self.register_buffer("powers", torch.tensor([128.0, 64, 32, 16, 8, 4, 2, 1]))
        self.concepts: Tensor
        self.powers: Tensor

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """``(B, H, W, 3)`` uint8 to codes ``(B, K/8)``, logits ``(B, K)``, maps ``(B, M, h, w)``.

        A model of mode ``parts`` adds the background ``(B, h, w)``.

        Packing is a product with the powers of two: exact in float32, and every runtime has it.
        """
        encoded = self.encoder(image, self.concepts)
        logits = self.head(encoded.features)
        bits = (logits > 0).to(logits.dtype).unflatten(-1, (-1, 8))
        outputs = ((bits @ self.powers).to(torch.uint8), logits, encoded.maps)
        background = encoded.background
        return outputs if background is None else (*outputs, background)


def write_onnx(model: ConceptHash, path: Path, *, crop: int) -> None:
    """Export ``model`` to one ONNX file with a dynamic batch.

    Args:
        model: in evaluation mode, on the CPU.
        path: the file to write; weights inside.
        crop: input side, pixels.

    Raises:
        UsageError: if the weights do not fit into one ONNX file.
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size >= 2**31:
        raise UsageError(
            f"the network has {size / 2**30:.1f} GiB of weights; one ONNX file holds less than 2",
            where="model.backbone",
            hint="a smaller --backbone",
        )
    example = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)
    graph = Graph(model).eval()
    with torch.inference_mode():
        outputs = [*OUTPUTS, BACKGROUND][: len(graph(example))]
    with _quiet(), _plain_attention(graph):
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=outputs,
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
        assert program is not None
        # What follows from weights alone is computed now: each is then one constant, which can be
        # quantised, and is stored once.
        optimize_ir(program.model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
        weights = {name: value.detach().numpy() for name, value in graph.named_parameters()}
        name_layers(program.model, matcher(weights))
        program.save(path, external_data=False)
    _strip(path)


def _strip(path: Path) -> None:
    """Leave out the exporter's notes on each node: where in our source it came from."""
    model = onnx.load(str(path))
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for item in (*model.graph.node, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@contextmanager
def _plain_attention(graph: nn.Module) -> Iterator[None]:
    """Attention as two products and a softmax, which runtimes recognise, not as torch's one call.

    The exporter spells that call out with shapes computed at run time.
    """
    fused: list[Any] = [
        module for module in graph.modules() if getattr(module, "fused_attn", False)
    ]
    for module in fused:
        module.fused_attn = False
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks on its own passes are of no use to the user."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
