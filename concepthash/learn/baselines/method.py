"""What a baseline is: a function fitted on features, whose signs are the bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
"""Features, scores or logits, ``(n, ...)`` float32."""

Labels = npt.NDArray[np.int64]

Kind = Literal["unsupervised", "classifier", "hash layer", "network"]
"""What was learned: nothing from labels, class scores, a hash layer, or a whole network."""


@dataclass(frozen=True)
class Training:
    """What a baseline may look at: the train split, seen several times.

    Args:
        views: ``(n, V, D)`` float32; view 0 is the photo as it is indexed, the rest are augmented.
        labels: ``(n,)`` int64 in 0..C-1.
        classes: C.
    """

    views: Vectors
    labels: Labels
    classes: int

    @property
    def plain(self) -> Vectors:
        """The photos as they are indexed, ``(n, D)``."""
        return self.views[:, 0]

    @property
    def rows(self) -> tuple[Vectors, Labels]:
        """Every view as an example of its own: ``(n V, D)`` and ``(n V,)``."""
        n, count, dim = self.views.shape
        return self.views.reshape(n * count, dim), np.repeat(self.labels, count)

    def select(self, photos: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Training:
        """Some of the photos, with all their views."""
        return Training(self.views[photos], self.labels[photos], self.classes)

    def mapped(self, encode: Encode) -> Training:
        """The same photos, each view passed through ``encode``."""
        rows = encode(self.rows[0])
        return Training(rows.reshape(*self.views.shape[:2], -1), self.labels, self.classes)


class Encode(Protocol):
    """Features ``(n, D)`` to real numbers ``(n, K)``, row by row; bit = number > 0."""

    def __call__(self, features: Vectors) -> Vectors:
        """Encode rows; a row's result does not depend on the others."""


class Fit(Protocol):
    """Learns K bits. All that is random follows from ``seed``."""

    def __call__(self, training: Training, *, bits: int, seed: int) -> Encode:
        """The encoder of ``bits`` bits."""


@dataclass(frozen=True)
class Embedding:
    """A real-valued space to hash in, and what was chosen for it on folds of the train split."""

    encode: Encode
    settings: Mapping[str, float] = field(default_factory=dict)


class Embed(Protocol):
    """Learns a space of the method's own width; nothing about it is random."""

    def __call__(self, training: Training) -> Embedding:
        """The space, such as class scores."""


@dataclass(frozen=True)
class Baseline:
    """A method of the table.

    Args:
        kind: what it learns.
        citation: authors, title, venue and year.
        fit: learns the bits, in the space of ``embed`` where there is one.
        embed: the space, also scored by itself as real numbers; None for the features.
    """

    kind: Kind
    citation: str
    fit: Fit
    embed: Embed | None = None


@dataclass(frozen=True)
class Affine:
    """``(x - mean) weight``, an :class:`Encode`: ``mean`` ``(D,)``, ``weight`` ``(D, K)``."""

    mean: Vectors
    weight: Vectors

    def __call__(self, features: Vectors) -> Vectors:
        """``(n, D)`` to ``(n, K)``."""
        return ((features - self.mean) @ self.weight).astype(np.float32)
