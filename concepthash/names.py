"""Names of concepts: checked before they are kept, and found again by name or by number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import normalize

from concepthash.errors import UsageError

LONGEST = 40
"""Characters of a name: tables have a column for each concept."""

APART = ",="
"""What sets names apart on a command line (``--weights head=2,wing=1``) is in none of them."""

_NUMBERED = re.compile(r"(c|concept)? *\d+", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")
_JOINERS = {0x200C: None, 0x200D: None}
"""They have no look of their own, and words of some scripts and emoji need them."""


def default_names(concepts: int) -> tuple[str, ...]:
    """The names nobody gave: "concept 0", "concept 1" and so on."""
    return tuple(f"concept {m}" for m in range(concepts))


def numbered(name: str) -> bool:
    """Whether a name reads as the number of a concept: "2", "c2", "concept 2"."""
    return _NUMBERED.fullmatch(name) is not None


def check_names(names: Sequence[str], *, where: object = "concept names") -> tuple[str, ...]:
    """The names in NFC, without spaces around them, if each can be shown, typed and told apart.

    Args:
        names: one a concept.
        where: they come from, for the error.

    Raises:
        UsageError: if one is empty, not printable, longer than :data:`LONGEST`, holds a character
            of :data:`APART`, reads as the number of a concept, or is there twice (whatever case).
    """
    own = default_names(len(names))
    found: list[str] = []
    for m, name in enumerate(map(_composed, names)):
        what = None if name == own[m] else _fault(name)
        hint = f"another name, such as {m}=head"
        same = [k for k, other in enumerate(found) if other.casefold() == name.casefold()]
        if same:
            what = f"is the name of concept {same[0]} too"
            hint = f"names for both in one command: --set {same[0]}=ONE --set {m}=OTHER"
        if what is not None:
            shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
            raise UsageError(f"concept {m}: {shown!r} {what}", where=where, hint=hint)
        found.append(name)
    return tuple(found)


def _composed(name: str) -> str:
    """Without spaces around it, and in NFC: "e" and an accent is the letter that it looks like."""
    return normalize("NFC", name.strip())


def _fault(name: str) -> str | None:
    visible = name.translate(_JOINERS)
    if not visible:
        return "is no name"
    if len(name) > LONGEST:
        return f"has {len(name)} characters, more than {LONGEST}"
    if not visible.isprintable():
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
    word = _composed(word)
    if not _INTEGER.fullmatch(word):
        found = [m for m, name in enumerate(names) if name == word]
        found = found or [m for m, name in enumerate(names) if name.casefold() == word.casefold()]
        if len(found) == 1:
            return found[0]
        what = f"{len(found) or 'no'} concepts are called {word!r}; there are {', '.join(names)}"
        raise UsageError(what, where=where, hint=hint)
    number = int(word)
    if 0 <= number < len(names):
        return number
    what = f"there is no concept {number}: they are 0 to {len(names) - 1}"
    raise UsageError(what, where=where, hint=hint)
