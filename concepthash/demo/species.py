"""Drawn bird species: five parts, six looks a part, and names that say them.

A species is one look for each part. The species handed out form a code of distance two (the looks'
numbers sum to a multiple of six), so no two of them differ in a single part, and each is chosen
two or three parts away from an earlier one, so each has look-alikes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from concepthash.errors import UsageError

LOOKS: dict[str, tuple[str, ...]] = {
    "crest": ("crestless", *(f"{c}-crested" for c in ("red", "yellow", "blue", "white", "black"))),
    "beak": tuple(f"{b}-billed" for b in ("yellow", "red", "long", "curve", "hook", "thick")),
    "breast": tuple(
        f"{b}-breasted" for b in ("plain", "red", "yellow", "white", "spotted", "striped")
    ),
    "wing": tuple(f"{w}-winged" for w in ("plain", "barred", "spotted", "blue", "green", "red")),
    "tail": tuple(f"{t}-tailed" for t in ("short", "long", "fork", "fan", "white", "band")),
}
"""The looks of each part that tells species apart, in the order a name says them."""

_CHOICES = 6
MAX_SPECIES = _CHOICES ** (len(LOOKS) - 1)
"""How many species there are: 1296."""


@dataclass(frozen=True)
class Species:
    """One look for each telling part, as in :data:`LOOKS`.

    Raises:
        UsageError: if a look is not one of its part's.
    """

    crest: str
    beak: str
    breast: str
    wing: str
    tail: str

    def __post_init__(self) -> None:
        for part, look in self.attributes.items():
            if look not in LOOKS[part]:
                raise UsageError(
                    f"no bird here has a {part} that is {look!r}",
                    where=part,
                    hint=f"one of {', '.join(LOOKS[part])}",
                )

    @property
    def attributes(self) -> dict[str, str]:
        """The look of each part, by part name."""
        return {part: getattr(self, part) for part in LOOKS}

    @property
    def name(self) -> str:
        """The name, unique to the species: "red-crested hook-billed ... fork-tailed bird"."""
        return " ".join([*self.attributes.values(), "bird"])

    @property
    def slug(self) -> str:
        """The name as a folder name: underscores for spaces."""
        return self.name.replace(" ", "_")

    def differences(self, other: Species) -> tuple[str, ...]:
        """The parts in which two species differ."""
        return tuple(part for part in LOOKS if getattr(self, part) != getattr(other, part))


def species(count: int, seed: int = 0) -> list[Species]:
    """The first ``count`` species of a seed; a longer list starts with the shorter one.

    Any two differ in at least two parts; each (if there are two or more) has a look-alike that
    differs in two or three.

    Raises:
        UsageError: if there are not that many, or the seed is negative.
    """
    if not 1 <= count <= MAX_SPECIES:
        raise UsageError(
            f"from 1 to {MAX_SPECIES} species can be drawn, not {count}", where="species"
        )
    if seed < 0:
        raise UsageError(f"a seed is not negative, but this one is {seed}", where="seed")
    rng = np.random.default_rng([seed, 0])
    grid = np.array(list(itertools.product(range(_CHOICES), repeat=len(LOOKS))))
    words = grid[grid.sum(axis=1) % _CHOICES == 0]
    free = np.ones(len(words), dtype=bool)
    uses = np.zeros((len(LOOKS), _CHOICES), dtype=int)
    chosen: list[int] = []
    while len(chosen) < count:
        near = free
        if chosen:
            parent = chosen[int(rng.integers(len(chosen)))]
            near = free & ((words != words[parent]).sum(axis=1) == rng.integers(2, 4))
        candidates = np.flatnonzero(near)
        if not len(candidates):
            continue
        # the least used looks first, so that a short list shows every look
        used = uses[np.arange(len(LOOKS)), words[candidates]].sum(axis=1)
        child = int(rng.choice(candidates[used == used.min()]))
        chosen.append(child)
        free[child] = False
        uses[np.arange(len(LOOKS)), words[child]] += 1
    return [
        Species(*(looks[i] for looks, i in zip(LOOKS.values(), words[word], strict=True)))
        for word in chosen
    ]
