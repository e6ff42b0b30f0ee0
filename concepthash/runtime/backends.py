"""Which back end runs a bundle, in which precision, on which device."""

from __future__ import annotations

from concepthash.bundle import MODEL, Bundle
from concepthash.encoder import Encoder
from concepthash.runtime.session import open_session


def open_encoder(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> Encoder:
    """A bundle's model, ready to run.

    Args:
        bundle: a folder or a lone ONNX file.
        backend: a name of the table, or ``auto``.
        precision: ``fp32``, ``fp16`` or ``int8``; by default fp32 if the bundle has it, so that
            queries and gallery are hashed alike everywhere.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it works, else the CPU.
        threads: CPU threads; by default every CPU this process may use.

    Raises:
        UsageError: for a name that is not known.
        BackendError: if the back end or the device is not to be had, or the bundle lacks the file.
        BundleError: if the file cannot be loaded or is not a graph of this project.
    """
    return open_session(bundle.file(MODEL), device=device, threads=threads)
