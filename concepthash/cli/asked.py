"""What a search asks for, checked in the words of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from concepthash.errors import UsageError

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
    def parse(
        cls, top: str, radius: int | None, concepts: str | None, weights: str | None
    ) -> Asked:
        """Options as they were typed.

        Raises:
            UsageError: if one cannot mean anything, whatever the gallery.
        """
        if top != ALL and (not top.isdecimal() or int(top) < 1):
            raise UsageError(f"{top} hits cannot be shown", where="--top", hint="--top 10, or all")
        check_radius(radius)
        count = None if top == ALL else int(top)
        return cls(count, radius, _numbers(concepts, "--concepts"), _numbers(weights, "--weights"))

    def check(self, count: int) -> None:
        """Compare with the number of concepts of a gallery.

        Raises:
            UsageError: naming the option that does not fit.
        """
        if self.concepts is not None:
            wrong = [m for m in self.concepts if not 0 <= m < count]
            if wrong:
                raise UsageError(
                    f"there is no concept {wrong[0]}: the gallery has 0 to {count - 1}",
                    where="--concepts",
                    hint=f"--concepts {','.join(map(str, range(min(count, 2))))}",
                )
        if self.weights is not None:
            self._check_weights(self.weights, count)

    def _check_weights(self, weights: list[int], count: int) -> None:
        from concepthash.runtime.arguments import LARGEST_WEIGHT

        example = f"--weights {','.join(['2', *['1'] * (count - 1)])}"
        if len(weights) != count:
            what = f"{count} concepts need {count} weights, not {len(weights)}"
            raise UsageError(what, where="--weights", hint=example)
        if not all(0 <= weight <= LARGEST_WEIGHT for weight in weights):
            what = f"weights go from 0 to {LARGEST_WEIGHT}"
            raise UsageError(what, where="--weights", hint=example)
        counting = range(count) if self.concepts is None else self.concepts
        if not any(weights[m] for m in counting):
            raise UsageError(
                "no concept that counts has a weight above 0: every image would be equally near",
                where="--weights",
                hint=example,
            )


def check_radius(radius: int | None) -> None:
    """Refuse a radius that no distance can have.

    Raises:
        UsageError: if it is below 0.
    """
    if radius is not None and radius < 0:
        raise UsageError(f"no distance is {radius} or less", where="--radius", hint="--radius 8")


def _numbers(text: str | None, option: str) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{text!r} is not a list of whole numbers", where=option, hint=f"{option} 2,1,0,1"
        ) from None
