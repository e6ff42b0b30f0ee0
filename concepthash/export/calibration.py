"""What the layers of a graph read on real photos: the ends of each channel, a sample of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from concepthash.encoder import INPUT
from concepthash.export.layers import GraphView
from concepthash.export.rounding import Floats
from concepthash.images import Pixels
from concepthash.quiet import import_onnxruntime

PHOTOS = 512
"""Photos that int8 is calibrated on, where there are as many."""

BATCH = 8
ROWS = 4096
"""Rows of a layer's input that are kept, over all photos."""


@dataclass(frozen=True)
class Inputs:
    """What one tensor held.

    Args:
        low, high: ``(D,)``, the ends of each channel over all photos.
        rows: ``(n, D)``, a sample.
    """

    low: Floats
    high: Floats
    rows: Floats


def calibrate(
    model: onnx.ModelProto,
    pixels: Pixels,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Inputs]:
    """The inputs of all layers, by tensor name.

    Args:
        model: the graph in fp32.
        pixels: ``(n, H, W, 3)`` uint8, prepared photos.
        seed: which rows are kept.
        progress: called with (done, total) after each batch.
    """
    names = sorted({layer.input for layer in GraphView(model).layers()})
    session = run_in_memory(probing(model, names))
    generator = np.random.default_rng(seed)
    share = -(-ROWS * BATCH // max(len(pixels), 1))
    ends: dict[str, tuple[Floats, Floats]] = {}
    rows: dict[str, list[Floats]] = {name: [] for name in names}
    for first in range(0, len(pixels), BATCH):
        batch = pixels[first : first + BATCH]
        for name, value in zip(names, session.run(names, {INPUT: batch}), strict=True):
            flat = value.reshape(-1, value.shape[-1])
            low, high = flat.min(axis=0), flat.max(axis=0)
            if name in ends:
                low, high = np.minimum(ends[name][0], low), np.maximum(ends[name][1], high)
            ends[name] = low, high
            chosen = generator.choice(len(flat), min(share, len(flat)), replace=False)
            rows[name].append(flat[chosen])
        if progress is not None:
            progress(min(first + BATCH, len(pixels)), len(pixels))
    return {name: Inputs(*ends[name], np.concatenate(rows[name])) for name in names}


def probing(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The graph with more of its float32 tensors as outputs."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for name in names:
        probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return probe


def run_in_memory(model: onnx.ModelProto) -> Any:
    """A CPU session of a graph that was never written to disk."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def logits_of(model: onnx.ModelProto, pixels: Pixels) -> npt.NDArray[np.float32]:
    """The logits ``(n, K)`` of prepared photos."""
    session = run_in_memory(model)
    found = [
        session.run(["logits"], {INPUT: pixels[first : first + BATCH]})[0]
        for first in range(0, len(pixels), BATCH)
    ]
    return np.concatenate(found)
