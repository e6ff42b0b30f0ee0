"""A bundle small enough for a test: a random projection of the pixels, exact in any order.

Weights and centred pixels are small integers, so every sum is exact in float32 and a code depends
neither on the batch nor on the library that adds. :func:`tiny_codes` is the oracle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from concepthash.bundle import MODEL, Bundle, Manifest, fingerprint, write_bundle
from concepthash.codes import CodeLayout, Codes
from concepthash.images import Pixels, Preprocess

MAPS = 4
"""Side of the attention maps."""


def tiny_weights(bits: int, crop: int, seed: int = 0) -> np.ndarray:
    """The projection ``(crop * crop * 3, bits)`` float32, whole numbers from -3 to 3."""
    generator = np.random.default_rng(seed)
    return generator.integers(-3, 4, size=(crop * crop * 3, bits)).astype(np.float32)


def tiny_codes(pixels: Pixels, bits: int = 16, seed: int = 0) -> Codes:
    """What the tiny bundle must answer for pixels ``(B, crop, crop, 3)``."""
    centred = pixels.reshape(len(pixels), -1).astype(np.int64) - 128
    logits = centred @ tiny_weights(bits, pixels.shape[1], seed).astype(np.int64)
    return np.packbits(logits > 0, axis=1)


def tiny_graph(bits: int, concepts: int, crop: int, seed: int = 0) -> bytes:
    """The graph of the contract: image -> codes, logits, attention."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    constants = {
        "centre": np.float32(128),
        "zero": np.float32(0),
        "flat": np.array([0, -1]),
        "weights": tiny_weights(bits, crop, seed),
        "bytes": np.array([0, bits // 8, 8]),
        "places": np.array([[128], [64], [32], [16], [8], [4], [2], [1]], dtype=np.float32),
        "packed": np.array([0, bits // 8]),
        "cells": np.array([0, 1, MAPS, crop // MAPS, MAPS, crop // MAPS, 3]),
        "within": np.array([3, 5, 6]),
        "repeats": np.array([1, concepts, 1, 1]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=types.FLOAT),
        helper.make_node("Sub", ["pixels", "centre"], ["centred"]),
        helper.make_node("Reshape", ["centred", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
        helper.make_node("Greater", ["logits", "zero"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["bits"], to=types.FLOAT),
        helper.make_node("Reshape", ["bits", "bytes"], ["octets"]),
        helper.make_node("MatMul", ["octets", "places"], ["values"]),
        helper.make_node("Reshape", ["values", "packed"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["codes"], to=types.UINT8),
        helper.make_node("Reshape", ["pixels", "cells"], ["grid"]),
        helper.make_node("ReduceMean", ["grid", "within"], ["mean"], keepdims=0),
        helper.make_node("Tile", ["mean", "repeats"], ["attention"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", types.UINT8, ["batch", crop, crop, 3])],
        [
            helper.make_tensor_value_info("codes", types.UINT8, ["batch", bits // 8]),
            helper.make_tensor_value_info("logits", types.FLOAT, ["batch", bits]),
            helper.make_tensor_value_info(
                "attention", types.FLOAT, ["batch", concepts, MAPS, MAPS]
            ),
        ],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiny_bundle(
    folder: Path, *, bits: int = 16, concepts: int = 2, crop: int = 32, seed: int = 0
) -> Bundle:
    """A bundle ``tiny-SEED.chb`` in ``folder``; another seed is another model."""
    layout, preprocess = CodeLayout(bits, concepts), Preprocess(resize=crop, crop=crop)
    manifest = Manifest(
        name=f"tiny-{seed}",
        bits=bits,
        concepts=concepts,
        preprocessing=preprocess.to_json(),
        fingerprint=fingerprint(f"{seed:064x}", preprocess, layout),
        backbone="tiny",
        class_names=("one", "two"),
        concept_names=tuple(f"concept {m}" for m in range(concepts)),
        weights=f"{seed:064x}",
    )
    path = folder / f"{manifest.name}.chb"
    return write_bundle(path, manifest, {MODEL: tiny_graph(bits, concepts, crop, seed)})
