"""What a caller may hand to an index, checked: each function returns the value or says why not."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.errors import MismatchError, UsageError
from concepthash.runtime.planes import Ids

LARGEST_ID = int(np.iinfo(np.int64).max)
"""Ids are int64 from 0 to this."""

LARGEST_WEIGHT = 255
"""Weights are small, so that distances stay small integers."""


def check_count(value: object, name: str) -> int:
    """A non-negative integer argument."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(
            f"{name} is an integer, 0 or more, not {value!r}", where=name, hint=f"{name}=10"
        )
    return number


def _array(values: npt.ArrayLike) -> npt.NDArray[Any]:
    """Any array; what numpy cannot shape is one of objects, an empty list one of integers."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return np.empty(1, dtype=object)
    return array.astype(np.int64) if array.size == 0 and array.dtype == np.float64 else array


def _integers(values: npt.ArrayLike, name: str, hint: str) -> npt.NDArray[Any]:
    array = _array(values)
    if array.dtype.kind not in "iu":
        raise UsageError(f"{name} must be integers, not {array.dtype}", where=name, hint=hint)
    return array


def check_ids(ids: npt.ArrayLike, name: str = "ids") -> Ids:
    """Ids as ``(n,)`` int64; one number is an array of one."""
    array = _integers(ids, name, "an int64 array with one id a code")
    if array.ndim > 1:
        raise UsageError(
            f"{name} must have one dimension, not {array.ndim}", where=name, hint="ids.ravel()"
        )
    array = np.atleast_1d(array)
    if array.size and (array.min() < 0 or int(array.max()) > LARGEST_ID):
        raise UsageError(
            f"{name} lie between 0 and {LARGEST_ID}",
            where=name,
            hint="-1 marks a missing hit, so ids start at 0",
        )
    return array.astype(np.int64)


def check_where(where: npt.ArrayLike, count: int) -> npt.NDArray[np.bool_] | Ids:
    """A filter over ``count`` codes: booleans, one a code, or ids."""
    array = _array(where)
    if array.dtype != bool:
        return check_ids(array, "where")
    if array.shape != (count,):
        raise MismatchError(
            f"a boolean filter needs one entry a code, {count}, got shape {array.shape}",
            where="where",
            hint="align it with index.ids, or give an array of ids",
        )
    return array


def check_concepts(concepts: Iterable[int], count: int) -> set[int]:
    """The concepts named, each known and at least one."""
    known = f"some of 0..{count - 1}, such as concepts=[0]"
    try:
        chosen = {operator.index(concept) for concept in concepts}
    except TypeError as error:
        raise UsageError(
            f"concepts are numbers, not {concepts!r}", where="concepts", hint=known
        ) from error
    unknown = sorted(concept for concept in chosen if not 0 <= concept < count)
    if unknown:
        raise UsageError(f"no such concept: {unknown}", where="concepts", hint=known)
    if not chosen:
        raise UsageError("no concept is left to compare", where="concepts", hint=known)
    return chosen


def some(ids: Ids) -> str:
    """Ids for a message, the first ten of them."""
    shown = ", ".join(str(number) for number in ids[:10].tolist())
    return shown if len(ids) <= 10 else f"{shown} and {len(ids) - 10} more"


def check_weights(weights: npt.ArrayLike, count: int) -> list[int]:
    """``count`` integer weights."""
    array = _integers(weights, "weights", f"{count} integers, such as {[1] * count}")
    if array.shape != (count,):
        raise UsageError(
            f"{count} concepts need {count} weights, got shape {array.shape}",
            where="weights",
            hint="one weight a concept",
        )
    if array.min() < 0 or array.max() > LARGEST_WEIGHT:
        raise UsageError(
            f"weights are integers from 0 to {LARGEST_WEIGHT}, got {array.tolist()}",
            where="weights",
            hint="scale them to small integers",
        )
    return [int(value) for value in array]


def weights_asked(
    concepts: Iterable[int] | None, weights: npt.ArrayLike | None, count: int
) -> list[int]:
    """One weight for each of ``count`` concepts, 0 where one does not count."""
    values = [1] * count if weights is None else check_weights(weights, count)
    if concepts is None:
        return values
    chosen = check_concepts(concepts, count)
    return [value if m in chosen else 0 for m, value in enumerate(values)]
