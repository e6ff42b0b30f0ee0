"""Engines of TensorRT and TensorRT-RTX, from a bundle's graphs; needs neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from concepthash.encoder import Encoder
from concepthash.errors import BackendError
from concepthash.formats import Format, Precision
from concepthash.learn.report import Reporter
from concepthash.runtime.openvino import openvino_core
from concepthash.runtime.tensorrt import (
    BuildOptions,
    Cuda,
    Step,
    build_engine,
    import_library,
    open_cuda,
    open_engine,
    timing_cache_file,
)


def check_ready(form: Format, precisions: Sequence[str]) -> None:
    """Refuse a format that cannot be made here, before any work.

    Args:
        form: to be made.
        precisions: in which.

    Raises:
        BackendError: with what to install, and where to run it, if the library or the GPU is
            missing.
    """
    if not form.engine:
        if form.name == "openvino":
            openvino_core()
        return
    try:
        import_library(form.name)
        _gpu(required=form.name == "trt")
    except BackendError as error:
        wanted = ",".join(precisions)
        graph = "openvino" if "int8" in precisions else "onnx"  # who has the graph it is built from
        raise BackendError(
            error.what,
            where=f"--format {form.name}",
            hint=f"{error.hint}. A bundle made here with --format {graph} --precision {wanted} "
            f"goes there, and then: chash export NAME.chb --format {form.name} "
            f"--precision {wanted}",
        ) from None


def make_engine(
    form: Format,
    precision: Precision,
    graph: Path,
    *,
    capabilities: Sequence[str],
    tell: Reporter,
) -> tuple[dict[str, bytes], Encoder | None]:
    """An engine and its record, names to contents, and what runs it: None without a GPU.

    Args:
        form: ``trt``, which needs the GPU, or ``trt-rtx``, which does not.
        precision: of the graph.
        graph: the ONNX file in the bundle.
        capabilities: compute capabilities of a TensorRT-RTX engine; empty for all later than 8.0.
        tell: told that it takes a while, and how far it is.

    Raises:
        BackendError: without the library, without a GPU where one is needed, or if it cannot be
            built.
    """
    library = import_library(form.name)
    cuda = _gpu(required=form.name == "trt")
    cache = timing_cache_file(library, cuda.gpu()) if cuda is not None else None

    def progress(step: Step) -> None:
        if step.depth <= 1:
            tell.progress(f"building the engine: {step.phase}", step.done, step.steps)

    built = build_engine(
        library,
        graph,
        precision=precision,
        cuda=cuda if form.name == "trt" else None,
        options=BuildOptions(capabilities=tuple(capabilities), timing_cache=cache),
        note=tell.note,
        progress=progress,
    )
    files = built.files(form.files[precision])
    if cuda is None:
        return files, None
    try:
        return files, open_engine(built.engine, trt=library, cuda=cuda, precision=precision)
    except BackendError as error:
        if form.name == "trt":
            raise
        tell.note(f"the engine is not for the GPU here: {error.what}")
        return files, None


def _gpu(*, required: bool) -> Cuda | None:
    try:
        cuda = open_cuda(0)
        cuda.gpu()
        return cuda
    except BackendError:
        if required:
            raise
        return None
