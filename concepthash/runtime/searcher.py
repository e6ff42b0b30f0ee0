"""What any search back end offers: on this CPU, on a GPU, or over several machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy.typing as npt

if TYPE_CHECKING:
    from concepthash.runtime.index import Hits


@runtime_checkable
class Searcher(Protocol):
    """Codes that can be searched exactly; :class:`concepthash.runtime.HammingIndex` is one.

    Every back end gives equal answers: hits in (distance, id) order, ties at the last place
    included, whatever its threads, devices or shards.
    """

    @property
    def bits(self) -> int:
        """K, bits of a code."""

    @property
    def concepts(self) -> int:
        """M, concepts of a code."""

    def __len__(self) -> int: ...

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        concepts: Iterable[int] | None = None,
        weights: Sequence[int] | npt.ArrayLike | None = None,
        radius: int | None = None,
        where: npt.ArrayLike | None = None,
    ) -> Hits:
        """The k nearest codes of each query, as :meth:`concepthash.runtime.HammingIndex.search`.

        Raises:
            MismatchError: if the queries do not have this width.
            UsageError: if another argument is out of range.
        """
