"""A bundle whose concepts are colours, and photos whose parts are painted in them.

Concept 0 sees red, 1 green and 2 blue: its map is the mean of its channel in each of 4 x 4 cells,
its logits are the mean of its channel over the photo minus eight thresholds. All sums are whole
numbers over a power of two, so they are exact. :func:`colour_logits` is the oracle.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concepthash.bundle import METADATA_KEY, MODEL, Bundle, Manifest, fingerprint, write_bundle
from concepthash.codes import CodeLayout
from concepthash.images import Pixels, Preprocess

SIDE, CELLS, CELL = 32, 4, 8
LAYOUT = CodeLayout(24, 3)
THRESHOLDS = np.arange(1, 17, 2, dtype=np.float32)
PARTS = ("beak", "left wing", "tail")
"""The part that is painted in red, in green, in blue."""
IMAGE_COLUMNS = "cub_image_id,path,official_split,width,height,bbox_x,bbox_y,bbox_w,bbox_h"


def colour_logits(pixels: Pixels) -> np.ndarray:
    """What the bundle must answer for ``(B, 32, 32, 3)``: ``(B, 24)`` float64."""
    means = pixels.reshape(len(pixels), -1, 3).astype(float).mean(axis=1)
    return (means[:, :, None] - THRESHOLDS).reshape(len(pixels), -1)


def colour_maps(pixels: Pixels) -> np.ndarray:
    """The maps of ``(B, 32, 32, 3)``: ``(B, 3, 4, 4)`` float64."""
    cells = pixels.reshape(len(pixels), CELLS, CELL, CELLS, CELL, 3).astype(float)
    return cells.mean(axis=(2, 4)).transpose(0, 3, 1, 2)


def colour_bundle(folder: Path) -> Bundle:
    """The bundle ``colour.chb`` in ``folder``."""
    preprocess = Preprocess(resize=SIDE, crop=SIDE)
    manifest = Manifest(
        name="colour",
        bits=LAYOUT.bits,
        concepts=LAYOUT.concepts,
        preprocessing=preprocess.to_json(),
        fingerprint=fingerprint("c" * 64, preprocess, LAYOUT),
        backbone="colour",
        class_names=("one", "two"),
        concept_names=("red", "green", "blue"),
    )
    return write_bundle(folder / "colour.chb", manifest, {MODEL: _graph()})


def lone_file(bundle: Bundle, path: Path) -> Path:
    """The graph of a bundle as a file of its own, with the manifest in it."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(bundle.file(MODEL))
    text = json.dumps({**bundle.manifest.to_json(), "files": {}})
    onnx.helper.set_model_props(model, {METADATA_KEY: text})
    onnx.save(model, path)
    return path


def _graph() -> bytes:
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    constants = {
        "zero": np.float32(0),
        "cells": np.array([0, CELLS, CELL, CELLS, CELL, 3]),
        "within": np.array([2, 4]),
        "over": np.array([1, 2]),
        "thresholds": THRESHOLDS,
        "column": np.array([0, 3, 1]),
        "row": np.array([0, LAYOUT.bits]),
        "bytes": np.array([0, LAYOUT.nbytes, 8]),
        "places": np.array([[128], [64], [32], [16], [8], [4], [2], [1]], dtype=np.float32),
        "packed": np.array([0, LAYOUT.nbytes]),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=types.FLOAT),
        helper.make_node("Reshape", ["pixels", "cells"], ["grid"]),
        helper.make_node("ReduceMean", ["grid", "within"], ["means"], keepdims=0),
        helper.make_node("Transpose", ["means"], ["attention"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["means", "over"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["channels"]),
        helper.make_node("Sub", ["channels", "thresholds"], ["beyond"]),
        helper.make_node("Reshape", ["beyond", "row"], ["logits"]),
        helper.make_node("Greater", ["logits", "zero"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["bits"], to=types.FLOAT),
        helper.make_node("Reshape", ["bits", "bytes"], ["octets"]),
        helper.make_node("MatMul", ["octets", "places"], ["values"]),
        helper.make_node("Reshape", ["values", "packed"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["codes"], to=types.UINT8),
    ]
    image = ["batch", SIDE, SIDE, 3]
    maps = ["batch", LAYOUT.concepts, CELLS, CELLS]
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("image", types.UINT8, image)],
        [
            helper.make_tensor_value_info("codes", types.UINT8, ["batch", LAYOUT.nbytes]),
            helper.make_tensor_value_info("logits", types.FLOAT, ["batch", LAYOUT.bits]),
            helper.make_tensor_value_info("attention", types.FLOAT, maps),
        ],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def painted(folder: Path, count: int = 8, *, seed: int = 0, masks: bool = False) -> Path:
    """``count`` black photos in ``folder``, with three parts painted in cells of their own.

    The parts lie in the left half, which is the box; every photo but the first is of the test
    split. The key point of a part is the centre of its cell.
    """
    generator = np.random.default_rng(seed)
    images, points = [IMAGE_COLUMNS.split(",")], [["cub_image_id", "part", "x", "y", "visible"]]
    for number in range(count):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        name = f"images/{number}.png"
        # Not in the outer cells of the photo: its border stays black.
        cells = generator.permutation([(1, 0), (1, 1), (2, 0), (2, 1)])[:3]
        for channel, (row, column) in enumerate(cells):
            rows = slice(row * CELL, row * CELL + CELL)
            columns = slice(column * CELL + 2, column * CELL + CELL)
            pixels[rows, columns, channel] = generator.integers(100, 256)
            labels[rows, columns] = channel + 1
            place = [str(column * CELL + CELL / 2), str(row * CELL + CELL / 2)]
            points.append([str(number), PARTS[channel], *place, "1"])
        split = "test" if number else "train"
        images.append([str(number), name, split, *[str(SIDE)] * 2, "0", "8", "16", "16"])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
        if masks:
            (folder / "masks/images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(folder / "masks" / name)
            (folder / "parts.txt").write_text("0 background\n1 beak\n2 wing\n3 tail\n")
    write_csv(folder / "images.csv", images)
    write_csv(folder / "part_locs.csv", points)
    return folder


def write_csv(file: Path, rows: list[list[str]]) -> None:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
