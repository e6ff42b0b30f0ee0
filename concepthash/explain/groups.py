"""The part groups of design section 6: key points and mask parts that one concept may stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

GROUPS: Mapping[str, tuple[str, ...]] = {
    "head": ("beak", "crown", "forehead", "eye", "nape", "throat", "head", "crest"),
    "torso": ("back", "belly", "breast", "body"),
    "wing": ("wing",),
    "leg": ("leg", "legs"),
    "tail": ("tail",),
}
"""Group -> the names of CUB-200-2011's key points and of the drawn birds' masks, without sides."""

_SIDES = ("left ", "right ")
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def part_group(part: str) -> str:
    """The group of a part: "left eye" is of "head"; a name that is in no group is its own.

    A leading "left " or "right " is left out first: what a code tells is the same on both sides.
    """
    name = part.strip()
    for side in _SIDES:
        name = name.removeprefix(side)
    return _GROUP_OF.get(name, name)


def groups_of(parts: Iterable[str]) -> tuple[str, ...]:
    """The groups of some parts, each once: those of :data:`GROUPS` first, in its order."""
    found = dict.fromkeys(part_group(part) for part in parts)
    known = [group for group in GROUPS if group in found]
    return (*known, *(group for group in found if group not in GROUPS))
