"""Which layers of a reduced precision change the logits most: each alone, all others in fp32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from concepthash.encoder import INPUT
from concepthash.export.calibration import logits_of, probing, run_in_memory
from concepthash.export.layers import GraphView, Layer
from concepthash.images import Pixels

PHOTOS = 32
"""Photos on which each layer is tried."""

OUT_OF_PROPORTION = 2.0
"""A layer whose share of the noise is this many times its share of the work is worth keeping in
fp32: it costs little and spoils much."""

MOST_KEPT = 8


@dataclass(frozen=True)
class Blame:
    """One layer's part in what a precision changes.

    Args:
        layer: its name.
        noise: its share of the noise of all layers, 0..1; noise is the square of the mean change
            of a logit, which adds up over layers.
        work: its share of the weights' multiplications, 0..1.
    """

    layer: str
    noise: float
    work: float

    def __str__(self) -> str:
        return f"{self.layer.removeprefix('encoder.')} {self.noise:.0%}"


def blame(
    model: onnx.ModelProto,
    reduced: Callable[[Collection[str]], onnx.ModelProto],
    pixels: Pixels,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Blame]:
    """Every layer, the worst first.

    Args:
        model: in fp32.
        reduced: gives the graph with only these layers in the lower precision.
        pixels: ``(n, H, W, 3)`` uint8; :data:`PHOTOS` are enough.
        progress: called with (done, total) after each layer.
    """
    layers = GraphView(model).layers()
    exact = logits_of(model, pixels)
    noise = []
    for done, layer in enumerate(layers, start=1):
        change = np.abs(logits_of(reduced([layer.name]), pixels) - exact)
        noise.append(float(np.square(change.mean())))
        if progress is not None:
            progress(done, len(layers))
    work = _work(model, layers, pixels)
    return sorted(
        (
            Blame(layer.name, n / max(sum(noise), 1e-30), w / sum(work))
            for layer, n, w in zip(layers, noise, work, strict=True)
        ),
        key=lambda found: -found.noise,
    )


def out_of_proportion(found: Sequence[Blame]) -> list[str]:
    """The layers that spoil much more than they save, :data:`MOST_KEPT` at most."""
    kept = [b.layer for b in found if b.noise >= OUT_OF_PROPORTION * b.work and b.noise > 0.01]
    return kept[:MOST_KEPT]


def _work(model: onnx.ModelProto, layers: Sequence[Layer], pixels: Pixels) -> list[int]:
    """Multiplications of each layer for one photo."""
    view = GraphView(model)
    rows = _rows(model, sorted({layer.input for layer in layers}), pixels[:1])
    return [rows[layer.input] * view.constants[layer.weights].size for layer in layers]


def _rows(model: onnx.ModelProto, names: list[str], pixels: Pixels) -> dict[str, int]:
    found = run_in_memory(probing(model, names)).run(names, {INPUT: pixels})
    return {n: v.size // v.shape[-1] for n, v in zip(names, found, strict=True)}
