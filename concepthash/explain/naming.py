"""Names proposed for concepts, from annotated parts or from words that fit what they look at.

A proposal is a guess with its evidence beside it; nothing here writes a name anywhere.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from concepthash.errors import DataError, ImageError, Skipped
from concepthash.explain.covering import border_colour
from concepthash.explain.groups import part_group
from concepthash.explain.parts import cells_of_pixels, normalised_maps, peaks
from concepthash.explain.partscores import PartScores
from concepthash.explain.photos import Maps, Progress, look
from concepthash.images import Pixels
from concepthash.names import APART, LONGEST, numbered
from concepthash.runtime.hasher import Hasher

Table: TypeAlias = "npt.NDArray[np.float64]"
"""``(M, n)`` how well each of n names fits each concept, 0 for not at all."""

VOCABULARY = (
    # of animals
    "head", "eye", "beak", "ear", "crest", "throat", "neck", "breast", "belly", "back", "wing",
    "leg", "foot", "tail", "fur", "feather",
    # of vehicles
    "wheel", "headlight", "grille", "bumper", "windscreen", "door", "roof", "mirror", "engine",
    "cockpit", "fuselage", "propeller", "tail fin", "landing gear",
    # of things and plants
    "handle", "lid", "label", "button", "screen", "leaf", "petal", "stem", "sole", "collar",
    "sleeve", "edge", "background",
)  # fmt: skip
"""Words for the parts of things, where the user has none."""

_LOOKED_AT = 0.5
"""A concept looks at the cells where its map is above this share of its maximum."""
_WINDOW = 0.5
"""Side of the window round a peak, as a share of the crop's side."""
_EVIDENCE = 3


@dataclass(frozen=True)
class ProposedName:
    """A name for a concept.

    Args:
        concept: its number.
        name: fit to be kept, and told from those of the other proposals.
        confidence: share of the evidence that speaks for it, 0 to 1.
        evidence: the share of what it stands for, then of what else speaks most.
    """

    concept: int
    name: str
    confidence: float
    evidence: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def names_from_parts(scores: PartScores) -> tuple[ProposedName, ...]:
    """A name for each concept: the part group its peaks are nearest to most often.

    Concepts that lead with one group are told apart by its key points, as "head: beak" and "head:
    nape": see :func:`distinct`. The confidence is still the share of the group.

    Args:
        scores: of :func:`concepthash.explain.parts.score_parts`.
    """
    nearest = np.array(scores.nearest, float)
    shares = nearest / nearest.sum(axis=1, keepdims=True)
    leading = scores.leading_parts
    guesses = [
        _Guess(group, group, own[group], own)
        for group, own in zip(leading, scores.part_share, strict=True)
    ]
    for group in set(leading):
        rivals = [m for m, other in enumerate(leading) if other == group]
        if len(rivals) == 1:
            continue
        columns = [p for p, part in enumerate(scores.part_names) if part_group(part) == group]
        parts = [scores.part_names[column] for column in columns]
        among = shares[np.ix_(rivals, columns)]
        for concept, own, choice in zip(rivals, among.tolist(), distinct(among), strict=True):
            evidence = dict(zip(parts, own, strict=True))
            part = None if choice is None else parts[choice]
            guesses[concept] = _Guess(
                _within(group, part), part, guesses[concept].confidence, evidence
            )
    return _proposed(guesses)


def _within(group: str, part: str | None) -> str:
    if part is None:
        return group
    return part if group in part.split() else f"{group}: {part}"


def names_from_words(table: Table, words: Sequence[str]) -> tuple[ProposedName, ...]:
    """A name for each concept: of the words, the one that fits best; see :func:`distinct`.

    Args:
        table: ``(M, n)`` how well each word fits each concept, rows of sum 1.
        words: n.
    """
    guesses = []
    for row, choice in zip(table.tolist(), distinct(table), strict=True):
        word = words[row.index(max(row)) if choice is None else choice]
        evidence = dict(zip(words, row, strict=True))
        guesses.append(_Guess(word, word, evidence[word], evidence))
    return _proposed(guesses)


def distinct(table: Table) -> list[int | None]:
    """A column for each row, no column twice: the highest value first, and so on with the rest.

    A row whose values in the columns that are left are all 0 gets none.
    """
    left = np.array(table, float)
    chosen: list[int | None] = [None] * len(left)
    while left.size and left.max() > 0:
        row, column = np.unravel_index(left.argmax(), left.shape)
        chosen[int(row)] = int(column)
        left[row], left[:, column] = 0, 0
    return chosen


