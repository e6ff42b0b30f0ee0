"""Damaged bundles, graphs, training runs and engines."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from benchmarks.torture import mutations
from benchmarks.torture.forked import Run, Work
from benchmarks.torture.world import (
    Note,
    World,
    query,
    reseal,
    rows_of,
)


def bundle(world: World, rng: random.Random) -> Work:
    """A file of a bundle, whose checksum is not renewed; or a value of its manifest."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chb", "birds.chg")
        folder = place / "birds.chb"
        file = folder / rng.choice(["manifest.json", "manifest.json", "model.onnx"])
        if file.suffix == ".json" and rng.random() < 0.7:
            note(f"did manifest.json: {mutations.json_changed(file, rng)}")
        else:
            note(f"did {file.name}: {rng.choice(mutations.FILE)(file, rng)}")
        _ask_model(world, run, note, rng, "birds.chb")

    return work


def resealed(world: World, rng: random.Random) -> Work:
    """A graph that was changed by someone who renewed its checksum."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chb", "birds.chg", "other.chb")
        file = place / "birds.chb" / "model.onnx"
        note(f"did resealed model.onnx: {_graph_changed(file, rng)}")
        reseal(place / "birds.chb")
        verb = query(world, run)
        if verb.code == 0 and not rows_of(verb):
            note(f"no rows: {verb.out[:200]}")
        run("inspect", "birds.chb", "--json")

    return work


def alone(world: World, rng: random.Random) -> Work:
    """A graph that was taken out of its bundle: it has no checksum."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chg", "lone.onnx")
        note(f"did lone.onnx: {_graph_changed(place / 'lone.onnx', rng)}")
        verb = query(world, run, model="lone.onnx")
        if verb.code == 0 and rows_of(verb) != world.rows:
            note("+ other rows of a lone file")
        run("inspect", "lone.onnx", "--json")

    return work


def _ask_model(world: World, run: Run, note: Note, rng: random.Random, model: str) -> None:
    verb = query(world, run, model=model)
    if verb.code in (0, 3) and rows_of(verb) != world.rows:
        note(f"wrong rows of {verb}: {rows_of(verb)[:2]} instead of {world.rows[:2]}")
    run("inspect", model, "--json")
    if rng.random() < 0.3:
        photos = world.folder / "photos" / "bird-2"
        more = rng.choice(
            [
                ("index", photos, "--model", model, "--out", "new.chg", "--threads", "1"),
                ("concepts", model, "--json"),
                ("explain", world.photo, "--model", model, "--out", "why", "--json"),
                ("concepts", "name", model, "a,b,c,d"),
            ]
        )
        run(*more)


def _graph_changed(file: Path, rng: random.Random) -> str:
    """Bytes of a graph, or what ONNX makes of it."""
    import onnx

    if rng.random() < 0.5:
        return rng.choice(mutations.FILE)(file, rng)
    model = onnx.load(file)
    graph = model.graph
    how = rng.choice(
        ["opset", "no opset", "input", "input type", "batch", "output", "output type", "external",
         "huge", "node", "loop", "domain", "shape", "version", "other"]
    )  # fmt: skip
    if how == "opset":
        model.opset_import[0].version = rng.choice([0, 1, 13, 99, 2**31, -1])
    elif how == "no opset":
        del model.opset_import[:]
    elif how == "input":
        graph.input[0].name = rng.choice(["", "picture", "x" * 10_000])
    elif how == "input type":
        graph.input[0].type.tensor_type.elem_type = rng.choice([0, 1, 3, 7, 8, 99])
    elif how == "batch":
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = rng.choice([1, 0, -1, 2**40])
    elif how == "output":
        del graph.output[rng.randrange(len(graph.output))]
    elif how == "output type":
        rng.choice(graph.output).type.tensor_type.elem_type = rng.choice([0, 1, 3, 7])
    elif how == "external":
        weights = rng.choice(graph.initializer)
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        where = rng.choice(
            ["../canary", "/etc/passwd", "weights.bin", "manifest.json", "/dev/zero"]
        )
        for key, value in (("location", where), ("offset", "0"), ("length", "99999999")):
            entry = weights.external_data.add()
            entry.key, entry.value = key, value
    elif how == "huge":
        weights = rng.choice(graph.initializer)
        weights.dims[:] = [2**31, 2**31]
    elif how == "node":
        del graph.node[rng.randrange(len(graph.node))]
    elif how == "loop":
        graph.node[0].input[0] = graph.node[-1].output[0]
    elif how == "domain":
        rng.choice(graph.node).domain = "evil.example"
    elif how == "shape":
        codes = next(port for port in graph.output if port.name == "codes")
        codes.type.tensor_type.shape.dim[1].dim_value = rng.choice([1, 9, 2**40])
    elif how == "version":
        model.ir_version = rng.choice([0, 99, 2**40])
    else:
        graph.input[0].type.tensor_type.shape.dim[1].dim_value = rng.choice([1, 31, 64, 2**30])
    file.write_bytes(model.SerializeToString())
    return how


