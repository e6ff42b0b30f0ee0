"""What a search asks for, from how a client wrote it."""

from __future__ import annotations

from collections.abc import Sequence

from concepthash.errors import UsageError
from concepthash.names import LONGEST, find_concept
from concepthash.runtime.arguments import LARGEST_WEIGHT
from concepthash.serve.held import Asked
from concepthash.serve.replies import Refused
from concepthash.serve.schemas import QueryAsking

_DIGITS = 9


def asked_of(asking: QueryAsking, names: Sequence[str]) -> Asked:
    """The search, written in one way, so that those who ask alike are searched together.

    Args:
        asking: checked by its types.
        names: of all concepts of the gallery.

    Raises:
        Refused: if concepts or weights do not fit the gallery.
    """
    concepts = None if asking.concepts is None else _chosen(asking.concepts, names)
    weights = None if asking.weights is None else _weighed(asking.weights, len(names))
    if weights is not None and not any(weights[m] for m in concepts or range(len(names))):
        raise _refused("weights", "no concept that counts has a weight above 0", len(names))
    labels = None
    if asking.labels is not None:
        found = {label or None for label in asking.labels}
        labels = tuple(sorted(found, key=lambda label: (label is not None, label or "")))
        if not labels:
            raise Refused(400, "no label is left to look for", where="labels")
    if concepts is not None and len(concepts) == len(names):
        concepts = None
    if weights is not None and set(weights) == {1}:
        weights = None
    return Asked(asking.k, asking.radius, concepts, weights, labels)


def _chosen(given: str | list[str | int], names: Sequence[str]) -> tuple[int, ...]:
    words = given.split(",") if isinstance(given, str) else [str(word) for word in given]
    hint = "concepts=0,1, or their names"
    if long := next((word for word in words if len(word) > 2 * LONGEST), None):
        what = f"no concept is called {long[:LONGEST]}..."
        raise Refused(400, what, where="concepts", hint=hint)
    try:
        found = {find_concept(word, names, where="concepts", hint=hint) for word in words}
    except UsageError as error:
        raise Refused(400, error.what, where=error.where, hint=error.hint) from None
    if not found:
        raise Refused(400, "no concept is left to compare", where="concepts", hint=hint)
    return tuple(sorted(found))


def _weighed(given: str | list[int], count: int) -> tuple[int, ...]:
    if isinstance(given, str):
        words = [word.strip() for word in given.split(",")]
        for word in words:
            if not (word.isascii() and word.isdecimal() and len(word) <= _DIGITS):
                raise _refused("weights", f"{word[:40]!r} is no weight", count)
        weights = tuple(map(int, words))
    else:
        weights = tuple(given)
    if len(weights) != count:
        raise _refused(
            "weights", f"{count} concepts need {count} weights, not {len(weights)}", count
        )
    if max(weights) > LARGEST_WEIGHT:
        raise _refused("weights", f"weights go from 0 to {LARGEST_WEIGHT}", count)
    return weights


def _refused(where: str, what: str, count: int) -> Refused:
    return Refused(400, what, where=where, hint=f"weights={','.join(['2', *['1'] * (count - 1)])}")
