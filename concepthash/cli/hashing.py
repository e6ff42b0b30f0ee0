"""A bundle ready to hash photos, as the options that verbs share say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.locate import check_model, newest_bundle
from concepthash.cli.output import Output

if TYPE_CHECKING:
    from concepthash.bundle import Bundle
    from concepthash.runtime.hasher import Hasher


def chosen_model(named: Path | None, output: Output, named_by: str = "--model NAME.chb") -> Path:
    """The model that was named, or else the newest bundle here, which is told.

    Args:
        named: a bundle, or an ONNX file of one.
        output: where to tell.
        named_by: how the verb is told of another one.

    Raises:
        UsageError: if nothing was named, and there is no bundle here.
        BundleError: if it is neither.
    """
    if named is not None:
        return check_model(named)
    found = newest_bundle(named_by)
    output.choice("model", found, "the newest bundle here")
    return found


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
