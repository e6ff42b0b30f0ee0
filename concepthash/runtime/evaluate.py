"""Labelled codes of a data set from a bundle: what ``chash eval`` measures without torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from concepthash.codesets import CodeSet
from concepthash.datasets import Dataset, Split
from concepthash.errors import DataError, Skipped
from concepthash.runtime.hasher import Hasher


def hash_labelled(
    hasher: Hasher,
    data: Dataset,
    split: Split,
    *,
    skipped: Skipped,
    progress: Callable[[int, int], None] | None = None,
) -> CodeSet:
    """Codes and labels of the readable photos of one split, in the split's order.

    Args:
        hasher: of the bundle.
        data: whose root the split's paths are relative to.
        split: of ``data``.
        skipped: photos that could not be read are added here.
        progress: called with (done, total) after every photo.

    Raises:
        DataError: if no photo could be read.
        BackendError: if the graph cannot be computed.
    """
    codes, kept = [], []
    hashed = hasher.hash(data.root / path for path in split.paths)
    for position, item in enumerate(hashed):
        if item.code is None:
            skipped.add(split.paths[position], item.error.what if item.error else "unreadable")
        else:
            codes.append(item.code)
            kept.append(position)
        if progress is not None:
            progress(position + 1, len(split))
    if not codes:
        raise DataError(
            "not one photo of the split could be read", where=data.root, hint="check --data"
        )
    return CodeSet(np.stack(codes), split.labels[kept], hasher.layout)