def read_words(file: Path) -> tuple[str, ...]:
    """The words of a vocabulary, one a line, each once; empty lines are left out.

    Raises:
        DataError: if the file cannot be read, or holds none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"the vocabulary cannot be read: {error}", where=file) from None
    words = tuple(dict.fromkeys(filter(None, map(str.strip, lines))))
    if not words:
        raise DataError("the vocabulary is empty", where=file, hint="one word a line")
    return words


def looked_at(
    hasher: Hasher,
    photos: Sequence[Path],
    *,
    skipped: Skipped,
    progress: Progress | None = None,
) -> Generator[Pixels, None, None]:
    """Stream what each concept looks at in each photo: see :func:`windows`.

    Args:
        hasher: of the bundle.
        photos: files.
        skipped: photos that cannot be read are added here.
        progress: called after every photo.

    Raises:
        DataError: at the end, if not one could be read.
        BackendError: if the graph cannot be computed.
    """
    seen = 0
    with closing(look(hasher, photos)) as found:
        for done, (position, one) in enumerate(found, 1):
            if isinstance(one, ImageError):
                skipped.add(photos[position], one.what)
            else:
                seen += 1
                yield windows(one.pixels, one.maps)
            if progress is not None:
                progress(done, len(photos))
    if not seen:
        raise DataError("not one photo could be read", where=photos[0], hint="--photos FOLDER")


def windows(pixels: Pixels, maps: Maps) -> Pixels:
    """What each concept looks at in one crop: ``(S, S, 3)``, ``(M, h, w)`` to ``(M, s, s, 3)``.

    A square of half the crop's side round the peak of the concept's map, moved into the crop where
    it would leave it. Cells where the map is not above half its maximum have the border's colour.
    """
    side = len(pixels)
    across = window_side(side)
    cells = cells_of_pixels(side, (maps.shape[1], maps.shape[2]))
    seen = (normalised_maps(maps) > _LOOKED_AT).reshape(len(maps), -1)[:, cells]
    shown = np.where(seen[..., None], pixels, border_colour(pixels))
    corners = window_corners(maps, side)
    return np.stack(
        [own[y : y + across, x : x + across] for own, (x, y) in zip(shown, corners, strict=True)]
    )


def window_side(side: int) -> int:
    """The side of the window round a peak, pixels, in a crop of ``side`` pixels."""
    return max(1, round(side * _WINDOW))


def window_corners(maps: Maps, side: int) -> npt.NDArray[np.intp]:
    """The left top corners of the windows round the peaks of maps, moved into the crop.

    ``(M, h, w)`` to ``(M, 2)``, x and y.
    """
    across = window_side(side)
    corners: npt.NDArray[np.intp] = np.rint(peaks(maps, side) - across / 2).astype(np.intp)
    return np.clip(corners, 0, side - across)


@dataclass(frozen=True)
class _Guess:
    """A name before it is told from the others, and which entry of the evidence it stands for."""

    name: str
    entry: str | None
    confidence: float
    evidence: Mapping[str, float]


def _proposed(guesses: Sequence[_Guess]) -> tuple[ProposedName, ...]:
    """Proposals by concept; of equal names the surest keeps it, the others get a number."""
    taken: set[str] = set()
    found = []
    for concept, guess in sorted(enumerate(guesses), key=lambda pair: -pair[1].confidence):
        name = plain = _fit(guess.name)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain[: LONGEST - 4]} {number}"
        taken.add(name.casefold())
        shares = guess.evidence
        best = sorted(shares, key=lambda entry: (entry != guess.entry, -shares[entry]))
        shown = {entry: shares[entry] for entry in best[:_EVIDENCE] if shares[entry] > 0}
        found.append(ProposedName(concept, name, guess.confidence, shown))
    return tuple(sorted(found, key=lambda proposal: proposal.concept))


def _fit(text: str) -> str:
    """The name of a part as the name of a concept: see :func:`concepthash.names.check_names`."""
    kept = "".join(c if c.isprintable() and c not in APART else " " for c in text)
    name = " ".join(kept.split())[:LONGEST].strip() or "part"
    return f"part {name}"[:LONGEST] if numbered(name) else name