def trained(world: World, rng: random.Random) -> Work:
    """The records and the weights of a training; the weights have no checksum."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "run")
        file = rng.choice(sorted((place / "run").iterdir()))
        if file.suffix == ".json" and rng.random() < 0.7:
            note(f"did {file.name}: {mutations.json_changed(file, rng)}")
        else:
            note(f"did {file.name}: {rng.choice(mutations.FILE)(file, rng)}")
        run("inspect", "run", "--json")
        run("eval", "run", "--json")

    return work


def engine(world: World, rng: random.Random) -> Work:
    """An engine, its record or its graph: nothing is loaded but what was built and recorded."""

    def work(place: Path, run: Run, note: Note) -> None:
        from fake_cuda import FakeCudart
        from tensorrt_fakes import FakeTensorRT

        from concepthash.bundle import Artifact, Bundle, extend_bundle
        from concepthash.errors import ConceptHashError
        from concepthash.formats import FORMATS
        from concepthash.runtime.tensorrt import Cuda, load, load_engine, sidecar

        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        world.take(place, "birds.chb")
        folder, name = place / "birds.chb", FORMATS["trt"].files["fp32"]
        graph = folder / "model.onnx"
        graph.write_bytes(b"ours")  # what the fake parser reads
        trt = FakeTensorRT("11.4")
        trt.memory = FakeCudart()
        artifact = Artifact("trt", "fp32", name)

        def store(files: dict[str, bytes]) -> None:
            extend_bundle(Bundle.open(folder), dict(files), [artifact])

        loaded: list[bytes] = []
        opened = load.open_engine

        def watched(content: bytes, **rest: Any) -> Any:
            loaded.append(content)
            return opened(content, **rest)

        load.open_engine = watched

        def use(*, rebuild: bool) -> None:
            load_engine(
                folder / name, graph, form="trt", precision="fp32", trt=trt,
                cuda=Cuda(trt.memory, 0), store=store, rebuild=rebuild,
            ).close()  # fmt: skip

        use(rebuild=True)
        built = loaded.pop()
        reseal(folder)
        file = folder / rng.choice([name, sidecar(name), sidecar(name), "model.onnx"])
        if file.suffix == ".json" and rng.random() < 0.6:
            note(f"did {file.name}: {mutations.json_changed(file, rng)}")
        else:
            note(f"did {file.name}: {rng.choice(mutations.FILE)(file, rng)}")
        try:
            use(rebuild=False)
        except ConceptHashError as error:
            if not (error.what and error.where and error.hint):
                note(f"an error without where or hint: {error!r}")
        if any(content != built for content in loaded):
            note("an engine was loaded that is not the one that was built")
        if loaded and file.name == "model.onnx" and graph.read_bytes() != b"ours":
            note("an engine was loaded for another graph")
        run("inspect", "birds.chb", "--json")

    return work
