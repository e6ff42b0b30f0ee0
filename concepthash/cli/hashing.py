"""A bundle ready to hash photos, as the options that verbs share say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.output import Output

if TYPE_CHECKING:
    from concepthash.bundle import Bundle
    from concepthash.runtime.hasher import Hasher


def open_hasher(
    model: Bundle | Path,
    output: Output,
    *,
    device: str | None,
    threads: int | None,
    batch_size: int | None,
    backend: str | None = None,
    precision: str | None = None,
) -> Hasher:
    """The hasher, after what there is to say of the choice of its back end.

    Raises:
        BundleError: if the bundle cannot be read or is damaged.
        BackendError: if the back end, the device or the precision is not to be had.
        UsageError: for a name that is not known.
    """
    from concepthash.runtime.hasher import Hasher

    hasher = Hasher(
        model,
        device=device or "auto",
        threads=threads,
        batch_size=batch_size,
        backend=backend or "auto",
        precision=precision,
        tell=output.note,
    )
    if hasher.note:
        output.note(hasher.note)
    return hasher
