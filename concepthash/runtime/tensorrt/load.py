"""``load_engine``: the engine of a bundle, built anew from the graph where it does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from concepthash.bundle import LARGEST_FILE
from concepthash.errors import BackendError, BundleError
from concepthash.files import reason, refuse_pipe, sha256
from concepthash.formats import Precision
from concepthash.onnxmeta import LARGEST_ONNX
from concepthash.runtime.tensorrt.build import (
    BuildOptions,
    Note,
    build_engine,
    timing_cache_file,
)
from concepthash.runtime.tensorrt.cuda import Cuda, open_cuda
from concepthash.runtime.tensorrt.library import import_library
from concepthash.runtime.tensorrt.monitor import Progress
from concepthash.runtime.tensorrt.provenance import Target, read_provenance, stale
from concepthash.runtime.tensorrt.run import EngineEncoder, open_engine

Store = Callable[[dict[str, bytes]], object]


def load_engine(
    file: Path,
    graph: Path,
    *,
    form: str,
    precision: Precision,
    device: int = 0,
    rebuild: bool = True,
    options: BuildOptions | None = None,
    store: Store | None = None,
    note: Note | None = None,
    progress: Progress | None = None,
    trt: Any = None,
    cuda: Cuda | None = None,
) -> EngineEncoder:
    """The engine of a bundle, ready to run; where it does not fit, a new one from the graph.

    Args:
        file: the engine, with its record beside it; it need not be there.
        graph: the ONNX file it is built from.
        form: ``trt`` or ``trt-rtx``.
        precision: of the graph.
        device: number of the GPU.
        rebuild: whether to build a new one, which takes minutes, or to say why that is needed.
        options: for a new one; by default the timing cache is in the user's cache folder.
        store: keeps a new engine and its record, names to contents; what it raises of
            BundleError and OSError becomes a note, and the engine is used from memory.
        note: told what happens before it happens; also in :attr:`EngineEncoder.note`.
        progress: as of :func:`concepthash.runtime.tensorrt.build.build_engine`.
        trt: the module; by default the one of ``form`` is imported.
        cuda: the GPU; by default number ``device``.

    Raises:
        BackendError: if the library or the GPU is missing, the engine does not fit and is not to
            be built, or cannot be.
        BundleError: if the graph cannot be read.
    """
    library = trt or import_library(form)
    where = cuda or open_cuda(device)
    gpu = where.gpu()
    target = Target(library.__name__, library.__version__, gpu)
    content, why = _fitting(file, graph, target)
    if why is None:
        return open_engine(content, trt=library, cuda=where, precision=precision)
    if not rebuild:
        raise BackendError(
            why, where=file, hint=f"chash export RUN --format {form} --precision {precision}"
        )
    tell = note or _ignore
    tell(f"{why}; a new one is built from {graph.name}")
    built = build_engine(
        library,
        graph,
        precision=precision,
        cuda=where,
        options=options or BuildOptions(timing_cache=timing_cache_file(library, gpu)),
        note=note,
        progress=progress,
    )
    kept = _keep(built.files(file.name), store)
    if kept:
        tell(kept)
    said = ". ".join(text for text in (f"{why}: built anew", kept) if text)
    return open_engine(built.engine, trt=library, cuda=where, precision=precision, note=said)


def _fitting(file: Path, graph: Path, target: Target) -> tuple[bytes, str | None]:
    """The engine and None, or why there is none that fits."""
    try:
        if graph.stat().st_size > LARGEST_ONNX:
            raise OSError("it is larger than any")
        digest = sha256(graph)
    except OSError as error:
        raise BundleError(
            f"cannot read the graph: {reason(error)}",
            where=graph,
            hint="copy the bundle again, or chash export RUN --force",
        ) from None
    try:
        refuse_pipe(file)
        if file.is_file() and file.stat().st_size > LARGEST_FILE:
            return b"", "the engine is damaged: it is larger than any"
        content = file.read_bytes()
        made = read_provenance(file)
    except FileNotFoundError:
        return b"", "the bundle has no engine of this kind"
    except (OSError, BundleError) as error:
        return b"", error.what if isinstance(error, BundleError) else reason(error)
    own = hashlib.sha256(content).hexdigest()
    return content, stale(made, target, graph_sha256=digest, engine_sha256=own)


def _keep(files: dict[str, bytes], store: Store | None) -> str:
    """Store them; why that failed, or nothing."""
    if store is None:
        return ""
    try:
        store(files)
    except (BundleError, OSError) as error:
        what = error.what if isinstance(error, BundleError) else reason(error)
        return f"the new engine is used from memory and not kept: {what}"
    return ""


def _ignore(text: str) -> None:
    """For callers who want no notes."""
