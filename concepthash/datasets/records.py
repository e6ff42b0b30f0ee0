"""What a data set is, and what the readers of the layouts hand over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Part = Literal["train", "test", "val"]
"""The split an entry names for itself."""


@dataclass(frozen=True, eq=False)
class Split:
    """The photos of one split and their classes, aligned.

    Args:
        paths: posix, relative to the root of the data set.
        labels: ``(n,)`` int64, positions in ``Dataset.class_names``.
    """

    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        assert self.labels.shape == (len(self.paths),)
        assert self.labels.dtype == np.int64

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: Iterable[int]) -> Split:
        """The given rows, in the given order."""
        chosen = list(rows)
        return Split(
            tuple(self.paths[row] for row in chosen),
            self.labels[np.asarray(chosen, dtype=np.intp)],
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Photos, classes and splits, read from disk.

    Args:
        root: the folder all paths are relative to.
        layout: folder, csv, cub, nabirds, aircraft or cars.
        class_names: for people and prompts ("Groove billed Ani"), by label.
        train: every class has at least one photo here.
        test: may be empty, and may lack classes (``notes`` say so).
        notes: each choice that was implied rather than asked for, to be shown to the user.
    """

    root: Path
    layout: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    notes: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One listed photo; ``split`` is None where the layout knows no splits."""

    path: str
    label: str
    split: Part | None
    where: str


@dataclass(frozen=True)
class Listing:
    """What a layout says, before any check across entries.

    Args:
        source: the file or folder that was read.
        names: class names by label, in class order; None where the labels are the names.
    """

    root: Path
    layout: str
    source: Path
    entries: tuple[Entry, ...]
    names: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
