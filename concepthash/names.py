"""Names of concepts: checked before they are kept, and found again by name or by number."""

from __future__ import annotations

import re
from collections.abc import Sequence

from concepthash.errors import UsageError

LONGEST = 40
"""Characters of a name: tables have a column for each concept."""

APART = ",="
"""What sets names apart on a command line (``--weights head=2,wing=1``) is in none of them."""

_NUMBERED = re.compile(r"(c|concept)? *\d+", re.IGNORECASE)


def default_names(concepts: int) -> tuple[str, ...]:
    """The names nobody gave: "concept 0", "concept 1" and so on."""
    return tuple(f"concept {m}" for m in range(concepts))


def numbered(name: str) -> bool:
    """Whether a name reads as the number of a concept: "2", "c2", "concept 2"."""
    return _NUMBERED.fullmatch(name) is not None


def check_names(names: Sequence[str], *, where: object = "concept names") -> tuple[str, ...]:
    """The names without spaces around them, if each can be shown, typed and told from the others.

    Args:
        names: one a concept.
        where: they come from, for the error.

    Raises:
        UsageError: if one is empty, not printable, longer than :data:`LONGEST`, holds a character
            of :data:`APART`, reads as the number of a concept, or is there twice (whatever case).
    """
    own = default_names(len(names))
    found: list[str] = []
    for m, name in enumerate(map(str.strip, names)):
        what = None if name == own[m] else _fault(name)
        if name.casefold() in map(str.casefold, found):
            what = "is the name of two concepts"
        if what is not None:
            raise UsageError(
                f"concept {m}: {name!r} {what}", where=where, hint=f"another name, such as {m}=head"
            )
        found.append(name)
    return tuple(found)


def _fault(name: str) -> str | None:
    if not name:
        return "is no name"
    if len(name) > LONGEST:
        return f"has {len(name)} characters, more than {LONGEST}"
    if not name.isprintable():
        return "has characters that cannot be printed"
    if set(name) & set(APART):
        return "has a comma or an equals sign, which set names apart"
    return "reads as the number of a concept" if numbered(name) else None


def find_concept(word: str, names: Sequence[str], *, where: str, hint: str) -> int:
    """The concept a word stands for: its number or its name, in any case if that tells it apart.

    Args:
        word: as it was typed.
        names: of all concepts.
        where, hint: the option and an example of it, for the error.

    Raises:
        UsageError: if there is no such concept, or more than one.
    """
    word = word.strip()
    try:
        number = int(word)
    except ValueError:
        found = [m for m, name in enumerate(names) if name == word]
        found = found or [m for m, name in enumerate(names) if name.casefold() == word.casefold()]
        if len(found) == 1:
            return found[0]
        what = f"{len(found) or 'no'} concepts are called {word!r}; there are {', '.join(names)}"
        raise UsageError(what, where=where, hint=hint) from None
    if 0 <= number < len(names):
        return number
    what = f"there is no concept {number}: they are 0 to {len(names) - 1}"
    raise UsageError(what, where=where, hint=hint)
