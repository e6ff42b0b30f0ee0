"""What lower precisions cost in bits and ranks, and what they save in time and size.

The model is the worked example's (``runs/cub20``; ``python -m benchmarks.cub20`` trains it), and a
ViT-B/32 of random numbers, of which only speed and size mean anything. Every back end runs in this
one process, in turns, with 1 and with 2 threads; bits and mAP are those of all 1,185 photos.
"""

import gc
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.cub20 import DATA, RUN
from benchmarks.report import interleaved, write
from concepthash.bundle import Bundle
from concepthash.codes import unpack
from concepthash.codesets import CodeSet
from concepthash.datasets import evaluate_splits, load_dataset
from concepthash.demo import draw_bird, species
from concepthash.errors import Skipped
from concepthash.export.bundle import Options, export_bundle
from concepthash.export.calibration import calibrate
from concepthash.export.graph import write_onnx
from concepthash.export.layers import load_graph
from concepthash.export.quantize import quantize
from concepthash.formats import FORMATS
from concepthash.images import Preprocess
from concepthash.learn.backbone import create_vit
from concepthash.learn.checkpoint import assemble
from concepthash.learn.config import Config
from concepthash.runtime.evaluate import hash_labelled
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.openvino import open_openvino
from concepthash.runtime.session import open_session

INT8, SYMMETRIC = FORMATS["onnx"].files["int8"], FORMATS["openvino"].files["int8"]


