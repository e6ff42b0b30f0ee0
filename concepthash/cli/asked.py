"""What a search asks for, checked in the words of the command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from concepthash.errors import UsageError
from concepthash.names import find_concept, numbered

ALL = "all"


@dataclass(frozen=True)
class Asked:
    """How many hits, and what counts.

    Args:
        top: hits a query; None for all there are.
        radius: the largest distance of a hit; None for any.
        concepts: those that count; None for all.
        weights: one a concept; None for 1 each.
    """

    top: int | None = 10
    radius: int | None = None
    concepts: list[int] | None = None
    weights: list[int] | None = None

    @classmethod
    def parse(cls, top: str, radius: int | None) -> Asked:
        """How many hits, as it was typed.

        Raises:
            UsageError: if it cannot mean anything, whatever the gallery.
        """
        if top != ALL and (not top.isdecimal() or int(top) < 1):
            raise UsageError(f"{top} hits cannot be shown", where="--top", hint="--top 10, or all")
        check_radius(radius)
        return cls(None if top == ALL else int(top), radius)

    def by(self, concepts: str | None, weights: str | None, names: Sequence[str]) -> Asked:
        """The same, by some concepts or weights of them, as they were typed.

        Args:
            concepts: numbers or names, as ``0,wing``.
            weights: a number for each concept, as ``2,1,0,1``, or for some by number or name, as
                ``wing=2``: then the others count once.
            names: of all concepts of the gallery.

        Raises:
            UsageError: naming the option that does not fit the concepts.
        """
        chosen = None if concepts is None else _chosen(concepts, names)
        weighed = None if weights is None else _weighed(weights, names)
        if weighed is not None:
            _check_weights(weighed, chosen, len(names))
        return replace(self, concepts=chosen, weights=weighed)


def check_radius(radius: int | None) -> None:
    """Refuse a radius that no distance can have.

    Raises:
        UsageError: if it is below 0.
    """
    if radius is not None and radius < 0:
        raise UsageError(f"no distance is {radius} or less", where="--radius", hint="--radius 8")


def _chosen(text: str, names: Sequence[str]) -> list[int]:
    words = (str(m) if numbered(name) else name for m, name in enumerate(names[:2]))
    hint = f"--concepts {shlex.quote(','.join(words))}"
    return [find_concept(word, names, where="--concepts", hint=hint) for word in text.split(",")]


def _weighed(text: str, names: Sequence[str]) -> list[int]:
    if "=" not in text:
        return [_weight(word, len(names)) for word in text.split(",")]
    weights: dict[int, int] = {}
    for pair in text.split(","):
        word, equals, value = pair.partition("=")
        if not equals:
            raise _refused(f"{pair!r} is the weight of no concept", len(names))
        concept = find_concept(word, names, where="--weights", hint=_example(len(names)))
        if concept in weights:
            raise _refused(f"concept {concept} has two weights", len(names))
        weights[concept] = _weight(value, len(names))
    return [weights.get(m, 1) for m in range(len(names))]


def _weight(text: str, count: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise _refused(f"{text!r} is not a whole number", count) from None


def _check_weights(weights: list[int], concepts: list[int] | None, count: int) -> None:
    from concepthash.runtime.arguments import LARGEST_WEIGHT

    chosen = range(count) if concepts is None else concepts
    what = None
    if len(weights) != count:
        what = f"{count} concepts need {count} weights, not {len(weights)}"
    elif not all(0 <= weight <= LARGEST_WEIGHT for weight in weights):
        what = f"weights go from 0 to {LARGEST_WEIGHT}"
    elif not any(weights[m] for m in chosen):
        what = "no concept that counts has a weight above 0: every image would be equally near"
    if what is not None:
        raise _refused(what, count)
    # 1 is what every concept has, and 0 leaves one out.
    ignored = [m for m in range(count) if m not in chosen and weights[m] > 1]
    if ignored:
        both = ",".join(map(str, sorted({*chosen, *ignored})))
        raise UsageError(
            f"concept {ignored[0]} has a weight of {weights[ignored[0]]} but does not count",
            where="--concepts and --weights",
            hint=f"--concepts {both}, or leave its weight out",
        )


def _refused(what: str, count: int) -> UsageError:
    return UsageError(what, where="--weights", hint=_example(count))


def _example(count: int) -> str:
    return f"--weights {','.join(['2', *['1'] * (count - 1)])}"
