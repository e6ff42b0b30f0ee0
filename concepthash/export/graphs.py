"""The graphs of lower precision, each made from the fp32 graph. Needs onnx."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import onnx

from concepthash.bundle import METADATA_KEY, Artifact, Manifest
from concepthash.errors import DataError, UsageError
from concepthash.export import blame as blaming
from concepthash.export.blame import Blame, blame, out_of_proportion
from concepthash.export.calibration import PHOTOS, Inputs, calibrate
from concepthash.export.half import to_half
from concepthash.export.layers import load_graph
from concepthash.export.quantize import quantize
from concepthash.formats import FORMATS
from concepthash.images import Pixels
from concepthash.learn.report import Reporter

SYMMETRIC = FORMATS["openvino"].graphs["int8"]
"""The int8 graph for OpenVINO and TensorRT; the other is for ONNX Runtime."""


class Graphs:
    """Graphs of a bundle, made as they are needed.

    Args:
        fp32: the file of the fp32 graph.
        photos: gives photos to calibrate on; None if there are none.
        sample: photos on which layers are tried.
        count: how many to calibrate on.
        keep: how many layers int8 leaves in fp32; by default those that spoil much and save little.
        tell: told what is done.
    """

    def __init__(
        self,
        fp32: Path,
        *,
        photos: Callable[[int], Pixels] | None,
        sample: Pixels,
        count: int = PHOTOS,
        keep: int | None = None,
        tell: Reporter,
    ) -> None:
        self._fp32 = fp32
        self._photos = photos
        self._sample = sample[: blaming.PHOTOS]
        self._count = count
        self._keep = keep
        self._tell = tell

    def make(self, name: str, path: Path) -> None:
        """Write the graph that a bundle calls ``name`` to ``path``.

        Raises:
            UsageError: for int8 without photos.
        """
        if name in (FORMATS["onnx"].files["int8"], SYMMETRIC):
            graph = quantize(
                self._model, self._inputs, symmetric=name == SYMMETRIC, keep=self.kept(name)
            )
        else:
            graph = to_half(self._model)
        onnx.save(graph, str(path))
        self._tell.note(f"export: wrote {name}, {path.stat().st_size / 2**20:.1f} MiB")

    def kept(self, name: str) -> list[str]:
        """The layers that a graph leaves in fp32."""
        if "int8" not in name:
            return []
        if self._keep is not None:
            return [found.layer for found in self._blamed[: self._keep]] if self._keep else []
        return out_of_proportion(self._blamed)

    def worst(self, name: str) -> list[Blame]:
        """The layers by how much this precision changes the logits, each alone."""
        if name == FORMATS["onnx"].files["fp32"]:
            return []
        if "int8" in name:
            return self._blamed
        return self._try(lambda only: to_half(self._model, only=only), "fp16")

    @cached_property
    def _model(self) -> onnx.ModelProto:
        return load_graph(self._fp32)

    @cached_property
    def _inputs(self) -> dict[str, Inputs]:
        if self._photos is None:
            raise UsageError(
                "int8 is calibrated on photos, and none are at hand",
                where="--precision int8",
                hint="--calibrate FOLDER, with 512 photos like those it will see",
            )
        pixels = self._photos(self._count)
        if not len(pixels):
            raise DataError(
                "none of the photos to calibrate on can be read",
                where="--calibrate",
                hint="--calibrate FOLDER, with other photos",
            )
        few = "" if len(pixels) >= PHOTOS else f"; {PHOTOS} are advised"
        self._tell.note(f"export: int8 is calibrated on {len(pixels)} photos{few}")
        return calibrate(
            self._model, pixels, progress=lambda *done: self._tell.progress("calibrating", *done)
        )

    @cached_property
    def _blamed(self) -> list[Blame]:
        inputs = self._inputs
        return self._try(
            lambda only: quantize(self._model, inputs, symmetric=False, only=only), "int8"
        )

    def _try(self, reduced: Callable[[Collection[str]], onnx.ModelProto], what: str) -> list[Blame]:
        return blame(
            self._model,
            reduced,
            self._sample,
            progress=lambda *done: self._tell.progress(f"trying layers in {what}", *done),
        )


def carry_manifest(path: Path, name: str, manifest: Manifest) -> None:
    """Let an ONNX file carry the manifest, so that it can be used alone.

    Args:
        path: the file.
        name: what a bundle calls it, which tells what can run it.
        manifest: of the bundle; files are left out, and artefacts of other files.
    """
    own = tuple(
        Artifact(form.name, precision, name)
        for form in FORMATS.values()
        for precision, file in form.files.items()
        if file == name
    )
    alone = replace(manifest, files={}, artifacts=own)
    model = onnx.load(str(path))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(alone.to_json())})
    onnx.save(model, str(path))
