"""What an export starts from: a training run, or a bundle that shall have more artefacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from concepthash.bundle import MODEL, Bundle, Manifest
from concepthash.codes import CodeLayout
from concepthash.datasets import Dataset
from concepthash.encoder import Encoder
from concepthash.images import Preprocess
from concepthash.runtime.session import open_session


@dataclass(frozen=True)
class Source:
    """A model to export.

    Args:
        path: the run or the bundle.
        network: the model itself, which every artefact is compared with.
        preprocess, layout: of the model.
        manifest: what the bundle will say of it, but for files and artefacts.
        data: reads the photos of its training; None if they are not known.
        write_graph: writes the fp32 graph; None if the bundle has it.
        bundle: the bundle to extend; None for a new one.
    """

    path: Path
    network: Encoder
    preprocess: Preprocess
    layout: CodeLayout
    manifest: Manifest
    data: Callable[[], Dataset] | None
    write_graph: Callable[[Path], None] | None
    bundle: Bundle | None = None


def open_bundle(path: Path) -> Source:
    """A bundle, whose fp32 graph stands for the network; needs neither torch nor onnx.

    Raises:
        BundleError: if it cannot be read, is damaged, or lacks the fp32 graph.
    """
    bundle = Bundle.open(path)
    bundle.verify(MODEL)
    manifest = bundle.manifest
    session = open_session(bundle.file(MODEL), device="cpu")
    return Source(path, session, manifest.preprocess, manifest.layout, manifest, None, None, bundle)