def speed(folder: Path, pixels: np.ndarray, repeats: int) -> list[dict[str, object]]:
    """Median ms a photo of each back end and precision, and the ratio to ONNX Runtime in fp32."""
    rows: list[dict[str, object]] = []
    for threads, batch in product((1, 2), (1, 8)):
        opened = {
            "onnxruntime fp32": open_session(folder / "model.onnx", device="cpu", threads=threads),
            "onnxruntime int8": open_session(folder / INT8, device="cpu", threads=threads),
            "onnxruntime int8 symmetric": open_session(
                folder / SYMMETRIC, device="cpu", threads=threads
            ),
            "openvino fp32": open_openvino(folder / "model.onnx", threads=threads),
            "openvino int8": open_openvino(folder / SYMMETRIC, threads=threads),
        }
        if (folder / "qoperator.onnx").exists():
            opened["onnxruntime int8 as MatMulInteger"] = open_session(
                folder / "qoperator.onnx", device="cpu", threads=threads
            )
        photos = pixels[:batch]
        runs: dict[str, Callable[[], object]] = {
            name: lambda encoder=encoder, photos=photos: encoder.codes(photos)
            for name, encoder in opened.items()
        }
        seconds = interleaved(runs, repeats=repeats if batch == 1 else max(repeats // 3, 5))
        for name, value in seconds.items():
            rows.append(
                {
                    "threads": threads,
                    "batch": batch,
                    "what": name,
                    "ms_a_photo": round(value / batch * 1e3, 3),
                    "times_onnxruntime_fp32": round(seconds["onnxruntime fp32"] / value, 2),
                }
            )
        for encoder in opened.values():
            encoder.close()
        gc.collect()
    return rows


def as_integer_products(path: Path, out: Path) -> None:
    """The int8 graph with its pairs spelled as MatMulInteger, the other way ONNX has."""
    model = onnx.load(str(path))
    maker = {name: node for node in model.graph.node for name in node.output}
    nodes = []
    for node in model.graph.node:
        pair = [maker.get(name) for name in node.input]
        if node.op_type != "MatMul" or any(p is None or p.op_type[:3] != "Deq" for p in pair):
            nodes.append(node)
            continue
        (x, step, zero), (weights, steps) = pair[0].input, pair[1].input
        name = node.output[0]
        nodes += [
            helper.make_node("MatMulInteger", [x, weights, zero], [f"{name}.i"]),
            helper.make_node("Cast", [f"{name}.i"], [f"{name}.f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [step, steps], [f"{name}.s"]),
            helper.make_node("Mul", [f"{name}.f", f"{name}.s"], [name]),
        ]
    used = {name for node in nodes for name in node.input}
    nodes = [n for n in nodes if n.op_type[:3] != "Deq" or n.output[0] in used]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(out))


def accuracy(bundle: Path) -> list[dict[str, object]]:
    """Bits and mAP of each artefact that runs here, on every photo of both splits."""
    data = load_dataset(str(DATA))
    rows: list[dict[str, object]] = []
    exact: dict[str, np.ndarray] = {}
    for backend, precision in product(("onnxruntime", "openvino"), ("fp32", "fp16", "int8")):
        hasher = Hasher(bundle, device="cpu", backend=backend, precision=precision)
        sets: dict[str, CodeSet] = {
            name: hash_labelled(hasher, data, split, skipped=Skipped())
            for name, split in (("train", data.train), ("test", data.test))
        }
        found = evaluate_splits(sets["test"], sets["train"], data, {})
        bits = {name: unpack(codes.codes) for name, codes in sets.items()}
        exact = exact or bits
        rows.append(
            {
                "backend": hasher.backend,
                "map": found.map.expected,
                "precision_at_1": found.precision[1],
                **{
                    f"bits_flipped_{name}": float((bits[name] != exact[name]).mean())
                    for name in bits
                },
            }
        )
    for row in rows:
        row["map_delta"] = float(row["map"]) - float(rows[0]["map"])  # type: ignore[arg-type]
        row["bit_agreement_test"] = 1 - float(row["bits_flipped_test"])  # type: ignore[arg-type]
    return rows


def base(folder: Path) -> np.ndarray:
    """ViT-B/32 of random numbers as fp32 and int8 graphs; photos to time it on."""
    changes = {
        "model": {"backbone": "vit_base_patch32_224", "weights": "none", "concept_mode": "paper"},
        "data": {"resize": 256, "crop": 224},
    }
    config = Config.recipe("paper").updated(changes, where="benchmark")
    vit = create_vit(config.model.backbone, crop=224, arguments={})
    write_onnx(assemble(config.model, vit).eval(), folder / "model.onnx", crop=224)
    spec = Preprocess(resize=256, crop=224)
    kinds = species(8)
    pixels = np.stack([spec(draw_bird(kinds[i % 8], seed=i, size=320).image) for i in range(64)])
    graph = load_graph(folder / "model.onnx")
    inputs = calibrate(graph, pixels)
    for name in (INT8, SYMMETRIC):
        onnx.save(quantize(graph, inputs, symmetric=name == SYMMETRIC), str(folder / name))
    return pixels


def sizes(folder: Path) -> dict[str, object]:
    found = {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if "model" in p.name}
    whole = found["model.onnx"]
    return {
        name: {"bytes": size, "of_fp32": round(size / whole, 4)} for name, size in found.items()
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        forms = ["onnx", "openvino", "trt-rtx"]
        result = export_bundle(
            RUN,
            folder / "tiny.chb",
            formats=forms,
            precisions=["fp32", "fp16", "int8"],
            options=Options(),
        )
        bundle = Bundle.open(result.bundle)
        as_integer_products(bundle.file(INT8), bundle.path / "qoperator.onnx")
        data = load_dataset(str(DATA))
        spec = bundle.manifest.preprocess
        pixels = np.stack([spec(data.root / path) for path in data.test.paths[:8]])
        rows = speed(bundle.path, pixels, repeats=30)
        measured = accuracy(bundle.path)
        own = sizes(bundle.path)
        (folder / "base").mkdir()
        photos = base(folder / "base")
        write(
            "export",
            {
                "what": "lower precisions against fp32; times are medians of interleaved runs",
                "vit_tiny": {
                    "export": [found.to_json() for found in result.checked],
                    "sizes": own,
                    "speed": rows,
                    "accuracy": measured,
                },
                "vit_base_patch32_random_weights": {
                    "sizes": sizes(folder / "base"),
                    "speed": speed(folder / "base", photos, repeats=15),
                },
            },
        )


if __name__ == "__main__":
    main()
